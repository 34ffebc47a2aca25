"""The 3x3 convolution of the UNet, with a quicker weight gradient on CPUs without AVX-512.

There oneDNN has no kernel for it in channels_last but a general one, which takes twice as long as the same gradient as
nine matrix products (docs/decisions/0016). Knows nothing about networks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

LEAST_CHANNELS = 32
"""With fewer the matrices are too narrow: oneDNN's kernel is as fast."""
ROWS = 16384
"""Pixels at once, so that both operands of the nine products stay in the processor's cache."""
SLOW_ONLY_ON = "AVX2"


class Conv3x3(nn.Conv2d):
    """(N, C_in, H, W) -> (N, C_out, H, W): padded by 1, without bias."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if not self._by_products(x):
            return super().forward(x)
        out: Tensor = _ByProducts.apply(x, self.weight)  # type: ignore[no-untyped-call]
        return out

    def _by_products(self, x: Tensor) -> bool:
        return (
            x.device.type == "cpu"
            and x.dtype == torch.float32
            and min(self.in_channels, self.out_channels) >= LEAST_CHANNELS
            and torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
            and not torch.is_autocast_enabled("cpu")
            and x.is_contiguous(memory_format=torch.channels_last)
            and torch.backends.cpu.get_cpu_capability() == SLOW_ONLY_ON
        )


class _ByProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, padding=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        wants_input, wants_weight = ctx.needs_input_grad
        of_input: Tensor | None = None
        if wants_input:
            of_input = conv2d_input(x.shape, weight, gradient, padding=1)  # type: ignore[no-untyped-call]
        return of_input, weight_gradient(x, gradient) if wants_weight else None


def weight_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """(N, C_in, H, W) and (N, C_out, H, W) -> (C_out, C_in, 3, 3) of a 3x3 convolution padded by 1.

    With the padding in memory, a shift by rows and columns is one offset into the list of all pixels, and each of the
    nine weights is a matrix product of two slices. What wraps around meets a gradient of 0: that of the padding.
    """
    pixels, line = _padded(x), x.shape[3] + 2
    gradients = _padded(gradient)
    margin = line + 1
    out = x.new_zeros(3, 3, gradient.shape[1], x.shape[1])
    for begin in range(margin, len(pixels) - margin, ROWS):
        end = min(begin + ROWS, len(pixels) - margin)
        turned = gradients[begin:end].t()
        for row in range(3):
            for column in range(3):
                shift = (row - 1) * line + column - 1
                out[row, column].addmm_(turned, pixels[begin + shift : end + shift])
    return out.permute(2, 3, 0, 1).contiguous(memory_format=torch.channels_last)


def _padded(images: Tensor) -> Tensor:
    """(N, C, H, W) -> (N * (H + 2) * (W + 2), C). By hand: `pad` first fills all of it, and then copies."""
    count, channels, height, width = images.shape
    padded = images.new_empty(count, height + 2, width + 2, channels)
    padded[:, [0, -1]] = 0
    padded[:, :, [0, -1]] = 0
    padded[:, 1:-1, 1:-1] = images.permute(0, 2, 3, 1)
    return padded.view(-1, channels)
