"""Takes steps again: from a saved state, with the same or another precision, on the same or other images.

The step itself is the trainer's own. Knows nothing about what a replay proves, and writes nothing.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..checkpoints import files
from ..data.augment import Augmentation
from ..data.batches import Batch, to_device
from ..data.cache import PixelCache
from ..data.resolved import ResolvedData
from . import nonfinite, resume
from .compiling import CACHE, Forward, Network, prepare
from .config import Amp
from .contract import AttemptSpec, Cause
from .diagnosis import FirstNonFinite, Replay
from .drills import Drills
from .exhaustion import is_out_of_memory
from .health import Health, Reading
from .loop import (
    build_model,
    choose_kernels,
    identity_of,
    left_out,
    micro_batches,
    steps_of,
    training_sizes,
)
from .losses import SegmentationLoss
from .optim import Precision, build_optimizer, computes_bf16, match_layouts, override, set_lr
from .resume import Position
from .step import Stepper

log = logging.getLogger(__name__)

TIMED_STEPS = 3
"""After so many steps of a long replay it is known whether the rest fits into the time that is left."""
AT_THE_INCIDENT = "the state at the incident"


class OutOfTimeError(Exception):
    """What is left of the time limit is not enough for the next replay."""


class Deadline:
    """The end of the time that a diagnosis may take."""

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = seconds
        self._clock = clock
        self._began = clock()

    @property
    def spent(self) -> float:
        return self._clock() - self._began

    def require(self, seconds: float, what: str) -> None:
        """Raises OutOfTimeError where less than `seconds` are left."""
        left = self.limit - self.spent
        if left <= 0 or left < seconds:
            needed = f" needs {seconds:.0f} s more and" if seconds else ""
            raise OutOfTimeError(f"{what}{needed} has {max(left, 0):.0f} s left of {self.limit:g}")


@dataclass(frozen=True)
class Held:
    """A state to begin from, on the CPU."""

    name: str
    weights: dict[str, Tensor]
    training: dict[str, Any]
    """As `resume.capture` makes it."""

    @property
    def position(self) -> Position:
        return Position(**self.training["position"])

    def at(self, place: Place) -> Held:
        """The same, about to take the step of `place`."""
        moved = replace(
            self.position, epoch=place.epoch - 1, step=place.step - 1, step_in_epoch=place.step_in_epoch - 1
        )
        return replace(self, training={**self.training, "position": dict(vars(moved))})


@dataclass(frozen=True)
class Place:
    """One step of the run and its images."""

    step: int
    epoch: int
    """The epoch under way, from 1."""
    step_in_epoch: int
    """From 1."""
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Shown:
    """What one replay has shown."""

    row: Replay
    last: Place
    figures: tuple[tuple[int, float, float], ...]
    """(step, loss, gradient norm) of every step."""
    first: FirstNonFinite | None = None

    @property
    def finite(self) -> bool:
        return self.row.result == "finite"


class Replayer:
    """One network and the data of one attempt; every replay puts a state into it anew."""

    def __init__(
        self, spec: AttemptSpec, data: ResolvedData, cache: PixelCache, device: torch.device, deadline: Deadline
    ) -> None:
        if spec.threads:
            torch.set_num_threads(spec.threads)
        self.spec, self.data, self.cache, self.device = spec, data, cache, device
        self._deadline = deadline
        self._left_out = left_out(spec, cache)
        self._augmentation = Augmentation.of(spec.augment, seed=spec.seed)
        self._model = build_model(spec, classes=len(data.classes), device=device)
        self._model.train()
        self._norms = [layer for layer in self._model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
        self._loss = SegmentationLoss(spec.loss, classes=len(data.classes), device=device)
        self._compiled: Forward | None = None
        choose_kernels(device, cache, self._augmentation)

    @property
    def is_compiled(self) -> bool:
        """Whether a replay with the settings of training has run the network compiled."""
        return self._compiled is not None and self._compiled.network is not self._model

    @property
    def note(self) -> str:
        """In words, in what the replays had to differ from training; empty where they did not."""
        if self._compiled is None or self.is_compiled:
            return ""
        return f"training ran the network compiled, and the replay could not: {self._compiled.because}"

    # --- what there is to begin from

    def good(self, manifest: str) -> Held:
        """A committed checkpoint. Raises ConfigError and CorruptCheckpointError as resuming from it would."""
        spec = self.spec.model_copy(update={"resume_from": manifest})
        weights, training = resume.load(spec, identity_of(spec, self.data))
        return Held(manifest, weights, training)

    def usable(self, held: Held) -> bool:
        """Whether parameters and moments are finite; running statistics do not enter a training step."""
        weights, parameters = self._parameters_of(held), dict(self._model.named_parameters())
        fits = weights.keys() == parameters.keys()
        return fits and not files.nonfinite_tensors({**weights, "optimizer": held.training["optimizer"]["state"]})

    @property
    def computes_bf16(self) -> bool:
        return computes_bf16(self.device)

    def alike(self, one: Held, other: Held) -> bool:
        """Whether a step computes the same from both: bit by bit, running statistics aside."""
        mine, theirs = self._parameters_of(one), self._parameters_of(other)
        return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)

    def _parameters_of(self, held: Held) -> dict[str, Tensor]:
        known = {name for name, _ in self._model.named_parameters()}
        return {name: tensor for name, tensor in held.weights.items() if name in known}

    # --- replays

    def forward(self, held: Held, *, through: int, amp: Amp, plain: bool = False) -> Shown:
        """From where `held` stands through step `through` of the run, or to the first that is not finite.

        In the precision of training the network runs compiled where training ran it so, unless it shall run `plain`.
        """
        what = f"a replay of {through - held.position.step} steps from {held.name} under AMP {amp}"
        self._deadline.require(0, what)
        run = self._begin(held, amp, plain=plain)
        log.info("%s", what)
        began = time.monotonic()
        first_step = run.position.step + 1
        for place in self._places(run.position, through):
            problem = run.take(place)
            if problem is not None:
                break
            done = place.step + 1 - first_step
            if done == TIMED_STEPS:
                self._deadline.require((time.monotonic() - began) / done * (through - place.step), what)
            self._deadline.require(0, what)
        return run.shown(first_step, time.monotonic() - began)

    def once(self, held: Held, place: Place, amp: Amp) -> Shown:
        """The one step of `place` from `held`, wherever in the run that stands."""
        self._deadline.require(0, f"a replay of step {place.step} from {held.name}")
        run = self._begin(held, amp)
        began = time.monotonic()
        run.take(place)
        return run.shown(place.step, time.monotonic() - began)

    def loss_of(self, weights: Mapping[str, Tensor] | None, place: Place, *, of_batch: bool = False) -> float:
        """Loss in evaluation mode with `weights` on the images of `place`, unaugmented and in fp32.

        `None` is the state that the last replay came to. With `of_batch`, BatchNorm takes the statistics of the images
        themselves, as in training, and the running ones do not count.
        """
        self._deadline.require(0, "a look at the loss in evaluation mode")
        if weights is not None:
            self._model.load_state_dict(weights)
        self._model.train(of_batch)
        known = [layer.momentum for layer in self._norms]
        try:
            for layer in self._norms:
                layer.momentum = 0.0  # or a look would change what is looked at
            with torch.inference_mode():
                losses = [self._loss_on(batch, len(place.indices)) for batch in self._plain(place)]
        finally:
            for layer, momentum in zip(self._norms, known, strict=True):
                layer.momentum = momentum
            self._model.train()
        return float(torch.stack(losses).sum())

    def first_step(self, epoch: int) -> Place:
        """The first step of `epoch` (from 1), wherever in the run that is."""
        return Place(0, epoch, 1, tuple(steps_of(self.spec, self.cache, self._left_out, epoch=epoch)[0]))

    def _plain(self, place: Place) -> Iterator[Batch]:
        return micro_batches(self.spec, self.cache, None, place.indices, epoch=place.epoch)

    def _loss_on(self, batch: Batch, images: int) -> Tensor:
        pixels, masks = to_device(batch, self.device)
        share = len(batch.names) / images
        return self._loss(self._model(pixels), masks).detach() * share

    def beside(self, place: Place) -> Place | None:
        """The step before in the same epoch's order, after it where it is the first; `None` where it is the only one.

        The images of `place` are in none of its own.
        """
        steps = steps_of(self.spec, self.cache, self._left_out, epoch=place.epoch)
        number = place.step_in_epoch - 1
        for other in (*range(number - 1, -1, -1), *range(number + 1, len(steps))):
            if not set(steps[other]) & set(place.indices):
                return replace(place, step_in_epoch=other + 1, indices=tuple(steps[other]))
        return None

    def names(self, indices: Sequence[int]) -> tuple[str, ...]:
        return tuple(self.cache.pair(index).image for index in indices)

    def _places(self, position: Position, through: int) -> list[Place]:
        """The steps from `position` on, as training visits them."""
        places: list[Place] = []
        step, epoch, skip = position.step, position.epoch + 1, position.step_in_epoch
        while step < through:
            steps = steps_of(self.spec, self.cache, self._left_out, epoch=epoch)
            for number, indices in enumerate(steps[skip:], start=skip + 1):
                step += 1
                places.append(Place(step, epoch, number, tuple(indices)))
            epoch, skip = epoch + 1, 0
        return places[: through - position.step]

    def _network(self, precision: Precision, *, plain: bool) -> Network:
        """What training was seen to run. Another precision was never compiled: that takes longer than its replay."""
        if plain or not self.spec.compile:
            return self._model
        if self._compiled is None:
            self._compiled = prepare(
                self._model,
                self.spec.compile,
                sizes=training_sizes(self.cache, self._augmentation),
                batch_size=min(self.spec.batch_size, len(self.cache)),
                autocast=precision.autocast,
                cache=self.spec.run_dir / CACHE,
            )
        return self._compiled.network

    def _begin(self, held: Held, amp: Amp, *, plain: bool = False) -> _Run:
        spec = self.spec.model_copy(update={"amp": amp})
        optimizer = build_optimizer(spec, self._model.parameters())
        precision = Precision(amp, self.device)
        network = self._network(precision, plain=plain or amp is not self.spec.amp)
        position = resume.put_back(held.weights, held.training, self._model, optimizer, precision)
        position.warm_up(spec)
        override(optimizer, spec)
        match_layouts(optimizer)
        _reset_poisoned_statistics(self._model)
        return _Run(
            self,
            model=self._model,
            spec=spec,
            held=held,
            optimizer=optimizer,
            precision=precision,
            position=position,
            augmentation=self._augmentation,
            network=network,
        )


class _Run:
    """One replay under way."""

    def __init__(
        self,
        owner: Replayer,
        *,
        model: torch.nn.Module,
        spec: AttemptSpec,
        held: Held,
        optimizer: torch.optim.Optimizer,
        precision: Precision,
        position: Position,
        augmentation: Augmentation | None,
        network: Network,
    ) -> None:
        self._owner, self._model, self._spec, self._held = owner, model, spec, held
        self._optimizer, self._precision, self.position = optimizer, precision, position
        self._augmentation = augmentation
        self._health = Health(spec.amp, scaler_steps=position.scaler_steps)
        self._stepper = self._steps_with(network)
        self._last = Place(position.step, position.epoch + 1, position.step_in_epoch, ())
        self._figures: list[tuple[int, float, float]] = []
        self._result: Literal["finite", "not-finite", "raised"] = "finite"
        self._message = ""
        self._first: FirstNonFinite | None = None

    def _steps_with(self, network: Network) -> Stepper:
        return Stepper(
            self._model,
            self._optimizer,
            self._precision,
            self._spec,
            self._owner.device,
            classes=len(self._owner.data.classes),
            drills=Drills((), None),
            forward=network,
        )

    def take(self, place: Place) -> str | None:
        """Take one step; in words what is not finite about it, or what it raised. Raises when memory runs out."""
        self._last = place
        spec, steps = self._spec, math.ceil(len(self._owner.cache) / (self._spec.batch_size * self._spec.accumulate))
        share = self.position.warmth(place.step)
        set_lr(self._optimizer, place.step, steps * spec.epochs, spec.schedule, share=share)
        try:
            loss, norm, skipped, scale = self._step(place)
        except Exception as error:
            # Boundary: whatever training raised is what this replay is there to find.
            if is_out_of_memory(error):
                raise
            self._result, self._message = "raised", f"{type(error).__name__}: {error}".rstrip(".")
            return self._message
        self._figures.append((place.step, loss, norm))
        scaled = None if self._precision.scaler is None else scale
        self._message = self._problem(Reading(place.step, loss, norm, bool(skipped), scaled), place)
        if self._message:
            self._result = "not-finite"
        return self._message or None

    def shown(self, first_step: int, seconds: float) -> Shown:
        finite = [value if math.isfinite(value) else None for value in (self._figures or [(0, math.nan, math.nan)])[-1]]
        row = Replay(
            start=self._held.name,
            first_step=first_step,
            steps=self._last.step + 1 - first_step,
            amp=self._spec.amp,
            images=self._owner.names(self._last.indices),
            result=self._result,
            loss=finite[1] if self._result != "raised" else None,
            grad_norm=finite[2] if self._result != "raised" else None,
            message=self._message,
            seconds=seconds,
        )
        log.info(
            "steps %d to %d (%d images at the last) from %s under AMP %s in %.2f s: %s",
            first_step,
            self._last.step,
            len(self._last.indices),
            self._held.name,
            self._spec.amp,
            seconds,
            self._message or f"finite, loss {self._figures[-1][1]:.4g}",
        )
        return Shown(row, self._last, tuple(self._figures), self._first)

    def _step(self, place: Place) -> list[float]:
        batches = micro_batches(
            self._spec, self._owner.cache, self._augmentation, list(place.indices), epoch=place.epoch
        )
        figures: list[float] = self._stepper.take(place.step, batches, images=len(place.indices)).tolist()
        return figures

    def _problem(self, reading: Reading, place: Place) -> str:
        """Empty where all is well. Under fp16 a gradient is the scaler's business until the scaler has lost."""
        verdict = self._health.observe(reading)
        if not math.isfinite(reading.loss):
            return self._located(f"the loss of step {reading.step} is {reading.loss}", place, loss_finite=False)
        if self._spec.amp is not Amp.FP16 and not math.isfinite(reading.grad_norm):
            words = f"the gradient norm of step {reading.step} is {reading.grad_norm}, its loss {reading.loss:.4g}"
            return self._located(words, place, loss_finite=True)
        if reading.skipped and verdict is not None and verdict.cause is Cause.AMP_UNSTABLE:
            return self._located(verdict.message, place, loss_finite=True)
        self._first = nonfinite.in_state(self._model, reading.step)
        if self._first is not None:
            return f"{self._first.layer} holds a {self._first.tensor} that is not finite after step {reading.step}"
        return ""

    def _located(self, words: str, place: Place, *, loss_finite: bool) -> str:
        """Take the step once more, watched: its update was skipped, so the weights are still those that entered it.

        Not compiled, since a compiled network calls none of the layers that are watched.
        """
        self._stepper = self._steps_with(self._model)
        with nonfinite.watching(self._model) as watch:
            self._step(place)
        self._first = watch.first(place.step, loss_finite=loss_finite)
        if self._first is None and self._spec.amp is not Amp.FP16:
            self._first = nonfinite.largest_gradient(self._model, place.step)
        return words


def held_at(path: Path) -> Held | None:
    """What the worker held when it left; `None` where that is lost."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        held = Held(AT_THE_INCIDENT, dict(saved["weights"]), dict(saved["state"]))
        Position(**held.training["position"])
    except Exception as error:  # noqa: BLE001
        # Boundary: a file can be wrong in as many ways as there are exceptions, and all of them mean the same here.
        log.warning("the state at the incident is lost: %s", error)
        return None
    return held


def _reset_poisoned_statistics(model: torch.nn.Module) -> None:
    """To those of a new layer: no training step reads them, and what poisons them anew shall be seen."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and files.poisoned_tensors(dict(module.named_buffers())):
            module.reset_running_stats()
