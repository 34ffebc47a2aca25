"""The training step, its loss, its checks, the whole loop and its checkpoints, on the CPU or on a GPU."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from segwatch.checkpoints import files
from segwatch.checkpoints.manifest import Architecture, Role
from segwatch.data.batches import Batch
from segwatch.data.cache import open_cache
from segwatch.data.resolved import ResolvedData
from segwatch.durable import read_lines
from segwatch.trainer import loop as training
from segwatch.trainer import resume
from segwatch.trainer.__main__ import run
from segwatch.trainer.compiling import CACHE, Forward, Network, prepare
from segwatch.trainer.config import LossConfig
from segwatch.trainer.contract import JOURNAL, JOURNAL_LINE, AttemptSpec, CheckpointLine, ExitCode, Phase
from segwatch.trainer.drills import Drills
from segwatch.trainer.health import Health, Readback, Reading
from segwatch.trainer.journal import Journal
from segwatch.trainer.loop import build_model
from segwatch.trainer.losses import SegmentationLoss
from segwatch.trainer.optim import Precision, build_optimizer
from segwatch.trainer.saving import Saver
from segwatch.trainer.step import Stepper
from segwatch.trainer.watched_state import WHOLE_EVERY_STEPS, WatchedState
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .common_way import Steps
from .profile import profiled
from .scenes import CLASSES, make_data, make_spec
from .table import Row, Times, at_most, below, by_turns, faster, growth, seconds, spoken

Shape = tuple[int, int, int, int]
"""(base channels, images, height, width)."""
SMALL: Shape = (16, 2, 96, 128)
LARGE: Shape = (16, 4, 192, 256)
PUBLISHED: Shape = (64, 4, 180, 240)
"""The common code's own size: 5.4 s a step in its way on two cores."""
ON_GPU: Shape = (64, 4, 512, 612)
FACTOR = 2048
"""Rows and columns of the matrices by which a device's rate is measured: large enough to fill it."""


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def named(shape: Shape) -> str:
    base, images, height, width = shape
    return f"UNet-{base}, {images}x3x{height}x{width}"


def pixels(shape: Shape) -> int:
    """Of a step."""
    return shape[1] * shape[2] * shape[3]


def waited(work: Callable[[], object]) -> Callable[[], object]:
    """With the GPU's own time in it."""

    def until_done() -> None:
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return until_done


class Ours:
    """The worker's own step on one synthetic batch that is there already."""

    def __init__(self, spec: AttemptSpec, shape: Shape) -> None:
        _, images, height, width = shape
        on = device()
        torch.backends.cudnn.benchmark = on.type == "cuda"  # as the worker sets it for images of one size
        self.spec = spec
        self.model = build_model(spec, classes=CLASSES, device=on).train()
        self.optimizer = build_optimizer(spec, self.model.parameters())
        self.precision = Precision(spec.amp, on)
        self._stepper = self._through(self.model)
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (images, height, width, 3), dtype=torch.uint8, generator=generator)
        self.masks = torch.randint(0, CLASSES, (images, height, width), dtype=torch.uint8, generator=generator)
        self.batch = Batch(pixels.permute(0, 3, 1, 2), self.masks, tuple(map(str, range(images))))

    def _through(self, network: Network) -> Stepper:
        parts = (self.model, self.optimizer, self.precision, self.spec, device())
        return Stepper(*parts, classes=CLASSES, drills=Drills((), None), forward=network)

    def compile(self) -> Forward:
        """As a worker does under `trainer.compile = true`."""
        images, _, height, width = self.batch.images.shape
        forward = prepare(
            self.model,
            True,
            sizes={(height, width)},
            batch_size=images,
            autocast=self.precision.autocast,
            cache=self.spec.run_dir / CACHE,
        )
        self._stepper = self._through(forward.network)
        return forward

    def step(self) -> Tensor:
        return self._stepper.take(1, [self.batch], images=len(self.batch.names))

    def common(self) -> Callable[[], object]:
        """The same work in the common way, which also gets its floats made beforehand."""
        steps = Steps(classes=CLASSES, base_channels=self.spec.model.base_channels, device=device())
        images, masks = self.batch.images.float().div(255).contiguous(), self.masks.long()
        return waited(lambda: steps.step(images, masks))


def ours(place: Path, shape: Shape, **values: object) -> Ours:
    data = make_data(place / "scenes-small", size=(192, 192), train=2)
    run_dir = place / f"run-{time.monotonic_ns()}"
    return Ours(make_spec(run_dir, data, model={"base_channels": shape[0]}, batch_size=shape[1], **values), shape)


