"""Trains one attempt from its spec to its end. Knows nothing about who asked for it or what is done about the outcome.

`train` reads as the story; `Session` holds what one attempt has in its hands.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints import files
from ..checkpoints.manifest import Architecture, Role
from ..data.augment import Augmentation, describe
from ..data.batches import Batch, epoch_order, load_batch
from ..data.cache import PixelCache, decode_again, open_cache
from ..data.resolved import ResolvedData
from ..errors import ConfigError
from . import incident, resume
from .compiling import CACHE, Forward, prepare
from .contract import AttemptSpec, Cause, ExitCode, ExitRecord, Phase, Started, Trouble
from .curves import Curves
from .drills import Drills
from .exhaustion import is_out_of_memory
from .health import Evidence, Health, Readback, Reading, Verdict, nan_weights
from .incident import StepFacts
from .journal import Journal
from .optim import Precision, build_optimizer, lr_at, match_layouts, override, set_lr
from .order import portions, positions_of, stood_in
from .progress import PROGRESS_SECONDS, Teller
from .saving import Saver
from .spoilt import pixels_dir, spoil
from .step import Stepper
from .unet import UNet
from .watched_state import WatchedState

log = logging.getLogger(__name__)

TENSORBOARD = Path("tensorboard", "train")
RECENT_STEPS = 200
LR_ALIKE = 2.5
"""Losses of before say what is usual unless the rate is more times as high now than an undone remedy makes it: a
schedule that was extended starts again from above."""


class StopAskedError(Exception):
    """Somebody asked the worker to leave; not a fault."""


class UnstableError(Exception):
    """Fatal trouble, already journalled."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.message)
        self.verdict = verdict


def train(spec: AttemptSpec, journal: Journal, *, stop: Callable[[], bool] = lambda: False) -> ExitRecord:
    """Run the attempt to its last epoch, to a fatal trouble, or until `stop` says so, and tell how it ended.

    Raises ConfigError and CorruptCheckpointError for what trying again cannot help, torch.OutOfMemoryError, and OSError
    when nothing can be saved.
    """
    try:
        device = find_device(spec.device)
        data = ResolvedData.load(spec.run_dir / spec.data_lock)
        cache = load_pixels(spec, data, journal, stop)
        with closing(Session(spec, data, cache, device, journal=journal, stop=stop)) as session:
            session.run()
    except StopAskedError:
        return _leave(journal, ExitCode.STOPPED, "stopped on request")
    except UnstableError as unstable:
        return _leave(journal, ExitCode.UNSTABLE, unstable.verdict.message, unstable.verdict.cause)
    return _leave(journal, ExitCode.FINISHED, f"{spec.epochs} epochs are complete")


def find_device(wanted: str) -> torch.device:
    """`auto` is the first GPU where there is one. Raises ConfigError for a GPU that is not there."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"the device {wanted} is not there: torch sees {torch.cuda.device_count()} GPUs",
            where="trainer.device",
            remedy='set trainer.device = "auto", or mend the driver (nvidia-smi shows what it sees)',
        )
    return device


def load_pixels(spec: AttemptSpec, data: ResolvedData, journal: Journal, stop: Callable[[], bool]) -> PixelCache:
    """The training split. Building its cache may take long, so the journal hears of it once a second."""
    journal.write(Phase(time=journal.now(), phase="loading"))
    told = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal told
        if stop():
            raise StopAskedError
        if time.monotonic() - told >= PROGRESS_SECONDS:
            told = time.monotonic()
            journal.write(Phase(time=journal.now(), phase="loading", done=done, total=total))

    for name in decode_again(data, "train", pixels_dir(spec), spec.decode_again):
        log.warning("%s: its entry in the pixel cache was not what the files hold, and was made anew", name)
    return open_cache(data, "train", pixels_dir(spec), progress=progress)


def build_model(spec: AttemptSpec, *, classes: int, device: torch.device) -> UNet:
    """The network as the seed makes it, channels_last; made on the CPU, so that it begins alike on every device."""
    torch.manual_seed(spec.seed)
    bilinear = spec.model.upsampling == "bilinear"
    model = UNet(classes=classes, base_channels=spec.model.base_channels, bilinear=bilinear).to(device=device)
    torch.nn.Module.to(model, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def training_sizes(cache: PixelCache, augmentation: Augmentation | None) -> set[tuple[int, int]]:
    """Every (height, width) with which an image can come into training."""
    sizes = {cache.size(index) for index in range(len(cache))}
    return sizes if augmentation is None else {changed for size in sizes for changed in augmentation.sizes(*size)}


def choose_kernels(device: torch.device, cache: PixelCache, augmentation: Augmentation | None) -> None:
    """Trying out kernels pays only where every batch has one shape."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = len(training_sizes(cache, augmentation)) == 1


