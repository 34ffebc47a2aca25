"""`segwatch evaluate --config run.toml --checkpoints DIR`: scores and ranks checkpoints that segwatch did not train.

The directory is only read; what comes of it goes to an output directory that the same command goes on from. Knows
nothing about what is in a checkpoint: the evaluator opens it, in a process of its own.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import tomli_w
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from ..data.audit import require
from ..data.resolved import ResolvedData
from ..durable import write_text
from ..errors import RunHeldError, SegwatchError, UsageError
from ..evaluator.config import EvaluatorConfig
from ..evaluator.inspection import UnfitError, opened, sha256_of
from ..evaluator.report import Done, EvaluationReport, Refused, Request, Working, report_path
from ..evaluator.statistics import Difference, difference, read_per_image
from ..evaluator.terms import terms
from . import next_steps
from .auditing import audit_data
from .config import RunConfig, load_config
from .evaluations import read_report
from .inbox import EvaluatorExited, EvaluatorSaid, Inbox, Interrupted, hear_signals, next_message
from .job import StoppedEarly, signals_raise
from .logs import log_to
from .members import SCORED_SPLITS
from .process import EVALUATOR_COMMAND
from .ranking import Candidate, Ranking, show, write
from .scorer import Scorer, spec_for
from .screen import nobody_may_look
from .words import percent

log = logging.getLogger(__name__)
CHECKPOINT_NAME = re.compile(r"checkpoint_epoch([0-9]{1,9})\.pth")
OUTPUT = "segwatch-evaluation"
NEEDED = ("test",)
"""Epochs are ranked by test; val is scored where run.toml names it, and train only compared with them."""
DATA_LOCK = "data.lock.toml"
TRIES = 2
"""For a checkpoint over which the evaluator died: once more, in a fresh process."""
REASON_LETTERS = 140
"""Of a refusal, while others are still being scored."""


def evaluate_directory(
    source: Path,
    checkpoints: Path,
    *,
    output: Path | None,
    console: Console,
    evaluator_command: Sequence[str] = EVALUATOR_COMMAND,
) -> tuple[Ranking, int]:
    """Score every epoch of `checkpoints` that has no score yet; returns the ranking of all and the exit code.

    0 where at least one epoch has a score, 1 where none has, 128 + the signal when a person stopped it: then the rest
    is left to the next call. Raises SegwatchError for a person's mistake.
    """
    with signals_raise():
        config = load_config(source, needed=NEEDED)
        found = find(checkpoints)
        where = (output or checkpoints / OUTPUT).absolute()
        with _held(where), log_to(where / "evaluate.log"):
            data = _audited(source, config, console)
            write_text(where / DATA_LOCK, tomli_w.dumps({"resolved": data.model_dump(mode="json")}))
            _say(console, _beginning(found, data))
            bench = Bench(where, data, config.evaluator, console, evaluator_command)
            try:
                ranking, stopped = bench.score(found)
            finally:
                bench.close()
            write(ranking, where)
            with nobody_may_look():
                show(ranking, console)
            _say(console, f"\nresults: {where}")
    if stopped is not None:
        return ranking, 128 + stopped
    return ranking, 0 if ranking.scored else 1


def _audited(source: Path, config: RunConfig, console: Console) -> ResolvedData:
    """The data to score on, with what is remarkable about it said; faults of train alone are none of it."""
    named = tuple(split for split in SCORED_SPLITS if config.data.split or config.data.table(split))
    report = audit_data(source, config, console, splits=named)
    data = require(report, again=next_steps.command("audit", source))
    for warning in report.warnings:
        _say(console, f"note: {warning.what}")
    if not config.data.split and config.data.train is None:
        _say(console, "note: run.toml names no train: whether its images are among those of val and test is not known")
    return data.model_copy(
        update={
            "splits": {split: data.splits[split] for split in named},
            "table_ids": tuple(entry.id for entry in report.classes),
            "named_ids": tuple(entry.id for entry in report.classes if entry.name),
        }
    )


@dataclass(frozen=True)
class Found:
    """What a directory holds."""

    directory: Path
    files: tuple[tuple[int, Path], ...]
    """(epoch, file) in numeric order."""
    others: tuple[str, ...]
    """Other .pth files: named, and not looked at."""


def find(directory: Path) -> Found:
    """The checkpoints right in `directory`. Raises SegwatchError where there is none."""
    try:
        names = sorted(path.name for path in directory.iterdir())
    except OSError as error:
        raise UsageError(
            f"cannot be read: {error.strerror}", where=directory, remedy="--checkpoints names a directory"
        ) from error
    matches = [match for name in names if (match := CHECKPOINT_NAME.fullmatch(name))]
    numbered = [(int(match[1]), directory.absolute() / match[0]) for match in matches]
    others = tuple(name for name in names if name.endswith(".pth") and not CHECKPOINT_NAME.fullmatch(name))
    if not numbered:
        beside = f"; {len(others)} other .pth files are there, {others[0]} among them" if others else ""
        raise SegwatchError(
            f"no checkpoint_epochN.pth in it{beside}",
            where=directory,
            remedy="name the directory that holds them itself; sub-directories are not searched",
        )
    return Found(
        directory.absolute(), tuple(sorted(numbered, key=lambda entry: (entry[0], len(str(entry[1]))))), others
    )


class Bench:
    """Takes one file after another, asks the evaluator where no score is known, and keeps what came of it."""

    def __init__(
        self,
        output: Path,
        data: ResolvedData,
        config: EvaluatorConfig,
        console: Console,
        command: Sequence[str],
    ) -> None:
        self._output = output
        self._config = config
        self._console = console
        self._fingerprints = {split: data.fingerprint(split) for split in data.splits}
        self._splits = tuple(data.splits)
        self._data = data
        inbox = Inbox()
        scorer = Scorer(
            spec_for(output, output / ".cache", config, data_lock=DATA_LOCK),
            command=command,
            inbox=inbox,
            timeout_seconds=config.timeout_seconds,
            clock=time.monotonic,
        )
        self._desk = Desk(scorer, inbox)

    def score(self, found: Found) -> tuple[Ranking, int | None]:
        """The ranking of everything, and the signal that stopped it before its end, if one did."""
        candidates: list[Candidate] = []
        stopped: int | None = None
        self._desk.hear_signals()
        with self._progress() as told:
            for epoch, path in found.files:
                try:
                    candidates.append(self._candidate(epoch, path, candidates, told))
                except StoppedEarly as early:
                    stopped = early.exit_code - 128
                    break
                self._tell(candidates[-1])
        waiting = tuple(path.name for _, path in found.files[len(candidates) :])
        ranking = Ranking(found.directory, tuple(candidates), found.others, waiting, splits=self._splits)
        return replace(ranking, difference=self._difference(ranking)), stopped

    def close(self) -> None:
        self._desk.close()

    def _candidate(
        self, epoch: int, path: Path, before: Sequence[Candidate], told: Callable[[str, int, int], None]
    ) -> Candidate:
        if before and before[-1].epoch == epoch:
            twin = before[-1].file
            return Candidate(
                epoch,
                path.name,
                why_not=f"{path.name} is another epoch {epoch}: {twin} is the one scored",
                verdict="refused",
            )
        try:
            with opened(path) as file:
                sha256 = sha256_of(file)
        except UnfitError as error:
            return Candidate(epoch, path.name, why_not=f"{path.name} {error}", verdict="refused")
        except OSError as error:
            return Candidate(
                epoch, path.name, why_not=f"{path.name} cannot be read: {error.strerror}", verdict="failed"
            )
        known = self._known(epoch, sha256)
        missing = tuple(split for split in self._splits if split not in known)
        if not missing:
            return Candidate(epoch, path.name, sha256, known)
        request = Request(manifest=str(path), attempt=0, epoch=epoch, sha256=sha256, splits=missing, foreign=True)
        refused = self._desk.ask(request, lambda what, done, total: told(f"epoch {epoch} {what}", done, total))
        known = self._known(epoch, sha256)
        if refused is None and len(known) < len(self._splits):
            refused = Refused(attempt=0, epoch=epoch, reason="error", message=f"{path.name}: its report is not there")
        if refused is None:
            return Candidate(epoch, path.name, sha256, known)
        verdict = "refused" if refused.reason in {"foreign", "corrupt", "missing"} else "failed"
        named = refused.message if path.name in refused.message else f"{path.name}: {refused.message}"
        return Candidate(epoch, path.name, sha256, known, why_not=named, verdict=verdict)

    def _known(self, epoch: int, sha256: str) -> dict[str, EvaluationReport]:
        """The reports on these very bytes, over these very files, seen in the same way: what need not be done again."""
        found = {split: read_report(report_path(self._output, 0, epoch, split)) for split in self._splits}
        return {
            split: report
            for split, report in found.items()
            if report is not None and report.checkpoint_sha256 == sha256 and self._is_current(report, split)
        }

    def _is_current(self, report: EvaluationReport, split: str) -> bool:
        overlap = self._config.overlap if self._config.window else report.overlap
        return (
            report.data_fingerprint == self._fingerprints[split]
            and (report.per_image is None or (self._output / "evaluations" / report.per_image).is_file())
            and (report.class_ids, report.class_names) == (self._data.class_ids, self._data.class_names)
            and report.skipped_images == self._data.skipped.get(split, 0)
            # Behind the number of classes, which is the checkpoint's: what the data says of the score.
            and report.policy.partition("; ")[2]
            == terms(self._data, split, self._config.resolution, self._config.window, overlap)
            and (report.resolution, report.window) == (self._config.resolution, self._config.window)
            and report.overlap == overlap
        )

    def _difference(self, ranking: Ranking) -> Difference | None:
        """Between the two winners, over the same test images."""
        by_test, by_val = ranking.best("test"), ranking.best("val")
        if by_test is None or by_val is None or by_test is by_val:
            return None
        counts = []
        for candidate in (by_val, by_test):
            report = candidate.reports.get("test")
            if report is None or report.per_image is None:
                return None
            try:
                counts.append(read_per_image(self._output / "evaluations" / report.per_image))
            except (ValueError, OSError) as error:
                log.warning("the winners are compared without their images: %s", error)
                return None
        before, after = counts
        return None if before is None or after is None else difference(before, after)

    @contextmanager
    def _progress(self) -> Iterator[Callable[[str, int, int], None]]:
        """A bar where somebody looks: what is being done, and how many of its images."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(
            *columns, console=self._console, transient=True, disable=not self._console.is_terminal
        ) as progress:
            task = progress.add_task("starting the evaluator", total=None)
            yield lambda what, done, total: progress.update(task, description=what, completed=done, total=total)

    def _tell(self, candidate: Candidate) -> None:
        scores = [f"{split} mIoU {percent(candidate.miou(split))}" for split in self._splits]
        flags = sorted({report.verdict.value for report in candidate.reports.values()} - {"ok"})
        words = (
            f"{candidate.verdict}: {_begun(candidate.why_not)}" if candidate.why_not else ", ".join([*scores, *flags])
        )
        _say(self._console, f"epoch {candidate.epoch}: {words}")


