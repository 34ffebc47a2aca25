"""What `segwatch compare` prints. Decides nothing and reads nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

from rich.console import Console

from ..durable import dumps
from ..plain import one_line
from .alerts import duration
from .comparing import Comparison, Course, SplitRow, Winner
from .words import percent, points

CLASSES_SHOWN = 12
WIDTH = 22


def show(found: Comparison, console: Console) -> None:
    for line in lines(found):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def lines(found: Comparison) -> Iterator[str]:
    yield f"a: {one_line(found.a)}"
    yield f"b: {one_line(found.b)}"
    yield from chain.from_iterable(_split(row) for row in found.splits)
    yield from _classes(found)
    yield from _settings(found)
    yield ""
    yield _columns("how they went", "a", "b")
    first, second = found.courses
    for name, of in COURSE.items():
        yield _columns(name, of(first), of(second))


def _split(row: SplitRow) -> Iterator[str]:
    yield ""
    yield _columns(f"best by {row.split}", _winner(row.a), _winner(row.b))
    yield f"  {_verdict(row)}"


def _winner(winner: Winner | None) -> str:
    if winner is None:
        return "-"
    interval = "" if winner.low is None or winner.high is None else f" ({100 * winner.low:.1f}-{100 * winner.high:.1f})"
    return f"{percent(winner.miou)}{interval}, epoch {winner.epoch}"


def _verdict(row: SplitRow) -> str:
    """`better` only where the same images leave no doubt."""
    if row.why_not:
        return f"NOT COMPARABLE: {one_line(row.why_not)}"
    if row.difference is None:
        assert row.a is not None
        assert row.b is not None
        gap = f"{100 * (row.b.miou - row.a.miou):+.2f} points"
        return f"b - a: {gap}; how sure that is, nobody knows: the counts of their images are not there"
    told = row.difference
    verdict = "b is better" if told.low > 0 else "a is better" if told.high < 0 else "no sure difference"
    return f"{verdict}: b - a {points(told.difference, told.low, told.high)} over the same {row.split} images"


def _classes(found: Comparison) -> Iterator[str]:
    if not found.classes:
        return
    yield ""
    yield _columns("test IoU by class", "a", "b", "b - a")
    for row in found.classes[:CLASSES_SHOWN]:
        gap = "-" if row.a is None or row.b is None else f"{100 * (row.b - row.a):+.2f}"
        yield _columns(one_line(row.name), percent(row.a), percent(row.b), gap)
    if len(found.classes) > CLASSES_SHOWN:
        yield f"  and {len(found.classes) - CLASSES_SHOWN} classes that differ less (--json names all)"


def _settings(found: Comparison) -> Iterator[str]:
    yield ""
    if found.settings_unknown:
        yield f"settings: not known: {one_line(found.settings_unknown)}"
    elif not found.settings:
        yield "settings: the same"
    else:
        yield _columns("settings that differ", "a", "b")
        for key, (a, b) in found.settings.items():
            yield _columns(key, _written(a), _written(b))


def _written(value: object) -> str:
    return "(not set)" if value is None else one_line(dumps(value))


def _incidents(course: Course) -> str:
    return ", ".join(f"{cause} x {count}" for cause, count in course.incidents.items()) or "none"


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else duration(seconds)


COURSE: dict[str, Callable[[Course], str]] = {
    "epochs": lambda course: f"{course.epochs}/{course.wanted}, {course.end}",
    "attempts": lambda course: str(course.attempts),
    "incidents": _incidents,
    "time in training": lambda course: _time(course.training_seconds),
    "first to last fact": lambda course: _time(course.seconds),
}


def _columns(name: str, *cells: str) -> str:
    return "  ".join([f"{name:{WIDTH}}", *(f"{cell:{WIDTH + 8}}" for cell in cells)]).rstrip()
