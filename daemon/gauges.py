"""prometheus.prom: how a run stands, for node_exporter's textfile collector. PURE but for the file that it replaces.

The text format is that of https://prometheus.io/docs/instrumenting/exposition_formats/ (0.0.4). What is not known is
left out, never 0 or NaN. The file appears whole or not at all; it is not flushed, since it is soon written anew.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from ..trainer.contract import Cause, JournalLine, Progress, Started
from .events import Outcome, Severity
from .history import History
from .observing import Screen

log = logging.getLogger(__name__)
DEFAULT = "prometheus.prom"
EVERY_SECONDS = 15.0
"""As often as Prometheus looks, with its usual settings."""
SPLITS = ("val", "test")
STATES = ("starting", "training", "recovering", "evaluating", "finished", "gave-up", "stopped")
Kind = Literal["gauge", "counter"]
Sample = tuple[dict[str, str], float | None]


def gauges_path(run_dir: Path, setting: str) -> Path | None:
    """Where the file goes: below the run directory, or as it is absolute; a directory takes one file for each run."""
    if not setting:
        return None
    path = run_dir / Path(setting).expanduser()
    return path / f"segwatch-{run_dir.name}.prom" if path.is_dir() or setting.endswith("/") else path


class Gauges:
    """`look` as often as one likes; `progress` with each line of the worker's journal."""

    def __init__(
        self, run_dir: Path, setting: str, history: History, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._run = run_dir.name
        self._path = gauges_path(run_dir, setting)
        self._history = history
        self._clock = clock
        self._progress: Progress | None = None
        self._written = 0.0
        self._failed = ""

    def progress(self, line: JournalLine) -> None:
        if isinstance(line, Progress | Started):
            self._progress = line if isinstance(line, Progress) else None

    def look(self) -> None:
        """Write it again, if it is time to."""
        if abs(self._clock() - self._written) >= EVERY_SECONDS:
            self.write()

    def write(self) -> None:
        if self._path is None:
            return
        now = self._written = self._clock()
        try:
            replace(self._path, exposition(self._run, self._history, self._progress, now))
            self._failed = ""
        except Exception as error:  # boundary: no fault in showing stops watching (promise P7)
            if type(error).__name__ != self._failed:
                log.exception("%s is not written", self._path)
            self._failed = type(error).__name__


class Beside:
    """A screen that passes the worker's journal on to the gauges as well."""

    def __init__(self, screen: Screen, gauges: Gauges) -> None:
        self._screen = screen
        self._gauges = gauges

    def progress(self, line: JournalLine) -> None:
        self._gauges.progress(line)
        self._screen.progress(line)

    def say(self, text: str) -> None:
        self._screen.say(text)


def exposition(run: str, history: History, progress: Progress | None, now: float) -> str:
    """The whole file."""
    lines: list[str] = []
    for name, kind, help_, samples in _families(history, progress, now):
        known = [(labels, value) for labels, value in samples if value is not None]
        if known:
            lines += [f"# HELP {name} {_escaped_help(help_)}", f"# TYPE {name} {kind}"]
            lines += [f"{name}{_labels({'run': run} | labels)} {value!r}" for labels, value in known]
    return "\n".join([*lines, ""])


def _families(
    history: History, progress: Progress | None, now: float
) -> Iterator[tuple[str, Kind, str, Iterable[Sample]]]:
    """Name, kind, help and samples of each metric; a sample of `None` is left out."""
    state = state_of(history)
    states = [({"state": each}, float(each == state)) for each in STATES]
    yield "segwatch_state", "gauge", "1 for the state that the run is in.", states
    yield "segwatch_updated_timestamp_seconds", "gauge", "When the daemon wrote this.", [({}, now)]
    yield "segwatch_epochs", "gauge", "Epochs that the run is to train.", [({}, float(history.epochs_wanted))]
    yield "segwatch_epochs_to_score", "gauge", "Committed epochs without scores.", [({}, float(len(history.unscored)))]
    yield from _training(history, progress)
    yield from _scores(history)
    incidents = {cause.value: len(history.incidents_of(cause)) for cause in Cause}
    causes = [({"cause": cause}, float(count)) for cause, count in sorted(incidents.items()) if count]
    yield "segwatch_incidents_total", "counter", "Incidents so far, by cause.", causes
    firing = Counter(alert.severity for alert in history.firing())
    alerts = [({"severity": severity.value}, float(firing[severity])) for severity in Severity]
    yield "segwatch_alerts_firing", "gauge", "Alerts that fire now.", alerts


def _training(history: History, progress: Progress | None) -> Iterator[tuple[str, Kind, str, Iterable[Sample]]]:
    standing, attempt = history.lineage(), history.current
    committed = float(standing[-1].epoch) if standing else None
    yield "segwatch_epoch", "gauge", "The last committed epoch that stands.", [({}, committed)]
    yield (
        "segwatch_attempt",
        "gauge",
        "The attempt under way, from 1.",
        [({}, None if attempt is None else float(attempt.number))],
    )
    if attempt is not None:
        yield (
            "segwatch_learning_rate",
            "gauge",
            "The rate of this attempt, or of its last step.",
            [({}, progress.lr if progress else attempt.plan.lr)],
        )
        yield (
            "segwatch_amp_enabled",
            "gauge",
            "Whether mixed precision is on.",
            [({}, float(attempt.plan.amp.value != "off"))],
        )
    if progress is None or attempt is None or attempt.ended is not None:
        return
    yield "segwatch_step", "gauge", "Optimizer steps so far.", [({}, float(progress.step))]
    yield "segwatch_loss", "gauge", "Mean training loss of about the last second.", [({}, progress.loss)]
    yield "segwatch_gradient_norm", "gauge", "Before clipping, at the last step.", [({}, progress.grad_norm)]
    yield "segwatch_images_per_second", "gauge", "Training images a second.", [({}, progress.images_per_second)]
    memory = None if progress.memory_mb is None else progress.memory_mb * 1e6
    yield "segwatch_memory_bytes", "gauge", "Peak device memory, or resident memory on the CPU.", [({}, memory)]
    yield (
        "segwatch_last_step_timestamp_seconds",
        "gauge",
        "When the worker last reported a step.",
        [({}, progress.time)],
    )


def _scores(history: History) -> Iterator[tuple[str, Kind, str, Iterable[Sample]]]:
    last = history.latest_scored
    latest = [({"split": split}, last.miou(split) if last else None) for split in SPLITS]
    yield "segwatch_miou", "gauge", "mIoU of the last scored epoch, from 0 to 1.", latest
    best = [({"split": split}, history.best[split].miou if split in history.best else None) for split in SPLITS]
    yield "segwatch_best_miou", "gauge", "mIoU of the best epoch on each split.", best
    epochs = [({"split": split}, float(found.epoch.epoch)) for split, found in sorted(history.best.items())]
    yield "segwatch_best_epoch", "gauge", "The best epoch on each split.", epochs
    test = last.scores.get("test") if last else None
    if test is not None and history.created is not None:
        named = enumerate(zip(history.created.class_names, test.class_iou, strict=False))
        ious = [({"class": name, "index": str(index)}, iou) for index, (name, iou) in named]
        yield "segwatch_class_iou", "gauge", "Test IoU of each class at the last scored epoch.", ious


def state_of(history: History) -> str:
    """As the daemon that writes this knows it: that it lives is what the time of the file says."""
    attempt = history.current
    if history.gave_up is not None:
        return "gave-up"
    if history.finished:
        return "finished"
    if history.stopped_because is not None:
        return "stopped"
    if attempt is None or (attempt.ended is None and attempt.started is None):
        return "starting" if attempt is None or attempt.plan.incident is None else "recovering"
    if attempt.ended is None:
        return "training"
    return "evaluating" if attempt.ended.outcome is Outcome.FINISHED else "recovering"


def replace(path: Path, text: str) -> None:
    """A reader sees the old file or the new one. The temporary name does not end in `.prom`: nobody collects it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _labels(labels: dict[str, str]) -> str:
    told = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{told}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _escaped_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
