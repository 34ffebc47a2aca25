"""Every committed epoch, in numeric order, exactly once, on val and test: what to ask next and what an answer means.

Answers become facts; an epoch that cannot be scored gets a row with the reason, so that none is silently missing.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import assert_never

from ..checkpoints.manifest import read_manifest
from ..errors import CorruptCheckpointError
from ..evaluator.report import (
    Done,
    EvaluationReport,
    Ready,
    Refused,
    Request,
    Scored,
    Unable,
    Verdict,
    Working,
    report_path,
)
from .evaluations import compare, read_report, set_aside
from .events import EpochMoved, Event, Gain, GapMeasured, ScoreRecorded
from .gains import KeptUp, Reference
from .history import History
from .inbox import EvaluatorExited, EvaluatorSaid
from .members import Epoch
from .rollback import move_aside, place_in_quarantine
from .scorer import Scorer

log = logging.getLogger(__name__)
TRIES = 2


class Scoring:
    """The queue of unscored epochs and the evaluator that works on it. Yields facts; the caller records them."""

    def __init__(self, run_dir: Path, history: History, scorer: Scorer, *, min_delta: float) -> None:
        self._run_dir = run_dir
        self._history = history
        self._scorer = scorer
        self._min_delta = min_delta
        """The least gain in test mIoU that counts as one (`alerts.min_delta`)."""
        self._reference = KeptUp(lambda: Reference(min_delta))
        self._looked_for: set[tuple[int, int]] = set()
        self._failures: Counter[tuple[int, int]] = Counter()

    def tend(self) -> Iterator[Event]:
        """Keep the evaluator running and busy; facts come where no evaluation is needed to know them."""
        self._scorer.tend()
        for epoch in self._without_evaluator():
            yield from self._known_already(epoch)
        yield from self._gap()
        if self._scorer.idle and self._history.unscored:
            epoch = min(self._history.unscored.values(), key=lambda epoch: epoch.key)
            self._set_aside(epoch)
            self._scorer.ask(
                Request(
                    manifest=epoch.manifest,
                    attempt=epoch.attempt,
                    epoch=epoch.epoch,
                    sha256=epoch.sha256,
                    splits=self._history.missing(epoch),
                )
            )

    @property
    def refusal(self) -> str | None:
        """Why the evaluator says that it can never score anything here."""
        return self._scorer.refusal

    def heard(self, said: EvaluatorSaid) -> Iterator[Event]:
        if not self._scorer.heard(said):
            return
        match said.answer:
            case Scored():
                yield from self._scored(said.answer)
            case Refused():
                yield from self._refused(said.answer)
            case Done():
                self._scorer.answered()
            case Ready() | Working() | Unable():
                pass
            case _:
                assert_never(said.answer)

    def died(self, exited: EvaluatorExited) -> Iterator[Event]:
        """An evaluator that died over a checkpoint gets it once more in a fresh process, then the queue goes on."""
        request = self._scorer.died(exited)
        if request is not None:
            message = f"the evaluator died (exit code {exited.returncode}) while scoring it"
            yield from self._failed(self._history.epochs[request.attempt, request.epoch], message)

    def _without_evaluator(self) -> list[Epoch]:
        waiting = self._scorer.in_flight
        return [
            epoch
            for epoch in self._history.unscored.values()
            if waiting is None or epoch.key != (waiting.attempt, waiting.epoch)
        ]

    def _known_already(self, epoch: Epoch) -> Iterator[Event]:
        """What an earlier daemon knew and did not live to record; a checkpoint that says itself it is not finite."""
        if not epoch.finite:
            yield from self._rows(
                epoch, Verdict.NOT_FINITE, "by its manifest it holds NaN or Inf, or a negative variance"
            )
        elif epoch.moved == "quarantined":
            yield from self._rows(epoch, Verdict.CORRUPT, epoch.moved_because)
        elif self._scorer.unable is not None:
            yield from self._rows(epoch, Verdict.FAILED, self._scorer.unable)
        elif epoch.key not in self._looked_for:
            self._looked_for.add(epoch.key)
            for split in self._history.missing(epoch):
                report = read_report(report_path(self._run_dir, *epoch.key, split))
                if report is not None and self._is_of(report, epoch) and self._is_of_now(report):
                    yield self._row(report, epoch)

    def _scored(self, answer: Scored) -> Iterator[Event]:
        epoch = self._history.epochs[answer.attempt, answer.epoch]
        report = read_report(self._run_dir / answer.report)
        if report is None or not self._is_of(report, epoch):
            yield from self._failed(epoch, f"its report {answer.report} is not readable or of another checkpoint")
        elif answer.split in self._history.missing(epoch):
            yield self._row(report, epoch)

    def _row(self, report: EvaluationReport, epoch: Epoch) -> ScoreRecorded:
        compared = report.split == "test" and report.scores is not None
        return _row_of(report, self._gain(epoch) if compared else None)

    def _gain(self, epoch: Epoch) -> Gain | None:
        """Over the last epoch before it on the standing line that was really better."""
        found = self._before(epoch).found
        if found is None:
            return None
        than = found[0]
        told = compare(self._run_dir, than, epoch, "test")
        if told is None:
            return None
        return Gain(
            against_attempt=than.attempt,
            against_epoch=than.epoch,
            difference=told.difference,
            low=told.low,
            high=told.high,
        )

    def _before(self, epoch: Epoch) -> Reference:
        line = self._history.scored_lineage()
        if not line or line[-1][0].epoch < epoch.epoch:
            return self._reference.with_(self._history)
        # A score that comes late, for an epoch that could not be scored at first: there are few.
        return Reference(self._min_delta).over([one for one in line if one[0].epoch < epoch.epoch])

    def _gap(self) -> Iterator[Event]:
        """The noise in what the winner by val gives away on test, once for each pair of winners."""
        by_test, by_val = self._history.best.get("test"), self._history.best.get("val")
        if by_test is None or by_val is None or self._history.measured_gap is not None:
            return
        if by_test.epoch is not by_val.epoch:
            told = compare(self._run_dir, by_val.epoch, by_test.epoch, "test")
            yield GapMeasured(
                by_test=by_test.epoch.key,
                by_val=by_val.epoch.key,
                low=told and told.low,
                high=told and told.high,
            )

    def _refused(self, answer: Refused) -> Iterator[Event]:
        epoch = self._history.epochs[answer.attempt, answer.epoch]
        request = self._scorer.in_flight
        match answer.reason:
            case "missing" | "corrupt" if request is not None and request.manifest != epoch.manifest:
                log.info("epoch %d was moved by a roll-back while it was asked for; it is asked for again", epoch.epoch)
            case "corrupt":
                yield from self.condemn_file(epoch, answer.message)
            case "foreign":
                yield from self._rows(epoch, Verdict.FAILED, answer.message)
            case "missing" | "out-of-memory" | "error":
                yield from self._failed(epoch, answer.message)

    def condemn_file(self, epoch: Epoch, message: str) -> Iterator[Event]:
        """Its bytes are not what was committed: out of the way, with a row that says so for every missing score."""
        path = self._run_dir / epoch.manifest
        if epoch.moved != "quarantined" and path.exists():
            try:
                manifest = read_manifest(path)
            except CorruptCheckpointError:
                manifest = None
            where = place_in_quarantine(self._run_dir, path, manifest)
            # Recorded first: of a checkpoint that is gone from its place, no later daemon could tell what it was.
            yield EpochMoved(
                attempt=epoch.attempt, epoch=epoch.epoch, manifest=where, reason="quarantined", message=message
            )
            move_aside(self._run_dir, path, manifest, where)
        yield from self._rows(epoch, Verdict.CORRUPT, message)

    def _failed(self, epoch: Epoch, message: str) -> Iterator[Event]:
        self._failures[epoch.key] += 1
        log.warning("epoch %d of attempt %d: %s", epoch.epoch, epoch.attempt, message)
        if self._failures[epoch.key] >= TRIES:
            yield from self._rows(epoch, Verdict.FAILED, message)

    @staticmethod
    def _is_of(report: EvaluationReport, epoch: Epoch) -> bool:
        return (report.attempt, report.epoch, report.checkpoint_sha256) == (*epoch.key, epoch.sha256)

    def _is_of_now(self, report: EvaluationReport) -> bool:
        """Not of files that were changed since, as one that an earlier daemon did not live to record."""
        return self._history.series.now(report.split) in (None, report.data_fingerprint)

    def _set_aside(self, epoch: Epoch) -> None:
        """Its reports on the files of before stay, under another name: the evaluator will write over them."""
        for split in self._history.missing(epoch):
            report = read_report(report_path(self._run_dir, *epoch.key, split))
            if report is not None and not self._is_of_now(report):
                set_aside(self._run_dir, report)

    def _rows(self, epoch: Epoch, verdict: Verdict, message: str) -> Iterator[Event]:
        return _rows(epoch, self._history.missing(epoch), verdict, message)


def _rows(epoch: Epoch, splits: Sequence[str], verdict: Verdict, message: str) -> Iterator[Event]:
    for split in splits:
        yield ScoreRecorded(
            attempt=epoch.attempt,
            epoch=epoch.epoch,
            step=epoch.step,
            split=split,
            verdict=verdict,
            miou=None,
            fwiou=None,
            pixel_accuracy=None,
            mean_accuracy=None,
            mean_dice=None,
            images=0,
            seconds=0.0,
            checkpoint_sha256=epoch.sha256,
            message=message,
        )


def _row_of(report: EvaluationReport, gain: Gain | None) -> ScoreRecorded:
    scores, interval = report.scores, report.miou_interval
    return ScoreRecorded(
        attempt=report.attempt,
        epoch=report.epoch,
        step=report.step,
        split=report.split,
        verdict=report.verdict,
        miou=scores and scores.miou,
        fwiou=scores and scores.fwiou,
        pixel_accuracy=scores and scores.pixel_accuracy,
        mean_accuracy=scores and scores.mean_accuracy,
        mean_dice=scores and scores.mean_dice,
        class_iou=tuple(entry.iou for entry in scores.per_class) if scores else (),
        miou_low=interval and interval.low,
        miou_high=interval and interval.high,
        gain=gain,
        images=report.images,
        skipped_images=report.skipped_images,
        seconds=report.seconds,
        checkpoint_sha256=report.checkpoint_sha256,
        data_fingerprint=report.data_fingerprint,
        message=report.message,
    )
