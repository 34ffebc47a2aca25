"""`python -m segwatch.daemon.steps_plot INCIDENT_DIR`: draws the last steps before an incident, and leaves.

A process of its own, since matplotlib takes a second and 50 MB, which no night watch needs. It is nice to the worker,
ends itself after a time limit, and leaves `steps.png`, or else `steps.log` with the reason. Knows files only.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..durable import read_text, write_atomic
from ..trainer.contract import JOURNAL, Progress, attempt_dir
from ..trainer.diagnosis import DIAGNOSIS
from .events import IncidentOpened
from .incidents import INCIDENT
from .journal import tail
from .postmortem import PICTURE, PICTURE_LOG

if TYPE_CHECKING:
    from matplotlib.axes import Axes

log = logging.getLogger("segwatch.daemon.steps_plot")
LIMIT_SECONDS = 60
NICENESS = 15
STEPS = 200
LINES_AT_LEAST = 60
"""Of a journal, which has about a line a second: on a fast device 200 steps are none at all."""
FACTS = "worker.json"
FACTS_LIMIT_BYTES = 8 << 20
INCHES = (9.0, 6.0)
DOTS_PER_INCH = 110
SPREAD = 20.0
"""From this ratio of the highest to the lowest on, a figure is drawn on a logarithmic scale."""
LOSS_COLOUR, NORM_COLOUR, RATE_COLOUR = "#0072B2", "#009E73", "#777777"
FAULT_COLOUR, ONSET_COLOUR = "#B00020", "#E69F00"


@dataclass(frozen=True)
class Step:
    """One step, or in `every_step = False` the newest of about a second. `None` is not finite, or not told."""

    step: int
    loss: float | None
    grad_norm: float | None


@dataclass(frozen=True)
class LastSteps:
    steps: Sequence[Step]
    rates: Sequence[tuple[int, float]]
    """(step, learning rate)"""
    fault: int
    onset: int | None
    title: str
    every_step: bool


def main(arguments: list[str]) -> int:
    """0: drawn; 1: the reason is in the log; 2: nobody asks so."""
    signal.alarm(LIMIT_SECONDS)  # whatever happens: nobody waits for it
    os.nice(NICENESS)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    if len(arguments) != 1:
        log.error("usage: python -m segwatch.daemon.steps_plot INCIDENT_DIR")
        return 2
    directory = Path(arguments[0])
    try:
        draw(read(directory), directory / PICTURE)
    except (OSError, ValueError, ImportError) as error:
        log.error("%s", error)  # noqa: TRY400 - the page repeats the last line: it should read as a reason
        return 1
    (directory / PICTURE_LOG).unlink(missing_ok=True)
    return 0


def read(directory: Path) -> LastSteps:
    """What worker, daemon and replay left of the last steps.

    Raises OSError where the facts are gone, ValueError where they tell of no step.
    """
    opened = IncidentOpened.model_validate_json(read_text(directory / INCIDENT, limit=FACTS_LIMIT_BYTES))
    journal = attempt_dir(directory.resolve().parent.parent, opened.attempt) / JOURNAL
    told = [line for line in tail(journal) if isinstance(line, Progress) and line.step <= opened.step]
    recent = _recent(directory / FACTS)
    steps = recent or [Step(line.step, line.loss, line.grad_norm) for line in told]
    if not steps:
        raise ValueError("the worker told of no step before this incident")
    begins = steps[-1].step - STEPS
    shown = [step for step in steps if step.step > begins]
    if not recent:
        shown = steps[-max(len(shown), LINES_AT_LEAST) :]
    return LastSteps(
        steps=shown,
        rates=[(line.step, line.lr) for line in told if line.step >= shown[0].step],
        fault=opened.step,
        onset=_onset(directory / DIAGNOSIS),
        title=f"incident {opened.number:03d}: {opened.cause} at step {opened.step}, epoch {opened.epoch}",
        every_step=bool(recent),
    )


def _recent(path: Path) -> list[Step]:
    """What the worker kept of each of its last steps; empty where it was killed, or stood still."""
    if not path.exists():
        return []
    rows = json.loads(read_text(path, limit=FACTS_LIMIT_BYTES)).get("recent", [])
    return [Step(row["step"], _number(row["loss"]), _number(row["grad_norm"])) for row in rows]


def _onset(path: Path) -> int | None:
    if not path.exists():
        return None
    onset = json.loads(read_text(path, limit=FACTS_LIMIT_BYTES)).get("onset_step")
    return onset if isinstance(onset, int) else None


def _number(told: Any) -> float | None:
    """What is not finite stands there by its name."""
    return float(told) if isinstance(told, int | float) and math.isfinite(told) else None


# --- drawing -------------------------------------------------------------------------------------------------------


def draw(last: LastSteps, path: Path) -> None:
    """Write a PNG that appears whole: loss, gradient norm and rate over the steps; fault and onset marked."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    loss, norm, rate = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.6))
    at = [step.step for step in last.steps]
    _curve(loss, at, [step.loss for step in last.steps], "loss", LOSS_COLOUR)
    _curve(norm, at, [step.grad_norm for step in last.steps], "gradient norm", NORM_COLOUR)
    _curve(rate, [at for at, _ in last.rates], [rate for _, rate in last.rates], "learning rate", RATE_COLOUR)
    rate.set_ylim(bottom=0)
    for axes in (loss, norm, rate):
        axes.axvline(last.fault, color=FAULT_COLOUR, linewidth=1.4, label=f"incident: step {last.fault}")
        if last.onset is not None:
            label = f"onset: step {last.onset}"
            axes.axvline(last.onset, color=ONSET_COLOUR, linewidth=1.4, linestyle="--", label=label)
        axes.grid(visible=True, color="#DDDDDD", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    rate.set_xlabel("step")
    rate.xaxis.set_major_locator(MaxNLocator(integer=True))
    told = "each step" if last.every_step else "as the worker told it about once a second; loss: the mean since"
    loss.set_title(f"{last.title}\n{told}", loc="left", fontsize=11, fontweight="bold", parse_math=False)
    handles, labels = loss.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True)) | _marks(norm)
    figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=3, frameon=False)
    write_atomic(path, lambda file: figure.savefig(file, format="png"))


def _curve(axes: Axes, at: Sequence[int], values: Sequence[float | None], name: str, colour: str) -> None:
    finite = [value for value in values if value is not None]
    marker = "o" if len(at) <= LINES_AT_LEAST else ""
    axes.plot(at, [math.nan if value is None else value for value in values], color=colour, marker=marker, markersize=3)
    axes.set_ylabel(name)
    if finite and min(finite) > 0 and max(finite) / min(finite) > SPREAD:
        axes.set_yscale("log")
    broken = [step for step, value in zip(at, values, strict=True) if value is None]
    if broken:
        top = axes.get_xaxis_transform()  # x as a step, y as a share of the height
        label = "not finite"
        axes.plot(broken, [0.96] * len(broken), "x", color=FAULT_COLOUR, transform=top, label=label, clip_on=False)


def _marks(axes: Axes) -> dict[str, Any]:
    handles, labels = axes.get_legend_handles_labels()
    return dict(zip(labels, handles, strict=True))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