def identity_of(spec: AttemptSpec, data: ResolvedData) -> files.Identity:
    """What the checkpoints of this attempt say of themselves."""
    architecture = Architecture(
        base_channels=spec.model.base_channels,
        classes=len(data.classes),
        bilinear=spec.model.upsampling == "bilinear",
    )
    return files.Identity(spec.attempt, data.class_ids, data.class_names, architecture, spec.config_hash)


def left_out(spec: AttemptSpec, cache: PixelCache) -> frozenset[int]:
    """Positions of the images that are not trained. Raises ConfigError for names that the split does not have."""
    return positions_of(spec.left_out, [pair.image for pair in cache.pairs])


def steps_of(spec: AttemptSpec, cache: PixelCache, out: Collection[int], *, epoch: int) -> list[list[int]]:
    """The images of each step of `epoch` (from 1), those of `out` stood in for."""
    order = epoch_order(len(cache), seed=spec.seed, epoch=epoch)
    return portions(stood_in(order, out), spec.batch_size * spec.accumulate)


def micro_batches(
    spec: AttemptSpec, cache: PixelCache, augmentation: Augmentation | None, indices: Sequence[int], *, epoch: int
) -> Iterator[Batch]:
    """The images of one step in pieces of `spec.batch_size`, as `epoch` (from 1) sees them."""
    for part in portions(indices, spec.batch_size):
        yield load_batch(cache, part, augmentation, epoch=epoch)


