"""The UNet of Ronneberger et al. (2015, arXiv:1505.04597) as the field builds it: BatchNorm, padded convolutions.

Parameter names are those of the widespread PyTorch implementation, so that its checkpoints can be scored as well.
Knows nothing about losses, data or training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .convolution import Conv3x3


class DoubleConv(nn.Module):
    """(N, C_in, H, W) -> (N, C_out, H, W): twice 3x3 convolution, BatchNorm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, mid_channels: int | None = None) -> None:
        super().__init__()
        mid = out_channels if mid_channels is None else mid_channels
        self.double_conv = nn.Sequential(
            Conv3x3(in_channels, mid),
            nn.BatchNorm2d(mid),
            nn.ReLU(inplace=True),
            Conv3x3(mid, out_channels),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.double_conv(x)
        return out


class Down(nn.Module):
    """(N, C_in, H, W) -> (N, C_out, H // 2, W // 2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(in_channels, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.maxpool_conv(x)
        return out


class Up(nn.Module):
    """(N, C_low, h, w) and the skip (N, C_in / 2, H, W) -> (N, C_out, H, W), C_in channels side by side.

    C_low is C_in where the way up is learnt, C_in / 2 where it is bilinear: that has no weights to halve them with.
    """

    def __init__(self, in_channels: int, out_channels: int, *, bilinear: bool) -> None:
        super().__init__()
        half = in_channels // 2
        self.up: nn.Module
        if bilinear:
            self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            self.conv = DoubleConv(in_channels, out_channels, half)
        else:
            self.up = nn.ConvTranspose2d(in_channels, half, kernel_size=2, stride=2)
            self.conv = DoubleConv(in_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.up(x)
        missing_rows, missing_columns = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
        if missing_rows or missing_columns:  # an odd side lost one pixel on the way down
            left, top = missing_columns // 2, missing_rows // 2
            x = F.pad(x, [left, missing_columns - left, top, missing_rows - top])
        out: Tensor = self.conv(torch.cat([skip, x], dim=1))
        return out


class OutConv(nn.Module):
    def __init__(self, in_channels: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, classes, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class UNet(nn.Module):
    """Images (N, in_channels, H, W) in [0, 1] -> logits (N, classes, H, W), for any H and W of at least 16.

    With base_channels = 64 and 14 classes it has 31.04 M parameters, 17.26 M where it is bilinear.
    """

    def __init__(self, *, classes: int, base_channels: int = 64, in_channels: int = 3, bilinear: bool = False) -> None:
        super().__init__()
        c = base_channels
        low = 2 if bilinear else 1  # each level hands up half the channels, which a transposed convolution would halve
        self.inc = DoubleConv(in_channels, c)
        self.down1 = Down(c, 2 * c)
        self.down2 = Down(2 * c, 4 * c)
        self.down3 = Down(4 * c, 8 * c)
        self.down4 = Down(8 * c, 16 * c // low)
        self.up1 = Up(16 * c, 8 * c // low, bilinear=bilinear)
        self.up2 = Up(8 * c, 4 * c // low, bilinear=bilinear)
        self.up3 = Up(4 * c, 2 * c // low, bilinear=bilinear)
        self.up4 = Up(2 * c, c, bilinear=bilinear)
        self.outc = OutConv(c, classes)

    def forward(self, images: Tensor) -> Tensor:
        x1 = self.inc(images)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x4 = self.down3(x3)
        x5 = self.down4(x4)
        x = self.up1(x5, x4)
        x = self.up2(x, x3)
        x = self.up3(x, x2)
        x = self.up4(x, x1)
        logits: Tensor = self.outc(x)
        return logits
