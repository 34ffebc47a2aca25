"""What a run leaves to read: the closing words on the terminal; report.md, report.html and results.png.

What the report says is `report_parts`; here it is drawn, written, and put where a person finds it.
"""

from __future__ import annotations

import logging

from rich.console import Console

from ..durable import write_text
from ..plain import one_line
from . import next_steps, views
from .document import as_html, as_markdown
from .freezing import frozen_data
from .history import History
from .json_lines import JsonConsole
from .report_parts import CURVES, document, places, winners
from .rundir import RunDir
from .screen import nobody_may_look
from .storage import StorageError

log = logging.getLogger(__name__)


def print_closing(run: RunDir, history: History, console: Console) -> None:
    """All epochs, the winners and their gap, what happened, where to look."""
    data = frozen_data(run)
    views.print_epochs(history, console)
    views.print_classes(history, data, console)
    for line in winners(history):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    console.print("\nwhat happened:")
    for line in views.happened(history) or ["nothing out of the ordinary"]:
        console.print(f"  {one_line(line)}", soft_wrap=True, highlight=False, markup=False)
    console.print("\nwhere to look:")
    for what, where in places(run):
        console.print(f"  {what:12} {where}", soft_wrap=True, highlight=False, markup=False)


def write_report(run: RunDir, history: History) -> None:
    """report.md and report.html say the same; results.png is in both. Raises OSError when the disk refuses."""
    if history.best:
        _draw(run, history)
    page = document(run, history, frozen_data(run), views.winner_report(run, history, "test"))
    write_text(run.path / "report.md", as_markdown(page))
    write_text(run.path / "report.html", as_html(page, run.path))


def report_on(run: RunDir, console: Console) -> None:
    """Write the report of a run as it stands, and say where. Raises SegwatchError when the disk refuses."""
    try:
        write_report(run, views.look_at(run).history)
    except OSError as error:
        raise StorageError(
            f"the report cannot be written: {error.strerror}",
            where=run.path,
            remedy="make room, or make it writable; then call again",
        ) from error
    for name in ("report.html", "report.md", CURVES):
        if (run.path / name).exists():
            console.print(f"written: {run.path / name}", soft_wrap=True, highlight=False, markup=False)
    console.print(
        "\nOpen report.html in a browser: one file, with its pictures in it.", soft_wrap=True, highlight=False
    )


def _draw(run: RunDir, history: History) -> None:
    """Drawing takes a second and 50 MB, so nothing is drawn while anything is watched: the daemon is leaving."""
    try:
        draw_results(run, history)
    except Exception:  # no fault in plotting costs the report (promise P7)
        log.exception("results.png could not be drawn")
        (run.path / CURVES).unlink(missing_ok=True)  # one from before would stand beside other figures


def draw_results(run: RunDir, history: History) -> None:
    """The epochs that stand; those of another line would run over the same numbers again.

    One curve for each split, of the scores that compare: a curve over changed files would show a jump that is none.
    """
    from .ranking_plot import Point, draw
    from .run_plot import story_of

    standing = history.lineage()
    scored = [(epoch, split, score) for epoch in standing for split, score in epoch.scores.items()]
    compared = [one for one in scored if history.series.holds(one[0], (one[1],))]
    points = [
        Point(epoch.epoch, split, score.miou, score.miou_low, score.miou_high)
        for epoch, split, score in compared or scored
    ]
    gone = [
        f"best by {split} is epoch {found.epoch.epoch} of attempt {found.epoch.attempt}, which a roll-back superseded"
        for split, found in history.best.items()
        if found.epoch not in standing
    ]
    if 0 < len(compared) < len(scored):
        gone.append(f"left out: {len(scored) - len(compared)} scores on files that were changed since (results.csv)")
    draw(
        run.path / CURVES,
        points,
        title=f"{run.path.name}: every epoch that stands",
        footnote="; ".join(gone),
        story=story_of(history),
    )


def say_how_it_went(run: RunDir, history: History, console: Console, code: int) -> None:
    """The last that the daemon does: the report on the disk, and the end in words. `code` is its exit code."""
    try:
        write_report(run, history)
    except OSError as error:
        log.warning("report.md is not written: %s", error)
    with nobody_may_look():
        if code >= 128:
            console.print(f"stopped; the same command goes on from here: {run.path}", soft_wrap=True, highlight=False)
        else:
            _print_end(run, history, console)


def _print_end(run: RunDir, history: History, console: Console) -> None:
    print_closing(run, history, console)
    if history.gave_up is not None:
        console.print(f"\nGAVE UP: {one_line(history.gave_up.reason)}", soft_wrap=True, highlight=False, markup=False)
        console.print("mend the cause, then add --retry to go on from the last good state", highlight=False)
    if not isinstance(console, JsonConsole):
        useful = ("status", "alerts") if history.gave_up is not None else ("status", "best")
        then = next_steps.block(*(next_steps.command(verb, run.path) for verb in useful))
        console.print(then, soft_wrap=True, highlight=False, markup=False)