def step(place: Path, rounds: int = 5) -> Iterator[Row]:
    """In float32 and bf16 against the common way, which is float32."""
    goal = 3 if device().type == "cuda" else 2.5
    taken = []
    shapes = (SMALL, LARGE, ON_GPU if device().type == "cuda" else PUBLISHED)
    for shape in shapes:
        mine = ours(place, shape)
        common = mine.common()
        times = by_turns(waited(mine.step), common, rounds)
        taken.append(times.mine)
        note = f"{floor_words(common, times)}; {profiled(waited(mine.step))}"
        yield faster("step", "float32", named(shape), times, against="common way", goal=goal, note=note)
    yield growth("step", "float32", [pixels(shape) for shape in shapes[:2]], taken[:2])
    taken.clear()
    # Where torch emulates bf16, a step of the published size takes minutes and says no more than the others.
    for shape in shapes if _has_bf16() else shapes[:2]:
        half = ours(place, shape, amp="bf16")
        times = by_turns(waited(half.step), half.common(), rounds)
        taken.append(times.mine)
        note = "" if _has_bf16() else "this CPU has no bf16 arithmetic (AMX or AVX512-BF16), torch emulates it; "
        note += profiled(waited(half.step))
        yield faster("step", "bf16", named(shape), times, against="common way", goal=4, note=note)
    yield growth("step", "bf16", [pixels(SMALL), pixels(LARGE)], taken[:2])


def floor_words(common: Callable[[], object], times: Times) -> str:
    """What the multiplications of a step would take at the rate of one large matrix product in the same float32.

    They are counted in the common way: torch's counter does not know every operator of ours.
    """
    with FlopCounterMode(display=False) as counter:
        common()
    wanted = counter.get_total_flops()
    left, right = torch.randn(2, FACTOR, FACTOR, device=device()).unbind()
    product = waited(lambda: torch.mm(left, right))
    product()
    rate = 2 * FACTOR**3 / median(seconds(product) for _ in range(5))
    floor = wanted / rate
    return (
        f"floor: its {wanted / 1e9:.3g} GFLOP take {spoken(floor)} at a matrix product's {rate / 1e9:.3g} GFLOP/s, "
        f"{times.theirs / floor:.3g} x as fast as the common way"
    )


def _has_bf16() -> bool:
    if device().type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = Path("/proc/cpuinfo")
    return flags.exists() and any(word in flags.read_text() for word in ("avx512_bf16", "amx_bf16"))


def compiled(place: Path, rounds: int = 5) -> Iterator[Row]:
    """`trainer.compile = true` against the same step without it."""
    plain, tuned = ours(place, LARGE), ours(place, LARGE)
    forward = tuned.compile()
    if forward.network is tuned.model:
        yield Row("step", "torch.compile", named(LARGE), "-", "-", "without", None, "", None, forward.because)
        return
    times = by_turns(waited(tuned.step), waited(plain.step), rounds)
    note = f"off unless wished. Network alone: {forward.because.removeprefix('compiled: ')}"
    yield faster("step", "torch.compile", named(LARGE), times, against="without", goal=None, note=note)


def loss_share(place: Path, rounds: int = 5) -> Iterator[Row]:
    """Cross-entropy and Dice, forward and backward, within a step."""
    taken = []
    for shape in (SMALL, LARGE):
        mine = ours(place, shape)
        _, images, height, width = shape
        loss = SegmentationLoss(LossConfig(), classes=CLASSES, device=device())
        logits = torch.randn(images, CLASSES, height, width, device=device(), requires_grad=True)
        logits = logits.to(memory_format=torch.channels_last).detach().requires_grad_()
        masks = mine.masks.long().to(device())
        times = by_turns(waited(lambda: loss(logits, masks).backward()), waited(mine.step), rounds)
        taken.append(times.mine)
        yield at_most("step", "share of the loss", named(shape), times, against="whole step", goal=0.1)
    yield growth("step", "share of the loss", [pixels(SMALL), pixels(LARGE)], taken)


