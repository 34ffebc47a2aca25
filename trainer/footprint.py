"""How much memory the UNet takes: to train, to score, and on the disk. PURE: settings in, bytes out. No torch.

Counted layer by layer as autograd keeps it, in the order of `unet.py` and `losses.py`; a test holds the sums against
what torch really keeps. What a driver adds is not torch's to say: `ON_A_GPU_BYTES` and `ALLOCATOR_SHARE` are what the
field reports. Knows nothing about which device there is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from .config import Amp, LossConfig, ModelConfig, Optimizer

LEVELS = 5
FLOAT = 4
HALF = 2
INDEX = 8
"""Bytes of a pooling index and of a target: int64."""
ON_A_GPU_BYTES = 600_000_000
"""A CUDA context with the kernels of torch and cuDNN, for each process that uses the GPU: 0.4 to 0.7 GB."""
ALLOCATOR_SHARE = 0.08
"""What torch's caching allocator rounds up, and cuDNN's workspaces: of the tensors, on top."""
MOMENTS = {Optimizer.ADAMW: 2, Optimizer.RMSPROP: 2, Optimizer.SGD: 1}
"""Numbers that the optimizer keeps for each weight (RMSprop with its momentum)."""


@dataclass(frozen=True)
class _Block:
    """A DoubleConv, with what stands before it."""

    level: int
    """Pixels are those of the image, halved so many times."""
    into: int
    """Channels that its first convolution reads."""
    mid: int
    out: int
    up_from: int = 0
    """Channels that a transposed convolution halves on the way to it; 0 where there is none."""
    joins: bool = False
    """Whether its input is the skip and the way up side by side."""


@dataclass(frozen=True)
class Network:
    """The UNet of `[model]` with so many classes."""

    base_channels: int
    classes: int
    bilinear: bool = False

    @classmethod
    def of(cls, model: ModelConfig, classes: int) -> Network:
        return cls(model.base_channels, classes, bilinear=model.upsampling == "bilinear")

    @cached_property
    def blocks(self) -> tuple[_Block, ...]:
        """Top to bottom, then up again."""
        base, low = self.base_channels, 2 if self.bilinear else 1
        deepest = LEVELS - 1
        down = [_Block(0, 3, base, base)]
        for level in range(1, LEVELS):
            out = base * 2**level // (low if level == deepest else 1)
            down.append(_Block(level, base * 2 ** (level - 1), out, out))
        up = []
        for level in reversed(range(deepest)):
            width = base * 2**level
            out = width if level == 0 else width // low
            up_from = 0 if self.bilinear else 2 * width
            up.append(_Block(level, 2 * width, width, out, up_from=up_from, joins=True))
        return (*down, *up)

    @property
    def parameters(self) -> int:
        """Weights that are learned; BatchNorm's among them, its running statistics not."""
        convolutions = sum(9 * (b.into * b.mid + b.mid * b.out) + 2 * (b.mid + b.out) for b in self.blocks)
        ways_up = sum(4 * b.up_from * (b.up_from // 2) + b.up_from // 2 for b in self.blocks if b.up_from)
        return convolutions + ways_up + (self.base_channels + 1) * self.classes

    @property
    def file_bytes(self) -> int:
        """Of a checkpoint's weights, with BatchNorm's statistics; without the few kilobytes of names."""
        return FLOAT * (self.parameters + sum(2 * (block.mid + block.out) for block in self.blocks))

    def state_bytes(self, optimizer: Optimizer) -> int:
        """Of a checkpoint's training state: the optimizer's moments."""
        return FLOAT * MOMENTS[optimizer] * self.parameters

    @property
    def largest_weight(self) -> int:
        return max(9 * max(block.into * block.mid, block.mid * block.out) for block in self.blocks)


@dataclass(frozen=True)
class Training:
    """One micro-batch on its way through `network` and back."""

    network: Network
    batch_size: int
    height: int
    """Pixels, after scaling; as `width`."""
    width: int
    amp: Amp = Amp.OFF
    optimizer: Optimizer = Optimizer.ADAMW
    loss: LossConfig = field(default_factory=LossConfig)
    accumulates: bool = False
    """Whether gradients of an earlier micro-batch are there already."""

    @property
    def peak_bytes(self) -> int:
        """Bytes of tensors at the worst moment of a step, from the second one on: early in the way back, when all is
        still kept; or, where images are small beside the weights, half way, when most gradients are there.
        """
        parameters = self.network.parameters
        fixed = FLOAT * (1 + MOMENTS[self.optimizer]) * parameters
        fixed += HALF * parameters if self.amp is not Amp.OFF else 0
        gradients = FLOAT * parameters
        early = self.kept_bytes + self._way_back_bytes + (gradients if self.accumulates else 0)
        half_way = gradients + self._encoder_bytes + FLOAT * self.network.largest_weight // 2
        return fixed + max(early, half_way)

    @property
    def kept_bytes(self) -> int:
        """What the forward pass keeps for the way back, weights aside."""
        return sum(self._kept()) + self._loss_bytes

    @property
    def on_a_gpu_bytes(self) -> int:
        """`peak_bytes` with what a driver and an allocator add."""
        return on_a_gpu(self.peak_bytes)

    def _pixels(self, level: int) -> int:
        return self.batch_size * (self.height >> level) * (self.width >> level)

    @property
    def _number(self) -> int:
        """Bytes of a number in the forward pass."""
        return FLOAT if self.amp is Amp.OFF else HALF

    def _kept(self) -> Iterator[int]:
        yield self._pixels(0) * 3 * (FLOAT + (HALF if self.amp is not Amp.OFF else 0))
        yield from (self._of_block(block) for block in self.network.blocks)

    def _of_block(self, block: _Block) -> int:
        """Each convolution keeps its input, each BatchNorm as well; ReLU works in place and shares its output."""
        pixels = self._pixels(block.level)
        numbers = 2 * (block.mid + block.out)
        indices = 0
        if block.joins:
            numbers += block.into
        elif block.level:
            numbers += block.into  # the pooled input
            indices = block.into
        return pixels * (self._number * numbers + INDEX * indices)

    @property
    def _encoder_bytes(self) -> int:
        return sum(self._of_block(block) for block in self.network.blocks if not block.joins)

    @property
    def _loss_bytes(self) -> int:
        """Logits, their log-softmax and the target; the losses over regions keep probabilities and masks as well."""
        classes, loss = self.network.classes, self.loss
        each = (self._number + FLOAT) * classes + INDEX
        if self._over_regions:
            each += FLOAT * classes
        if loss.dice or loss.tversky:
            each += classes + 1
        if loss.lovasz:
            each += (FLOAT + 1) * classes
        if loss.focal:
            each += 6 * FLOAT
        return self._pixels(0) * each

    @property
    def _over_regions(self) -> bool:
        return bool(self.loss.dice or self.loss.tversky or self.loss.lovasz)

    @property
    def _way_back_bytes(self) -> int:
        """What comes on top at its beginning: two or three gradients of the logits; or, once what the loss kept is
        gone, two of the last block's output.
        """
        classes = self.network.classes
        of_loss = 3 * FLOAT * classes - (classes + 1) if self._over_regions else 2 * FLOAT * classes
        of_block = 2 * self._number * self.network.base_channels - (2 * FLOAT + 1) * classes
        return self._pixels(0) * max(of_loss, of_block, 0)


def scoring_bytes(network: Network, batch_size: int, height: int, width: int) -> int:
    """Bytes of tensors while a batch is scored, at the worst moment: in the last block, with all skips still there.

    Images and masks (5 bytes a pixel) and logits (float32) are among them.
    """
    base = network.base_channels
    pixels = batch_size * height * width
    skips: float = sum(base / 2**level for level in range(LEVELS - 1))
    joined = 2 * base  # beside the way up that was joined, and what it came from
    before = base + base * (1 if network.bilinear else 2) / 4
    numbers = pixels * (skips + joined + before + 2 * base + 3)
    return FLOAT * network.parameters + int(FLOAT * numbers) + 5 * pixels


def on_a_gpu(tensor_bytes: int) -> int:
    """Of a process that holds so many bytes of tensors."""
    return ON_A_GPU_BYTES + round((1 + ALLOCATOR_SHARE) * tensor_bytes)