def _begun(reason: str) -> str:
    """A long one stands in full at the end."""
    return reason if len(reason) <= REASON_LETTERS else f"{reason[:REASON_LETTERS].rsplit(' ', 1)[0]} ... (see the end)"


def _beginning(found: Found, data: ResolvedData) -> str:
    images = " and ".join(f"{len(pairs)} {split}" for split, pairs in data.splits.items())
    files = "1 checkpoint" if len(found.files) == 1 else f"{len(found.files)} checkpoints"
    return (
        f"{files} in {found.directory}, to be scored on {images} images, "
        f"{len(data.classes)} classes: {', '.join(f'{c.id} {c.name}' for c in data.classes)}"
    )


def _say(console: Console, words: str) -> None:
    with nobody_may_look():
        console.print(words, soft_wrap=True, highlight=False, markup=False)


class Desk:
    """One evaluator and one request at a time, waited for; started when there is something to ask."""

    def __init__(self, scorer: Scorer, inbox: Inbox) -> None:
        self._scorer = scorer
        self._inbox = inbox

    def hear_signals(self) -> None:
        hear_signals(self._inbox)

    def ask(self, request: Request, told: Callable[[str, int, int], None]) -> Refused | None:
        """`None` once its reports lie on the disk. Raises StoppedEarly, or SegwatchError where none can be scored."""
        refused = self._exchange(request, told)
        for _ in range(TRIES - 1):
            if refused is None or refused.reason != "error":
                break
            refused = self._exchange(request, told)
        return refused

    def close(self) -> None:
        self._scorer.close()

    def _exchange(self, request: Request, told: Callable[[str, int, int], None]) -> Refused | None:
        asked = False
        refused: Refused | None = None
        while True:
            self._scorer.tend()
            self._scorer.require_able()
            if not asked and self._scorer.idle:
                self._scorer.ask(request)
                asked = True
            match next_message(self._inbox):
                case Interrupted(signal=number):
                    raise StoppedEarly(number)
                case EvaluatorSaid() as said if self._scorer.heard(said):
                    match said.answer:
                        case Working(what=what, done=done, total=total):
                            told(what, done, total)
                        case Refused():
                            refused = said.answer
                        case Done():
                            self._scorer.answered()
                            return refused
                case EvaluatorExited() as exited:
                    if self._scorer.died(exited) is not None:
                        return _died_over(request, exited.returncode)


def _died_over(request: Request, code: int) -> Refused:
    message = f"{Path(request.manifest).name}: the evaluator died over it (exit code {code}); see evaluator.log"
    return Refused(attempt=0, epoch=request.epoch, reason="error", message=message)


@contextmanager
def _held(output: Path) -> Iterator[None]:
    """The output directory, there and ours alone. Raises UsageError where it cannot be written to."""
    from filelock import FileLock, Timeout

    lock = FileLock(output / ".lock", timeout=0)
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise RunHeldError(
            "another `segwatch evaluate` writes here", where=output, remedy="wait for its end"
        ) from error
    except OSError as error:
        raise UsageError(
            f"results cannot be written here: {error.strerror}", where=output, remedy="name another place with --output"
        ) from error
    try:
        yield
    finally:
        lock.release()
