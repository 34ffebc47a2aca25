"""What a benchmark says: rows, how they are timed side by side, and the page. Knows nothing about what is measured."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

HOW = """\
Every part runs beside its peer or its floor in the same minute, by turns. The seconds are medians; the ratio is the
median of the ratios of neighbours, which holds on a busy machine too, while the seconds hold only on this one. Growth
is the exponent between two sizes: 1 is linear in the amount of work. The common way is re-created in
`tests/bench/common_way.py`, as the widespread UNet code and its forks do it: decode the full image, resize it
bicubically, loop over the mask's values; a step in NCHW float32 with three `.item()`; a fresh process for each
checkpoint. Medians are of five or more. The whole of what is counted or scored stands beside its floor, and nothing is
taken off it.

`make bench` repeats it on the machine at hand and writes this page; `make bench PARTS="loading counting"` runs some
parts and prints them. With a GPU the training and scoring parts run there.
"""


@dataclass(frozen=True)
class Row:
    """One comparison."""

    part: str
    what: str
    size: str
    ours: str
    other: str
    against: str
    ratio: float | None
    goal: str
    met: bool | None
    note: str = ""

    def cells(self) -> str:
        verdict = {True: "yes", False: "**no**", None: ""}[self.met]
        ratio = "" if self.ratio is None else f"{self.ratio:.3g}"
        fields = (
            self.what,
            self.size,
            self.ours,
            f"{self.other} ({self.against})",
            ratio,
            self.goal,
            verdict,
            self.note,
        )
        return "| " + " | ".join(fields) + " |"


LEAST_SECONDS = 1.0
"""That two ways are measured for in all, unless they take their turns `MOST_ROUNDS` times in less."""
MOST_ROUNDS = 51


@dataclass(frozen=True)
class Times:
    """Seconds of two ways, each measured as often, by turns."""

    ours: tuple[float, ...]
    other: tuple[float, ...]

    @property
    def mine(self) -> float:
        return median(self.ours)

    @property
    def theirs(self) -> float:
        return median(self.other)

    @property
    def ratio(self) -> float:
        """Of our seconds to theirs, pair by pair: what slows the machine down for a while slows both."""
        return median(mine / theirs for mine, theirs in zip(self.ours, self.other, strict=True))


def by_turns(ours: Callable[[], object], other: Callable[[], object], rounds: int = 5) -> Times:
    """Each once to warm up, then `rounds` times in turn; more often what is so short that chance would decide."""
    ours()
    other()
    pairs = [(seconds(ours), seconds(other)) for _ in range(rounds)]
    while sum(map(sum, pairs)) < LEAST_SECONDS and len(pairs) < MOST_ROUNDS:
        pairs.append((seconds(ours), seconds(other)))
    return Times(*(tuple(column) for column in zip(*pairs, strict=True)))


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def faster(part: str, what: str, size: str, times: Times, *, against: str, goal: float | None, note: str = "") -> Row:
    """`goal`: how many times as fast as the other it should be."""
    ratio = 1 / times.ratio
    return Row(
        part, what, size, spoken(times.mine), spoken(times.theirs), against, ratio,
        "" if goal is None else f"{goal:g} x as fast", None if goal is None else ratio >= goal, note,
    )  # fmt: skip


def at_most(part: str, what: str, size: str, times: Times, *, against: str, goal: float | None, note: str = "") -> Row:
    """`goal`: how many times as long as the other it may take."""
    ratio = times.ratio
    return Row(
        part, what, size, spoken(times.mine), spoken(times.theirs), against, ratio,
        "" if goal is None else f"at most {goal:g} x", None if goal is None else ratio <= goal, note,
    )  # fmt: skip


def below(part: str, what: str, size: str, value: float, limit: float, unit: str, note: str = "") -> Row:
    """A figure that has a limit of its own."""
    goal = f"under {limit:g} {unit}"
    return Row(
        part, what, size, f"{value:.3g} {unit}", f"{limit:g} {unit}", "limit", value / limit, goal, value < limit, note
    )


def growth(
    part: str, what: str, work: Sequence[float], taken: Sequence[float], say: Callable[[float], str] | None = None
) -> Row:
    """The exponent of time (or what else `say` puts in words) over work, between the smaller and the larger size."""
    say = say or spoken
    exponent = math.log(taken[-1] / taken[0]) / math.log(work[-1] / work[0])
    size = f"{work[-1] / work[0]:.3g} x the work"
    return Row(part, f"{what}: growth", size, say(taken[-1]), say(taken[0]), "the smaller size", exponent, "", None)


def spoken(taken: float) -> str:
    if taken < 1e-3:
        return f"{taken * 1e6:.3g} us"
    return f"{taken * 1e3:.3g} ms" if taken < 1 else f"{taken:.3g} s"


def machine() -> str:
    """In words."""
    import torch

    cores = len(os.sched_getaffinity(0))
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = [line.split(":")[1].strip() for line in information.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    load = os.getloadavg()[0]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{cores} cores of {model} ({torch.backends.cpu.get_cpu_capability()}), {gpu}, {platform.system()}, "
        f"Python {platform.python_version()}, torch {torch.__version__} with {torch.get_num_threads()} threads; "
        f"load average {load:.1f} at the end."
    )


def page(rows: Sequence[Row], failed: dict[str, str], *, machine: str, minutes: float, command: str) -> str:
    """docs/performance.md."""
    missed = [row for row in rows if row.met is False]
    lines = ["# Performance", "", HOW, f"Measured by `{command}` in {minutes:.0f} minutes on {machine}", ""]
    for part in dict.fromkeys(row.part for row in rows):
        lines += [f"## {part.capitalize()}", "", "| what | size | segwatch | against | ratio | goal | met | |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        lines += [row.cells() for row in rows if row.part == part] + [""]
    lines += ["## Goals that are missed", ""]
    lines += [
        f"- **{row.part}, {row.what}**, {row.size}: {row.ours} against {row.other} ({row.against}), a ratio of "
        f"{row.ratio:.3g}; the goal is {row.goal}. {row.note}".rstrip()
        for row in missed
    ]
    lines += [] if missed else ["None."]
    if failed:
        lines += ["", "## Not measured", "", *(f"- {part}: {why}" for part, why in failed.items())]
    return "\n".join(lines).rstrip() + "\n"