def checks(place: Path, rounds: int = 9) -> Iterator[Row]:
    """What is looked at after each step, against clip_grad_norm_, which both ways need."""
    taken = []
    shapes: tuple[Shape, ...] = (SMALL, (64, 1, 32, 32))
    for shape in shapes:
        mine = ours(place, shape)
        mine.step()
        parameters = list(mine.model.parameters())
        state = WatchedState(mine.model)
        norm = nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        loss, scale, on = torch.ones((), device=device()), torch.ones((), device=device()), device()
        readback: Readback[int] = Readback(on)
        health, number = Health(mine.spec.amp), 0

        def look() -> None:
            nonlocal number
            for _ in range(WHOLE_EVERY_STEPS):
                number += 1
                found = (~(norm.isfinite() & loss.isfinite())).float()
                readback.put(torch.cat([torch.stack([loss, norm, found, scale]), state.finite(number)]), number)
                for step, (value, size, skipped, _, _) in readback.take():
                    health.observe(Reading(step, value, size, bool(skipped), None))

        def clip() -> None:
            for _ in range(WHOLE_EVERY_STEPS):
                nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)

        times = by_turns(waited(look), waited(clip), rounds)
        size = f"UNet-{shape[0]}, {WHOLE_EVERY_STEPS} steps"
        taken.append(times.mine)
        yield at_most("checks", "all that is looked at", size, times, against="clip_grad_norm_", goal=1)
    yield growth("checks", "all that is looked at", [shape[0] ** 2 for shape in shapes], taken)


def loop(
    place: Path,
    rounds: int = 5,
    shapes: Sequence[Shape] = ((16, 4, 96, 96), (16, 4, 192, 192)),
    images: int = 96,
) -> Iterator[Row]:
    """Whole attempts, journal, curves, checkpoint and checks in them, each between two rounds of bare steps."""
    if device().type == "cuda":
        shapes = ((64, 4, 256, 306), ON_GPU)
    taken = []
    for shape in shapes:
        whole, beside, outside = _looped(place, shape, images, rounds)
        taken.append(median(whole))
        size = f"{named(shape)}, an epoch of {images // shape[1]} steps"
        times = Times(tuple(whole), tuple(beside))
        note = "so short an epoch ends in a checkpoint all the same"
        rates = [f"{images / each:.3g} images/s" for each in (times.mine, times.theirs)]
        ratio = 1 / times.ratio
        yield Row("loop", "rate of training", size, *rates, "bare step", ratio, "at least 0.95 x", ratio >= 0.95, note)
        note = "loader, journal, curves, checks and checkpoint, as far as a step has to wait for them"
        times, what = Times(tuple(outside), tuple(whole)), "outside of the steps"
        yield at_most("loop", what, size, times, against="all of it", goal=0.05, note=note)
    yield growth("loop", "seconds of training", [pixels(shape) for shape in shapes], taken)


