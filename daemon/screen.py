"""What a person sees of `segwatch run`: a live panel on a terminal, one plain line per event elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import assert_never

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..plain import one_line
from ..trainer.contract import CheckpointLine, DrillLine, Finished, JournalLine, Phase, Progress, Started, Trouble
from .alerts import duration
from .events import AlertChanged, AlertState, Event, GaveUp, IncidentOpened, RunFinished
from .history import History
from .recording import Fact
from .spans import stamp
from .terminal import Terminal as Terminal  # noqa: PLC0414 - who shows a run knows both from here
from .terminal import nobody_may_look as nobody_may_look  # noqa: PLC0414
from .words import figure, sentence


class PlainScreen:
    """One line per event, with the time: for a log file, a pipe, systemd. UTC, as in everything else that is kept."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def handle(self, moment: float, event: Event) -> None:
        words = sentence(event)
        if words is not None:
            self._line(moment, words)

    def progress(self, line: JournalLine) -> None:
        """Too fleeting for a log."""

    def say(self, text: str) -> None:
        self._line(None, text)

    def catch_up(self, facts: Sequence[Fact]) -> None:
        """What happened while nobody looked is for `segwatch alerts` and the closing table."""

    def close(self) -> None:
        """Nothing is kept open."""

    def _line(self, moment: float | None, words: str) -> None:
        with nobody_may_look():
            self._console.print(
                f"{_moment(self._console, moment)} {one_line(words)}", markup=False, highlight=False, soft_wrap=True
            )


class LiveScreen:
    """The same lines, and below them a panel of what goes on right now."""

    def __init__(self, console: Console, history: History) -> None:
        self._console = console
        self._history = history
        self._panel = Panel(history)
        self._live = Live(self._panel, console=console, refresh_per_second=1, transient=True)
        self._live.start()

    def handle(self, moment: float, event: Event) -> None:
        words = sentence(event)
        if words is not None:
            self._line(moment, words, _style(event))

    def progress(self, line: JournalLine) -> None:
        self._panel.observe(line)

    def say(self, text: str) -> None:
        self._line(None, text, "cyan")

    def catch_up(self, facts: Sequence[Fact]) -> None:
        """What happened while nobody looked is for `segwatch alerts` and the closing table."""

    def close(self) -> None:
        self._live.stop()

    def _line(self, moment: float | None, words: str, style: str) -> None:
        line = Text(f"{_clock(moment)} ", style="dim")
        line.append(one_line(words), style=style)
        with nobody_may_look():
            self._live.console.print(line, soft_wrap=True)


class Panel:
    """Epoch, step, loss, images a second, time left, mIoU, alerts: drawn from the last journal line and the history."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._progress: Progress | None = None
        self._phase = "starting"

    def observe(self, line: JournalLine) -> None:
        match line:
            case Progress():
                self._progress = line
                self._phase = "training"
            case Phase():
                share = f" {line.done}/{line.total}" if line.total else ""
                self._phase = f"{line.phase}{share}"
            case Started() | CheckpointLine() | DrillLine() | Trouble() | Finished():
                pass
            case _:
                assert_never(line)

    def __rich__(self) -> Group:
        bar = Table.grid(expand=True)
        bar.add_row(self._bar())  # by itself it ends no line
        training, scores = (Text("   ".join(filter(None, words))) for words in (self._training(), self._scores()))
        firing = [f"{alert.code}{' (drill)' if alert.drill else ''}" for alert in self._history.firing()]
        words = Text("alerts: " + (", ".join(firing) or "none"), style="bold red" if firing else "green")
        return Group(bar, training, scores, words)

    def _training(self) -> list[str]:
        line, attempt = self._progress, self._history.current
        if line is None or attempt is None:
            return [self._phase]
        loss = "-" if line.loss is None else f"{line.loss:.4f}"
        return [
            f"attempt {attempt.number}, epoch {line.epoch}/{self._history.epochs_wanted}, step {line.step}",
            f"loss {loss}",
            f"lr {line.lr:g}",
            f"{line.images_per_second:.1f} images/s",
            f"left {self._left(line)}",
            self._phase,
        ]

    def _scores(self) -> list[str]:
        epoch, best = self._history.latest_scored, self._history.best.get("test")
        if epoch is None or best is None:
            return ["test mIoU: none yet"]
        waiting = len(self._history.unscored)
        return [
            f"test mIoU {figure(epoch.scores['test'])}, epoch {epoch.epoch}",
            f"best {figure(best.epoch.scores['test'])}, epoch {best.epoch.epoch}",
            f"{waiting} to score" if waiting else "",
        ]

    def _bar(self) -> ProgressBar:
        line, steps = self._progress, self._steps_per_epoch()
        done = 0.0 if line is None or steps is None else (line.epoch - 1) * steps + line.step_in_epoch
        return ProgressBar(total=max(1.0, float(self._history.epochs_wanted * (steps or 1))), completed=done)

    def _left(self, line: Progress) -> str:
        steps, attempt = self._steps_per_epoch(), self._history.current
        if steps is None or attempt is None or line.images_per_second <= 0:
            return "-"
        remaining = self._history.epochs_wanted * steps - (line.epoch - 1) * steps - line.step_in_epoch
        images = remaining * attempt.plan.batch_size * attempt.plan.accumulate
        return duration(images / line.images_per_second)

    def _steps_per_epoch(self) -> int | None:
        attempt = self._history.current
        return None if attempt is None or attempt.started is None else attempt.started.steps_per_epoch


def _style(event: Event) -> str:
    match event:
        case IncidentOpened() | GaveUp():
            return "bold red"
        case AlertChanged():
            return "green" if event.state is AlertState.RESOLVED else "bold yellow"
        case RunFinished():
            return "bold green"
        case _:
            return ""


def _moment(console: Console, moment: float | None) -> str:
    """What somebody looks at has the time of day; what is kept says which day, and where it was so late."""
    return _clock(moment) if console.is_terminal else stamp(moment)


def _clock(moment: float | None) -> str:
    local = datetime.now().astimezone() if moment is None else datetime.fromtimestamp(moment).astimezone()
    return local.strftime("%H:%M:%S")
