"""The `[model]`, `[loss]` and `[trainer]` tables of run.toml, with the careful defaults. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from ..data.balance import weights
from ..data.resolved import ResolvedClass
from ..errors import ConfigError
from ..section import Section

Weight = Annotated[float, Field(ge=0)]
Compile = bool | Literal["auto"]


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
    upsampling: Literal["transposed", "bilinear"] = "transposed"
    """The way up: learnt, or bilinear with half the parameters."""


class LossConfig(Section):
    """Weighted sum of losses over the counted pixels; ignored pixels enter none. A weight of 0 leaves one out."""

    cross_entropy: Weight = 1.0
    """Weight of the cross-entropy, a mean over the counted pixels."""
    dice: Weight = 1.0
    """Weight of 1 - mean Dice over the classes present in the batch: what keeps rare classes from being ignored."""
    focal: Weight = 0.0
    """Weight of the focal loss: cross-entropy that fades for pixels which are right already."""
    lovasz: Weight = 0.0
    """Weight of the Lovász softmax, a smooth stand-in for IoU over the classes present in the batch."""
    tversky: Weight = 0.0
    """Weight of 1 - mean Tversky index over the classes present: Dice with false alarms and misses weighed apart."""
    focal_gamma: Annotated[float, Field(ge=0)] = 2.0
    """How fast the focal loss fades; 0 is cross-entropy."""
    tversky_alpha: Annotated[float, Field(ge=0)] = 0.3
    """What a false alarm costs; 0.5 and 0.5 is Dice."""
    tversky_beta: Annotated[float, Field(ge=0)] = 0.7
    """What a miss costs."""
    class_weights: Literal["none", "median-frequency", "inverse"] | list[Weight] = "none"
    """For cross-entropy and focal loss: by how much each class counts. Computed from the training pixels, or one number
    per used class in ascending id. The mean is divided by the weights' sum, so that only their proportions matter.
    `segwatch audit` shows them."""
    class_weight_limit: Annotated[float, Field(ge=1)] = 10.0
    """Computed weights stay between 1 / this and this: a class of 0.001 % must not own the gradient."""

    @model_validator(mode="after")
    def _something_to_minimise(self) -> Self:
        if not any((self.cross_entropy, self.dice, self.focal, self.lovasz, self.tversky)):
            raise ValueError("every loss has the weight 0: there is nothing to minimise")
        if self.tversky and not self.tversky_alpha + self.tversky_beta:
            raise ValueError("tversky_alpha and tversky_beta are both 0: there is nothing to weigh")
        return self

    @model_validator(mode="after")
    def _weights_that_weigh(self) -> Self:
        if self.class_weights == "none":
            return self
        if not self.cross_entropy and not self.focal:
            raise ValueError("class_weights act on cross_entropy and focal alone, and both have the weight 0")
        return self

    @field_validator("class_weights")
    @classmethod
    def _some_class_counts(cls, given: str | list[float]) -> str | list[float]:
        if isinstance(given, list) and given and not any(given):
            raise ValueError("every class has the weight 0: no pixel would count")
        return given

    def resolved(self, classes: Sequence[ResolvedClass]) -> LossConfig:
        """With `class_weights` as one number for each of `classes`, or "none".

        Raises ConfigError that names the classes in order, where a list does not fit them.
        """
        given = self.class_weights
        if given == "none":
            return self
        if isinstance(given, str):
            pixels = [entry.pixels.get("train", 0) for entry in classes]
            seen = [entry.seen.get("train", own) for entry, own in zip(classes, pixels, strict=True)]
            return self.model_copy(update={"class_weights": weights(given, pixels, seen, self.class_weight_limit)})
        if len(given) != len(classes):
            named = ", ".join(f"{entry.id} {entry.name}".rstrip() for entry in classes)
            raise ConfigError(
                f"{len(given)} numbers, and {len(classes)} classes are used",
                where="loss.class_weights",
                remedy=f'give one for each, in this order: {named}; or let them be computed: "median-frequency"',
            )
        return self

    @property
    def recipe(self) -> str:
        """In one line, for a log."""
        terms = {
            "cross-entropy": self.cross_entropy,
            "Dice": self.dice,
            f"focal (gamma {self.focal_gamma:g})": self.focal,
            "Lovász": self.lovasz,
            f"Tversky (alpha {self.tversky_alpha:g}, beta {self.tversky_beta:g})": self.tversky,
        }
        return " + ".join(f"{weight:g} x {name}" for name, weight in terms.items() if weight)


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
    """Of the initial weights, of the order of the images and of what `[augment]` draws."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """`auto` takes the first GPU where there is one, else the CPU; `cpu`, `cuda` or `cuda:1` name it."""
    recovery_seconds: Annotated[float, Field(gt=0)] = 300.0
    """How often the state is saved inside a long epoch."""
    compile: Compile = False
    """Run the network through `torch.compile`: `true`, or `auto` where a trial before the first step is faster by it.
    The trial takes minutes. Needs images of one size; on the CPU a C++ compiler. Where it fails, training goes on
    without it and says so. A compiled step rounds otherwise: bit-identical resuming is promised
    without it only."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of torch; 0 leaves the choice to torch. Part of what makes a resumed run bit-identical."""