def _looped(place: Path, shape: Shape, images: int, rounds: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds of each attempt, of as many bare steps beside it, and of what an attempt does outside of its steps."""
    _, batch, height, width = shape
    data = make_data(place / f"scenes-loop-{height}-{images}", size=(height, width), train=images)
    bare = ours(place, shape)
    inside: list[float] = []

    def only_steps() -> float:
        return seconds(waited(lambda: [bare.step() for _ in range(images // batch)]))

    _attempt(place, data, shape, inside)  # fills the pixel cache
    before, whole, beside, outside = only_steps(), [], [], []
    for _ in range(rounds):
        inside.clear()
        whole.append(_attempt(place, data, shape, inside))
        outside.append(whole[-1] - sum(inside))
        after = only_steps()
        beside.append((before + after) / 2)
        before = after
    return whole, beside, outside


def _attempt(place: Path, data: ResolvedData, shape: Shape, inside: list[float]) -> float:
    """Seconds of training of a whole attempt of one epoch; those of each step by itself go into `inside`.

    A step is handed a generator of batches and draws from it, so the loader is timed by itself and taken off again.
    """
    spec = make_spec(
        place / f"loop-{time.monotonic_ns()}", data, model={"base_channels": shape[0]}, batch_size=shape[1], epochs=1
    )
    take, load, loading = Stepper.take, training.load_batch, 0.0

    def timed(self: Stepper, *given: Any, **named: Any) -> Tensor:
        began, loaded = time.perf_counter(), loading
        figures = take(self, *given, **named)
        inside.append(time.perf_counter() - began - (loading - loaded))
        return figures

    def loaded(*given: Any, **named: Any) -> Batch:
        nonlocal loading
        began = time.perf_counter()
        batch = load(*given, **named)
        loading += time.perf_counter() - began
        return batch

    with patch.object(Stepper, "take", timed), patch.object(training, "load_batch", loaded):
        assert run(spec.directory / "spec.json", lambda: False) is ExitCode.FINISHED
    return seconds_of_training(spec)


def seconds_of_training(spec: AttemptSpec) -> float:
    """From the end of the initial checkpoint to that of the last one, by the journal."""
    raw, _ = read_lines(spec.directory / JOURNAL)
    lines = [JOURNAL_LINE.validate_json(line) for line in raw]
    begun = next(line.time for line in lines if isinstance(line, Phase) and line.phase == "first-step")
    return [line.time for line in lines if isinstance(line, CheckpointLine)][-1] - begun


def checkpoint(place: Path, rounds: int = 5, bases: tuple[int, ...] = (32, 64)) -> Iterator[Row]:
    """How long training waits, against torch.save of the same to the same disk, without hash or flush."""
    taken = []
    for base in bases:
        mine = ours(place, (base, 1, 32, 32))
        mine.step()
        identity = files.Identity(1, (0,), ("a",), Architecture(base_channels=base, classes=CLASSES), "bench")
        journal = Journal(mine.spec.directory / JOURNAL)
        saver = Saver(mine.spec.run_dir, identity, journal)
        position = resume.Position()
        paused, committed, saved = [], [], []
        for number in range(rounds + 1):
            position.epoch = number + 1
            began = time.perf_counter()
            state = resume.capture(mine.spec, mine.optimizer, mine.precision, position)
            held = saver.hold(mine.model.state_dict(), state)
            assert not files.poisoned_tensors(held.weights) + files.nonfinite_tensors(held.state["optimizer"])
            saver.save(Role.EPOCH, position, held)
            paused.append(time.perf_counter() - began)
            saver.settle()
            committed.append(time.perf_counter() - began)
            files.discard(mine.spec.run_dir / "checkpoints", f"checkpoint_epoch{number + 1}")
            everything = {"weights": mine.model.state_dict(), "state": state}
            saved.append(seconds(lambda held=everything: torch.save(held, place / "bare.pth")))
        saver.finish()
        journal.close()
        times = Times(tuple(paused[1:]), tuple(saved[1:]))
        taken.append(times.mine)
        size = f"UNet-{base} with AdamW"
        note = "the copy, and the check that all of it is finite"
        yield at_most("checkpoint", "training waits", size, times, against="torch.save", goal=0.5, note=note)
        times = Times(tuple(committed[1:]), tuple(saved[1:]))
        note = "three files flushed to the disk and hashed, while training goes on"
        yield at_most("checkpoint", "until committed", size, times, against="torch.save", goal=None, note=note)
    yield growth("checkpoint", "training waits", [base**2 for base in bases], taken)


def host_waits(place: Path, steps: int = 3) -> Iterator[Row]:
    """On a GPU: how often a step makes the host wait, by torch's own detector, and what looking after it costs."""
    if device().type != "cuda":
        return
    mine = ours(place, ON_GPU)
    data = make_data(place / "scenes-waits", size=ON_GPU[2:], train=ON_GPU[1])
    cache = open_cache(data, "train", place / "cache")
    state, readback, number = WatchedState(mine.model), Readback[int](device()), 0

    def watched() -> None:
        """As a session steps: a batch from the cache, the step, the look at all that it left, figures on their way."""
        nonlocal number
        number += 1
        mine.batch = training.load_batch(cache, range(ON_GPU[1]))
        readback.put(torch.cat([mine.step(), state.finite(number)]), number)
        list(readback.take())

    watched()
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as waits:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for _ in range(steps):
                watched()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    told = {str(wait.message).splitlines()[0] for wait in waits}
    size = f"{named(ON_GPU)}, {steps} steps"
    yield below("checks", "host waits", size, len(waits), 1, "waits", "; ".join(sorted(told)))

    def looks() -> None:
        for _ in range(WHOLE_EVERY_STEPS):
            nonlocal number
            number += 1
            readback.put(torch.cat([mine.step(), state.finite(number)]), number)
            list(readback.take())

    def steps_alone() -> None:
        for _ in range(WHOLE_EVERY_STEPS):
            mine.step()

    times = by_turns(waited(looks), waited(steps_alone))
    size = f"{named(ON_GPU)}, {WHOLE_EVERY_STEPS} steps"
    yield at_most("checks", "steps that are looked after", size, times, against="steps alone", goal=1.003)
