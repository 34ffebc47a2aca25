"""PURE: results of the corpus in, a table in Markdown out; and where on a page it stands. No process, no file."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from segwatch.section import Record
from segwatch.trainer.diagnosis import Finding

from .corpus import CALM, KINDS, REFERENCE, SEEDS, Kind
from .outcome import Result

BEGIN, END = "<!-- corpus: begin -->", "<!-- corpus: end -->"
GOAL = 0.95


class Figures(Record):
    """Measured beside the corpus; `None` or empty where it was not."""

    health_share: float | None = None
    """Median over steps: time of the checks by time of the step that they are part of."""
    health_mean: float | None = None
    health_steps: int = 0
    bundle_ms: float | None = None
    """Median: what an incident takes a worker to leave, once its last step is taken."""
    bundle_mb: float | None = None
    restarts: dict[str, float] = {}
    """Median seconds from the kill to the first new step, by way of starting again."""
    rounds: int = 0


def table(results: Sequence[Result], figures: Figures) -> str:
    """What was measured, and from how many runs."""
    return "\n".join([*_incidents(results), "", *_summary(results, figures)])


def written_between(page: str, words: str) -> str:
    """The page with the table between its marks; behind its end, under a heading, where it has none."""
    block = f"{BEGIN}\n{words}\n{END}"
    if BEGIN not in page:
        return f"{page.rstrip()}\n\n## Measured\n\n{block}\n".lstrip()
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2] if END in rest else f"\n{rest.lstrip()}"
    return f"{before}{block}{after}"


def _incidents(results: Sequence[Result]) -> list[str]:
    lines = [
        "| incident | what is broken | right answer | runs | right | healthy again | noticed after | diagnosis |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [_line(kind, [r for r in results if r.name == kind.name]) for kind in KINDS]
    return lines


def _line(kind: Kind, of_kind: list[Result]) -> str:
    late = [r.late_steps for r in of_kind if r.late_steps is not None]
    seconds = [r.late_seconds for r in of_kind if r.late_seconds is not None]
    took = [r.diagnosis_seconds for r in of_kind if r.diagnosis_seconds]
    steps = f"{_range(late)} steps" if late and kind.name not in {"hang", "kill"} else _times(seconds)
    right, healthy = sum(r.right is True for r in of_kind), sum(r.healthy is True for r in of_kind)
    guessed = " (guessed)" if kind.finding is Finding.UNKNOWN else ""
    answer = kind.remedy if kind.finding is None else f"{kind.finding}: {kind.remedy}{guessed}"
    return f"| {kind.name} | {kind.what} | {answer} | {len(of_kind)} | {right} | {healthy} | {steps} | {_times(took)} |"


def _summary(results: Sequence[Result], figures: Figures) -> list[str]:
    broken = [r for r in results if r.right is not None]
    calm = [r for r in results if r.right is None]
    right, healthy = sum(r.right is True for r in broken), sum(r.healthy is True for r in broken)
    alarmed = [r for r in calm if r.said]
    kinds = ", ".join(f"{one.name} ({one.what})" for one in CALM)
    lines = [
        f"- {len(broken)} broken runs and {len(calm)} undisturbed ones; the whole corpus has {SEEDS * len(KINDS)} and "
        f"{SEEDS * len(CALM)}. Seconds are medians, on a machine that did other things besides; those of a diagnosis "
        "hold the loading of torch, which the standby saves and these runs do without.",
        f"- Right verdict: {_share(right, len(broken))} (asked for: {GOAL:.0%}).",
        f"- Healthy again within two restarts, at 0.98 of the test mIoU before or more: {_share(healthy, len(broken))} "
        f"(asked for: {GOAL:.0%}).",
        f"- False alarms: {len(alarmed)} of {len(calm)} undisturbed runs: {kinds}."
        + "".join(f" {r.name} {r.seed}: {r.said}." for r in alarmed),
        f"- Final weights after a transient fault, bit by bit those of an undisturbed run: {_identical(results)}.",
        "- Epochs that stand as verified good without a finite score, or with weights on the disk that are not finite: "
        f"{sum(r.bad_as_good for r in results)}.",
    ]
    if figures.health_share is not None and figures.health_mean is not None:
        lines.append(
            f"- Health checks: {figures.health_share:.2%} of a step (median of {figures.health_steps} steps, each with "
            f"its own time; mean {figures.health_mean:.2%})."
        )
    if figures.bundle_ms is not None and figures.bundle_mb is not None:
        lines.append(
            f"- The bundle that an incident leaves (batch, figures, weights and moments; {figures.bundle_mb:.1f} MB): "
            f"{figures.bundle_ms:.0f} ms, after the worker's last step (median of 5)."
        )
    if figures.restarts:
        ways = ", ".join(f"{way} {seconds:.1f} s" for way, seconds in figures.restarts.items())
        lines.append(f"- From the kill of a worker to the first new step, median of {figures.rounds}: {ways}.")
    missed = [r for r in broken if not (r.right and r.healthy)]
    lines += [f"- Not as it has to be: {r.name}, seed {r.seed}: {r.said}." for r in missed]
    return lines


def _identical(results: Sequence[Result]) -> str:
    references = {r.seed: r.weights for r in results if r.name == REFERENCE and r.weights is not None}
    pairs = [(r.weights, references[r.seed]) for r in results if r.name == "transient" and r.seed in references]
    return f"{sum(one == other for one, other in pairs)} of {len(pairs)}"


def _share(count: int, of: int) -> str:
    return f"{count} of {of}" + (f" ({count / of:.0%})" if of else "")


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _times(seconds: Sequence[float]) -> str:
    return f"{median(seconds):.1f} s" if seconds else "-"
