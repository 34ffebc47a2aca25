"""The `[model]`, `[loss]` and `[trainer]` tables of run.toml, with the careful defaults. No torch."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from ..section import Section


class Amp(StrEnum):
    """The precision of the forward pass."""

    OFF = "off"
    BF16 = "bf16"
    FP16 = "fp16"


class Optimizer(StrEnum):
    ADAMW = "adamw"
    RMSPROP = "rmsprop"
    SGD = "sgd"


class ModelConfig(Section):
    name: Literal["unet"] = "unet"
    base_channels: Annotated[int, Field(ge=1, le=512)] = 64
    """Channels of the first level, doubled four times. 64 is the published UNet, 31 M parameters."""


class LossConfig(Section):
    """Weighted sum of cross-entropy and soft Dice over the classes present; ignored pixels count in neither."""

    cross_entropy: Annotated[float, Field(ge=0)] = 1.0
    dice: Annotated[float, Field(ge=0)] = 1.0


class TrainerConfig(Section):
    epochs: Annotated[int, Field(ge=1)] = 100
    batch_size: Annotated[int, Field(ge=1)] = 1
    """Images per forward pass."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Forward passes per optimizer step: the effective batch is batch_size x accumulate."""
    lr: Annotated[float, Field(gt=0)] = 5e-5
    schedule: Literal["constant", "poly", "cosine"] = "constant"
    """How the learning rate falls over the run: not, (1 - t)^0.9, or half a cosine."""
    optimizer: Optimizer = Optimizer.ADAMW
    weight_decay: Annotated[float, Field(ge=0)] = 1e-8
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """For rmsprop and sgd. 0.999 with rmsprop is a known road to NaN."""
    amp: Amp = Amp.OFF
    """Mixed precision. Off to begin with: fp16 overflows at 65504."""
    clip_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are scaled down to this norm."""
    seed: Annotated[int, Field(ge=0)] = 0
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    recovery_seconds: Annotated[float, Field(gt=0)] = 300.0
    """How often the state is saved inside a long epoch."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of torch; 0 leaves the choice to torch. Part of what makes a resumed run bit-identical."""