class Session:
    """One attempt under way: the model and its optimizer, the position, and the ways to the outside."""

    def __init__(
        self,
        spec: AttemptSpec,
        data: ResolvedData,
        cache: PixelCache,
        device: torch.device,
        *,
        journal: Journal,
        stop: Callable[[], bool],
    ) -> None:
        if spec.threads:
            torch.set_num_threads(spec.threads)
        self.spec, self.data, self.cache, self.device = spec, data, cache, device
        self.journal, self._stop = journal, stop
        self._augmentation = Augmentation.of(spec.augment, seed=spec.seed)
        self._left_out = left_out(spec, cache)
        self.steps_per_epoch = math.ceil(len(cache) / (spec.batch_size * spec.accumulate))

        identity = identity_of(spec, data)
        self.model = build_model(spec, classes=len(data.classes), device=device)
        self.optimizer = build_optimizer(spec, self.model.parameters())
        self.precision = Precision(spec.amp, device)
        self.position = resume.Position()
        if spec.resume_from is not None:
            self.position = resume.restore(spec, identity, self.model, self.optimizer, self.precision)
        self.position.warm_up(spec)
        override(self.optimizer, spec)
        match_layouts(self.optimizer)

        self._drills = Drills(spec.drills, journal)
        self._forward = self._prepared()
        self._stepper = Stepper(
            self.model,
            self.optimizer,
            self.precision,
            spec,
            device,
            classes=len(data.classes),
            drills=self._drills,
            forward=self._forward.network,
        )
        self._saver = Saver(spec.run_dir, identity, journal)
        self._curves = Curves(spec.run_dir / TENSORBOARD, from_step=self.position.step)
        self._teller = Teller(journal, self._curves, device, self.precision.in_force())
        self._watch_health()
        choose_kernels(device, cache, self._augmentation)

    def _prepared(self) -> Forward:
        """What runs the network. To compile it may take as long as loading does, and the daemon hears of it."""
        if self.spec.compile:
            log.info("trying out torch.compile, which may take minutes")
            self.journal.write(Phase(time=self.journal.now(), phase="loading"))
        return prepare(
            self.model,
            self.spec.compile,
            sizes=training_sizes(self.cache, self._augmentation),
            batch_size=min(self.spec.batch_size, len(self.cache)),
            autocast=self.precision.autocast,
            cache=self.spec.run_dir / CACHE,
        )

    def _watch_health(self) -> None:
        usual = self.position.losses if self._lr() <= LR_ALIKE * self.position.losses_lr else []
        self._health = Health(self.spec.amp, scaler_steps=self.position.scaler_steps, usual_losses=usual)
        self._readback: Readback[StepFacts] = Readback(self.device)
        self._state = WatchedState(self.model)
        self._recent: deque[tuple[int, float, float]] = deque(maxlen=RECENT_STEPS)
        self._last: tuple[StepFacts, Reading] | None = None

    def _lr(self) -> float:
        """That of the next step by the schedule."""
        return lr_at(self.spec.lr, self.position.step + 1, self.steps_per_epoch * self.spec.epochs, self.spec.schedule)

    def run(self) -> None:
        """Train what is left of the run. Raises StopAskedError with everything saved, UnstableError."""
        self._begin()
        try:
            while self.position.epoch < self.spec.epochs:
                self._train_epoch()
        except StopAskedError:
            if self.journal.reached.stepped and self.position.step_in_epoch:  # else a checkpoint is there already
                self._save_recovery()
            self._saver.settle()
            raise
        self._saver.settle()

    def close(self) -> None:
        with closing(self._curves):
            self._saver.finish()

    def _begin(self) -> None:
        """Say what is really in force, and leave a checkpoint to come back to before anything can go wrong."""
        reached = self.journal.reached
        reached.epoch, reached.step = self.position.epoch, self.position.step
        self.journal.write(self._started())
        log.info("%d images, %d steps an epoch, on %s", len(self.cache), self.steps_per_epoch, self.device)
        log.info("begins after epoch %d, step %d", self.position.epoch, self.position.step)
        self._log_recipe()
        if self._stop():
            raise StopAskedError
        if self.spec.resume_from is None and not self._saver.has_initial():
            self._save(Role.INITIAL)
            self._saver.settle()
        self.journal.write(Phase(time=self.journal.now(), phase="first-step"))

    def _log_recipe(self) -> None:
        weights = ", ".join(f"{name} {weight:.4g}" for name, weight in self._class_weights().items())
        log.info("loss: %s, over the counted pixels", self.spec.loss.recipe)
        log.info("class weights: %s", weights or "none, every class counts alike")
        log.info("augmentation: %s", describe(self.spec.augment))

    def _class_weights(self) -> dict[str, float]:
        given = self.spec.loss.class_weights
        if isinstance(given, str):
            return {}
        return {f"{entry.id} {entry.name}": weight for entry, weight in zip(self.data.classes, given, strict=True)}

    def _train_epoch(self) -> None:
        """What is left of the epoch under way, and its checkpoint."""
        self.model.train()
        steps = steps_of(self.spec, self.cache, self._left_out, epoch=self.position.epoch + 1)
        for indices in steps[self.position.step_in_epoch :]:
            if self._stop():
                raise StopAskedError
            with self._leaving_a_crash(indices):
                self._step(indices)
            self._saver.tend()
            if self._saver.seconds_since() >= self.spec.recovery_seconds:
                self._save_recovery()
                self.journal.write(Phase(time=self.journal.now(), phase="training"))
        self._observe(wait=True)
        if self._teller.pace.untold:
            self._tell()
        self._close_epoch()

    def _step(self, indices: list[int]) -> None:
        step, reached = self.position.step + 1, self.journal.reached
        first = not reached.stepped
        self._teller.pace.begin()
        self._drills.before_step(step, self.model)
        if self._drills.bad_file(step):
            self._spoil(indices[0])
        total, share = self.steps_per_epoch * self.spec.epochs, self.position.warmth(step)
        lr = set_lr(self.optimizer, step, total, self.spec.schedule, share=share)
        batches = micro_batches(self.spec, self.cache, self._augmentation, indices, epoch=self.position.epoch + 1)
        figures = self._stepper.take(step, batches, images=len(indices))
        self.position.step = reached.step = step
        self.position.step_in_epoch += 1
        reached.stepped = True
        facts = StepFacts(step, self.position.epoch + 1, self.position.step_in_epoch, lr, tuple(indices))
        self._readback.put(torch.cat([figures, self._state.finite(step)]), facts)
        self._observe(wait=first)
        self._teller.pace.end(images=len(indices), counts=not first)
        if first:
            self.journal.write(Phase(time=self.journal.now(), phase="training"))
        if first or self._teller.due():
            self._tell()

    @contextmanager
    def _leaving_a_crash(self, indices: list[int]) -> Iterator[None]:
        """An exception that nobody foresaw goes on as it is, once an incident holds what it takes to repeat its step.

        On a GPU what fails may show up some steps late: the batch is then one of the last few, not for certain this.
        """
        position, spec = replace(self.position), self.spec
        try:
            yield
        except (StopAskedError, UnstableError):
            raise
        except Exception as error:
            # Boundary: whatever it was; it is told here with its batch, and judged by whoever started training.
            if not is_out_of_memory(error):
                place = (position.step + 1, position.epoch + 1, position.step_in_epoch + 1)
                facts = StepFacts(*place, spec.lr, tuple(indices))
                evidence: Evidence = {"exception": type(error).__name__}
                message = str(error) or type(error).__name__
                try:
                    self._leave(Verdict(Cause.WORKER_CRASHED, message, fatal=True, evidence=evidence), facts)
                except OSError:
                    log.exception("nothing of the step that failed could be left")
            raise

    def _spoil(self, index: int) -> None:
        spoil(self.spec, self.data, index)
        self.cache = open_cache(self.data, "train", pixels_dir(self.spec))

    def _observe(self, *, wait: bool = False) -> None:
        """Judge the steps whose figures have arrived. Raises UnstableError."""
        for facts, (loss, grad_norm, skipped, scale, state_finite) in self._readback.take(wait=wait):
            known_scale = None if self.precision.scaler is None else scale
            self._last = (facts, Reading(facts.step, loss, grad_norm, bool(skipped), known_scale))
            self._recent.append((facts.step, loss, grad_norm))
            self._teller.pace.note_loss(loss)
            verdict = self._judge(self._last[1], state_finite=bool(state_finite))
            if verdict is not None:
                self._report(verdict)
            self.position.loss_sum += loss * len(facts.indices)
            self.position.images += len(facts.indices)

    def _judge(self, reading: Reading, *, state_finite: bool) -> Verdict | None:
        verdict = self._health.observe(reading)
        if verdict is not None and verdict.cause is Cause.NAN_LOSS:
            # Its update was skipped, so weights that are not finite now were not before: they are the cause.
            names = files.nonfinite_tensors(dict(self.model.named_parameters()))
            return nan_weights(reading.step, names, when=f"found by a loss of {reading.loss}") if names else verdict
        if verdict is None and not state_finite:
            return self._check_state("at a routine check")
        return verdict

    def _check_state(self, when: str) -> Verdict | None:
        """Every parameter, buffer and optimizer tensor, with names; the host waits for it."""
        return self._check(self.model.state_dict(), self.optimizer.state_dict(), when)

    def _check(self, weights: Mapping[str, Tensor], optimizer: Mapping[str, Any], when: str) -> Verdict | None:
        """The same of a state that was taken out."""
        names = files.poisoned_tensors(weights) + files.nonfinite_tensors({"optimizer": optimizer["state"]})
        return nan_weights(self.position.step, names, when=when) if names else None

    def _report(self, verdict: Verdict) -> None:
        """Journal trouble at the step last observed; if it is fatal, leave an incident and raise UnstableError."""
        facts = StepFacts(self.position.step, self.position.epoch + 1, self.position.step_in_epoch, self.spec.lr, ())
        scale = None
        if self._last is not None:
            facts, scale = self._last[0], self._last[1].scale
        log.warning("%s: %s", verdict.cause, verdict.message)
        self._leave(verdict, facts, scale)
        if verdict.fatal:
            raise UnstableError(verdict)

    def _leave(self, verdict: Verdict, facts: StepFacts, scale: float | None = None) -> None:
        """The trouble in the journal; where it is fatal, with what it takes to repeat it."""
        directory = None
        if verdict.fatal:
            self._saver.finish()
            # Its weights and moments may take a slow disk longer than any step: no hang.
            self.journal.write(Phase(time=self.journal.now(), phase="saving"))
            directory = incident.leave(
                self.spec,
                verdict,
                facts,
                names=tuple(self.cache.name(index) for index in facts.indices),
                recent=self._recent,
                scale=scale,
                held=self._held,
            )
        self.journal.write(
            Trouble(
                time=self.journal.now(),
                cause=verdict.cause,
                step=facts.step,
                epoch=facts.epoch,
                message=verdict.message,
                evidence=verdict.evidence,
                fatal=verdict.fatal,
                incident=None if directory is None else str(directory.relative_to(self.spec.run_dir)),
            )
        )

    def _held(self) -> dict[str, Any]:
        """Weights and training state of this moment, finite or not."""
        self.position.scaler_steps = self._health.scaler_steps
        state = resume.capture(self.spec, self.optimizer, self.precision, self.position)
        return {"weights": self.model.state_dict(), "state": state}

    def _close_epoch(self) -> None:
        train_loss = self.position.loss_sum / self.position.images if self.position.images else None
        self.position.next_epoch()
        self._save(Role.EPOCH, train_loss=train_loss)
        if self.position.epoch < self.spec.epochs:
            self.journal.write(Phase(time=self.journal.now(), phase="training"))

    def _save_recovery(self) -> None:
        self._observe(wait=True)
        self._save(Role.RECOVERY)

    def _save(self, role: Role, *, train_loss: float | None = None) -> None:
        """Begin to commit what there is; where something in it is not finite, raise UnstableError and write nothing.

        What is looked at is the very copy that is written.
        """
        self.position.scaler_steps = self._health.scaler_steps
        self.position.losses, self.position.losses_lr = self._health.losses.known(), self._lr()
        state = resume.capture(self.spec, self.optimizer, self.precision, self.position)
        held = self._saver.hold(self.model.state_dict(), state)
        verdict = self._check(held.weights, held.state["optimizer"], f"before the {role} checkpoint was written")
        if verdict is not None:
            self._report(verdict)
        if role is Role.RECOVERY:
            self._saver.make_room(self.position)
        self._saver.save(role, self.position, held, train_loss=train_loss)

    def _tell(self) -> None:
        if self._last is not None:
            self._teller.tell(*self._last, self._health.signs)

    def _started(self) -> Started:
        return Started(
            time=self.journal.now(),
            attempt=self.spec.attempt,
            pid=os.getpid(),
            lr=self.optimizer.param_groups[0]["initial_lr"],
            amp=self.precision.in_force(),
            batch_size=self.spec.batch_size,
            accumulate=self.spec.accumulate,
            device=str(self.device),
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            epoch=self.position.epoch,
            step=self.position.step,
            steps_per_epoch=self.steps_per_epoch,
            epochs=self.spec.epochs,
            loss=self.spec.loss.recipe,
            class_weights=self._class_weights(),
            augment="" if self._augmentation is None else describe(self.spec.augment),
            compiled=self._forward.because,
        )


def _leave(journal: Journal, code: ExitCode, message: str, cause: Cause | None = None) -> ExitRecord:
    reached = journal.reached
    return ExitRecord(
        code=code, cause=cause, message=message, step=reached.step, epoch=reached.epoch, stepped=reached.stepped
    )
