"""The `[model]`, `[loss]` and `[trainer]` tables of run.toml, with the careful defaults. No torch."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

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
    """The network: five levels, skip connections, transposed convolutions on the way up."""
    base_channels: Annotated[int, Field(ge=1, le=512)] = 64
    """Channels of the first level, doubled four times. 64 is the published UNet, 31 M parameters."""


class LossConfig(Section):
    """Weighted sum of cross-entropy and soft Dice over the classes present; ignored pixels count in neither."""

    cross_entropy: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the cross-entropy, a mean over the counted pixels."""
    dice: Annotated[float, Field(ge=0)] = 1.0
    """Weight of 1 - mean Dice over the classes present in the batch: what keeps rare classes from being ignored."""

    @model_validator(mode="after")
    def _something_to_minimise(self) -> Self:
        if self.cross_entropy == 0 and self.dice == 0:
            raise ValueError("cross_entropy and dice are both 0: there is nothing to minimise")
        return self


class TrainerConfig(Section):
    epochs: Annotated[int, Field(ge=1)] = 100
    """Passes over the training images. May be raised later: the run goes on."""
    batch_size: Annotated[int, Field(ge=1)] = 1
    """Images per forward pass."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Forward passes per optimizer step: the effective batch is batch_size x accumulate."""
    lr: Annotated[float, Field(gt=0)] = 5e-5
    """Base learning rate. 1e-4 and more is known to give NaN on unbalanced aerial data at batch 1."""
    schedule: Literal["constant", "poly", "cosine"] = "constant"
    """How the learning rate falls over the run: not, (1 - t)^0.9, or half a cosine."""
    optimizer: Optimizer = Optimizer.ADAMW
    """AdamW to begin with."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-8
    """Decoupled for adamw, an L2 term for rmsprop and sgd."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """For rmsprop and sgd. 0.999 with rmsprop is a known road to NaN."""
    amp: Amp = Amp.OFF
    """Mixed precision. Off to begin with: fp16 overflows at 65504."""
    clip_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are scaled down to this norm."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the initial weights and of the order of the images."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """`auto` takes the first GPU where there is one, else the CPU; `cpu`, `cuda` or `cuda:1` name it."""
    recovery_seconds: Annotated[float, Field(gt=0)] = 300.0
    """How often the state is saved inside a long epoch."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of torch; 0 leaves the choice to torch. Part of what makes a resumed run bit-identical."""
