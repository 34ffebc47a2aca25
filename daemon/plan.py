"""`segwatch run --dry-run`: what a run would do, audited and counted, without beginning it. Writes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from ..data.audit_view import render
from ..data.resolved import ResolvedData
from ..trainer.contract import Drill
from . import doctor, memory_checks, next_steps, place_checks
from .auditing import audit_data, require_trainable
from .check import gigabytes
from .config import RunConfig, load_config
from .job import recorded
from .rundir import RunDir
from .survey import Survey, survey


def show_plan(source: Path, *, name: str | None, runs_dir: Path, drills: list[Drill], console: Console) -> None:
    """Audit the data and print what `segwatch run` would do. Raises ConfigError where it would refuse."""
    config = load_config(source)
    report = audit_data(source, config, console)
    render(report, console, again=next_steps.command("audit", source), errors=False)
    data = require_trainable(report, config, source)
    found = survey(config, source.resolve().parent)
    run = RunDir(runs_dir / (name or source.stem))
    lines = [*_plan(config, data, found), *_of_run(run, config, drills)]
    width = max(len(title) for title, _ in lines)
    console.print()
    for title, words in lines:
        console.print(f"{title:<{width}}  {words}", soft_wrap=True, highlight=False, markup=False)
    for check in doctor.before_run(source, config, runs_dir):
        words = f"{check.state}: {check.name}: {check.found} -> {check.remedy}"
        console.print(words, soft_wrap=True, highlight=False, markup=False)
    console.print("\nA dry run: nothing was begun.", highlight=False)


def _plan(config: RunConfig, data: ResolvedData, found: Survey) -> Iterator[tuple[str, str]]:
    trainer = config.trainer
    images = {name: len(pairs) for name, pairs in data.splits.items()}
    batch = trainer.batch_size * trainer.accumulate
    steps = math.ceil(images["train"] / batch)
    training = memory_checks.training_of(config, found)
    yield "data", f"{images['train']} train, {images['val']} val, {images['test']} test, {len(data.classes)} classes"
    yield (
        "images",
        f"scale {data.scale:g}: up to {training.width}x{training.height}; "
        f"the cache takes {gigabytes(found.cache_bytes(data.scale, native_labels=False))}",
    )
    yield "network", f"{config.model.name}, {training.network.parameters / 1e6:.2f} M parameters"
    yield (
        "training",
        f"{trainer.epochs} epochs of {steps} steps ({trainer.epochs * steps} in all), batch {trainer.batch_size}"
        + (f" x {trainer.accumulate}" if trainer.accumulate > 1 else "")
        + f", {trainer.optimizer.value}, lr {trainer.lr:g} ({trainer.schedule}), AMP {trainer.amp.value}, "
        f"gradients clipped at {trainer.clip_grad_norm:g}",
    )
    yield "loss", config.loss.recipe
    yield "device", f"{trainer.device}; about {gigabytes(training.on_a_gpu_bytes)} of GPU memory, were it a GPU"
    scored = images["val"] + images["test"]
    yield "scoring", f"every epoch on val and test: {scored} images, {scored * trainer.epochs} in all"
    keep = config.checkpoints.keep_epochs
    kept = "every epoch is kept" if keep is None else f"the newest {keep} are kept, and the best"
    yield "checkpoints", f"{kept}: {gigabytes(place_checks.checkpoint_bytes(config, found))} at the end"
    yield from _when_it_breaks(config)


def _when_it_breaks(config: RunConfig) -> Iterator[tuple[str, str]]:
    recovery, amp = config.recovery, config.trainer.amp.value
    first = f"AMP {recovery.amp_first}, then " if amp != "off" else ""
    guess = f"{first}lr x {recovery.lr_factor:g}"
    if recovery.diagnose:
        wider = "AMP bf16 or off for precision, " if amp != "off" else ""
        found = f"nothing for what does not come back, {wider}a broken file left out, lr x {recovery.lr_factor:g}"
        yield (
            "NaN or Inf",
            f"the step is repeated, for {recovery.diagnosis_seconds:g} s at most, and what it shows decides: {found}; "
            f"where it shows nothing, a guess: {guess}",
        )
    else:
        yield "NaN or Inf", f"a guess, since recovery.diagnose is off: back to the last verified-good epoch, {guess}"
    yield "no memory", "half the micro-batch, double accumulation"
    yield (
        "crash, hang",
        f"resumed at once; if it comes back, after {recovery.backoff_seconds:g} s, doubling to "
        f"{recovery.backoff_limit_seconds:g} s",
    )
    if recovery.undo:
        yield "afterwards", "a remedy that has proved itself is taken back: AMP first, then lr"
    yield (
        "gives up",
        f"after {recovery.same_cause} restarts for one cause without progress, or {recovery.whole_run} in all",
    )


def _of_run(run: RunDir, config: RunConfig, drills: list[Drill]) -> Iterator[tuple[str, str]]:
    channels = ", ".join(f"{channel.url} from {channel.severity}" for channel in config.alerts.notify)
    yield "tells", f"terminal, alerts.log, TensorBoard{', ' + channels if channels else ''}"
    if drills:
        yield "drills", ", ".join(str(drill) for drill in drills)
    if run.exists:
        yield "run", f"{run.path} exists and would go on from epoch {len(recorded(run).lineage())}"
    else:
        yield "run", f"{run.path} would be begun"
