"""What an answer of the evaluator means for the run, with an evaluator that only notes what it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from segwatch.daemon.events import GapMeasured, ScoreRecorded
from segwatch.daemon.inbox import EvaluatorExited, EvaluatorSaid
from segwatch.daemon.scoring import Scoring
from segwatch.durable import write_text
from segwatch.evaluator.metrics import score
from segwatch.evaluator.report import Done, EvaluationReport, Refused, Request, Scored, Verdict, report_path
from segwatch.evaluator.statistics import PerImage, miou_interval, write_per_image


class Asked:
    """In place of a Scorer: is always ready, keeps the request."""

    def __init__(self) -> None:
        self.in_flight: Request | None = None
        self.unable = self.refusal = None

    @property
    def idle(self) -> bool:
        return self.in_flight is None

    def tend(self) -> None:
        pass

    def ask(self, request: Request) -> None:
        self.in_flight = request

    def heard(self, said: EvaluatorSaid) -> bool:
        return True

    def answered(self) -> None:
        self.in_flight = None

    def died(self, exited: EvaluatorExited) -> Request | None:
        request, self.in_flight = self.in_flight, None
        return request


class Desk:
    """A scoring whose facts are recorded as they come."""

    def __init__(self, run_dir, run) -> None:
        self.run, self.scorer = run, Asked()
        self.run_dir = run_dir
        self.scoring = Scoring(run_dir, run.history, self.scorer, min_delta=0.002)

    def tend(self) -> None:
        self._record(self.scoring.tend())

    def scores(self, epoch: int, *, test: float, val: float = 0.5, counted: bool = True) -> None:
        """The evaluator's answer on an epoch that was committed just now; `counted` per image or as in older runs."""
        committed = self.run.commits(epoch)
        self.tend()
        assert self.asked == committed.key
        for split, right in (("val", val), ("test", test)):
            report = write_evaluation(self.run_dir, committed, split, right, counted=counted)
            answer = Scored(attempt=committed.attempt, epoch=epoch, split=split, report=report)
            self._record(self.scoring.heard(EvaluatorSaid(1, answer)))
        self._record(self.scoring.heard(EvaluatorSaid(1, Done(attempt=committed.attempt, epoch=epoch))))
        self.tend()

    def score(self, epoch: int, split: str = "test") -> ScoreRecorded:
        return self.run.history.epochs[self.run.attempt, epoch].scores[split]

    def refuse(self, reason: str) -> None:
        request = self.scorer.in_flight
        place = {"attempt": request.attempt, "epoch": request.epoch}
        self._record(self.scoring.heard(EvaluatorSaid(1, Refused(reason=reason, message="why", **place))))
        self._record(self.scoring.heard(EvaluatorSaid(1, Done(**place))))

    def dies(self) -> None:
        self._record(self.scoring.died(EvaluatorExited(1, -9)))

    def _record(self, events: Iterator) -> None:
        for event in events:
            self.run.tell(event)

    @property
    def asked(self) -> tuple[int, int] | None:
        request = self.scorer.in_flight
        return request and (request.attempt, request.epoch)

    def verdicts(self, attempt: int, epoch: int) -> dict[str, str]:
        return {split: score.verdict for split, score in self.run.history.epochs[attempt, epoch].scores.items()}


@pytest.fixture
def desk(tmp_path, a_run) -> Desk:
    run = a_run()
    run.begins()
    return Desk(tmp_path, run)


def test_epochs_are_asked_for_in_numeric_order_one_at_a_time(desk):
    for epoch in (10, 2, 9):
        desk.run.commits(epoch)
    desk.tend()
    desk.run.commits(1)
    desk.tend()
    assert desk.asked == (1, 2)


@pytest.mark.parametrize(("reason", "verdict"), [("foreign", "failed"), ("corrupt", "corrupt")])
def test_what_can_never_be_scored_gets_a_row_with_the_reason_at_once(desk, reason, verdict):
    desk.run.commits(1)
    desk.tend()
    desk.refuse(reason)
    assert desk.verdicts(1, 1) == {"val": verdict, "test": verdict}
    assert desk.run.history.unscored == {}


@pytest.mark.parametrize("reason", ["missing", "out-of-memory", "error"])
def test_what_may_go_better_is_tried_twice_and_then_gets_its_row(desk, reason):
    desk.run.commits(1)
    desk.tend()
    desk.refuse(reason)
    assert desk.verdicts(1, 1) == {}
    desk.tend()
    assert desk.asked == (1, 1)
    desk.refuse(reason)
    assert desk.verdicts(1, 1) == {"val": "failed", "test": "failed"}


def test_an_epoch_that_kills_the_evaluator_twice_gets_its_row_and_the_next_is_asked_for(desk):
    desk.run.commits(1)
    desk.run.commits(2)
    for _ in range(2):
        desk.tend()
        assert desk.asked == (1, 1)
        desk.dies()
    assert desk.verdicts(1, 1) == {"val": "failed", "test": "failed"}
    desk.tend()
    assert desk.asked == (1, 2)


@pytest.mark.parametrize("reason", ["missing", "corrupt"])
def test_an_epoch_that_was_moved_while_it_was_read_is_asked_for_where_it_lies_now(desk, reason, tmp_path):
    """Its manifest may be read before the move and its weights be looked for after it: they are not corrupt."""
    epoch = desk.run.commits(1)
    desk.tend()
    desk.run.moves(1, 1)
    write_text_below(tmp_path, epoch.manifest)
    desk.refuse(reason)
    assert epoch.moved == "superseded"
    assert (tmp_path / epoch.manifest).exists()
    assert desk.verdicts(1, 1) == {}
    desk.tend()
    assert desk.scorer.in_flight.manifest == "checkpoints/superseded/001/checkpoint_epoch1.json"


def test_a_corrupt_epoch_is_moved_out_of_the_way(desk, tmp_path):
    epoch = desk.run.commits(1)
    write_text_below(tmp_path, epoch.manifest)
    desk.tend()
    desk.refuse("corrupt")
    assert epoch.moved == "quarantined"
    assert (tmp_path / epoch.manifest).parent.parent.name == "quarantine"


def test_an_epoch_that_says_itself_it_is_not_finite_is_not_asked_for(desk):
    desk.run.commits(1, finite=False)
    desk.tend()
    assert desk.asked is None
    assert desk.verdicts(1, 1) == {"val": "not-finite", "test": "not-finite"}


def test_a_report_that_is_no_report_is_not_believed(desk, tmp_path):
    (tmp_path / "evaluations").mkdir()
    (tmp_path / "evaluations" / "attempt001_epoch1_val.json").write_text("{")
    desk.run.commits(1)
    desk.tend()
    assert desk.verdicts(1, 1) == {}
    assert desk.scorer.in_flight.splits == ("val", "test")


def test_only_the_splits_that_are_missing_are_asked_for(desk):
    desk.run.scores(desk.run.commits(1), "val", 0.5)
    desk.tend()
    assert desk.scorer.in_flight.splits == ("test",)


# --- noise ---------------------------------------------------------------------------------------------------------


def write_evaluation(run_dir, epoch, split: str, right: float, *, counted: bool = True, skipped: int = 2) -> str:
    """A report of eight images, each a little harder than the one before, `right` of the pixels right on average."""
    share = right + np.linspace(0.05, -0.05, 8)[:, None] + np.zeros((8, 2))
    support = np.full((8, 2), 1000)
    hits = np.round(support * share).astype(np.int64)
    images = PerImage(tuple(f"tile_{n}" for n in range(8)), hits, support, hits + (support - hits)[:, ::-1])
    (a, b), (wrong_a, wrong_b) = hits.sum(axis=0), (support - hits).sum(axis=0)
    matrix = np.array([[a, wrong_a], [wrong_b, b]])
    path = report_path(run_dir, *epoch.key, split)
    path.parent.mkdir(exist_ok=True)
    if counted:
        write_per_image(path.with_suffix(".npz"), images)
    report = EvaluationReport(
        attempt=epoch.attempt,
        epoch=epoch.epoch,
        step=epoch.step,
        split=split,
        verdict=Verdict.OK,
        scores=score(matrix),
        confusion=matrix.tolist(),
        class_ids=(0, 1),
        class_names=("field", "road"),
        policy="both classes",
        images=8,
        skipped_images=skipped,
        ignored_pixels=0,
        counted_pixels=int(matrix.sum()),
        seconds=0.1,
        device="cpu",
        checkpoint_sha256=epoch.sha256,
        data_fingerprint="f",
        miou_interval=miou_interval(images) if counted else None,
        per_image=path.with_suffix(".npz").name if counted else None,
    )
    write_text(path, report.model_dump_json())
    return str(path.relative_to(run_dir))


def test_a_score_is_recorded_with_its_interval_and_with_what_was_skipped(desk):
    desk.scores(1, test=0.6)
    for split in ("val", "test"):
        row = desk.score(1, split)
        assert row.miou_low < row.miou < row.miou_high
        assert (row.images, row.skipped_images) == (8, 2)


def test_a_test_score_is_compared_with_the_last_epoch_that_was_really_better(desk):
    desk.scores(1, test=0.6)
    desk.scores(2, test=0.7)
    desk.scores(3, test=0.69)
    desk.scores(4, test=0.71)
    assert desk.score(1).gain is None
    against = {epoch: desk.score(epoch).gain.against_epoch for epoch in (2, 3, 4)}
    assert against == {2: 1, 3: 2, 4: 2}
    gain = desk.score(2).gain
    assert gain.low > 0
    assert gain.difference == pytest.approx(desk.score(2).miou - desk.score(1).miou)
    assert desk.score(3).gain.high < 0
    assert all(desk.score(epoch, "val").gain is None for epoch in (1, 2, 3, 4))


def test_after_a_roll_back_a_score_is_compared_with_what_stands(desk):
    desk.scores(1, test=0.6)
    desk.scores(2, test=0.7)
    desk.run.moves(1, 2)
    desk.run.plans()
    desk.scores(2, test=0.65)
    assert (desk.score(2).gain.against_attempt, desk.score(2).gain.against_epoch) == (1, 1)


def test_an_epoch_is_never_compared_with_a_later_one(desk):
    """One that failed is scored again when later ones have their scores."""
    desk.scores(1, test=0.6)
    desk.scores(3, test=0.8)
    desk.scores(2, test=0.7)
    assert desk.score(2).gain.against_epoch == 1


@pytest.mark.parametrize("which", [1, 2])
def test_where_images_were_not_counted_there_is_a_score_and_no_comparison(desk, which):
    for epoch in (1, 2):
        desk.scores(epoch, test=0.5 + 0.1 * epoch, counted=epoch != which)
    assert desk.score(2).miou > desk.score(1).miou
    assert desk.score(2).gain is None


def test_counts_that_cannot_be_read_cost_the_comparison_and_are_told_in_the_log(desk, caplog):
    desk.scores(1, test=0.6)
    report_path(desk.run_dir, 1, 1, "test").with_suffix(".npz").write_bytes(b"PK torn")
    desk.scores(2, test=0.7)
    assert desk.score(2).gain is None
    assert "epoch 1 of attempt 1 is compared without its images" in caplog.text


def test_the_counts_of_another_checkpoint_of_the_same_name_are_not_compared(desk):
    desk.scores(1, test=0.6)
    other = replace(desk.run.history.epochs[1, 1], sha256="another")
    write_evaluation(desk.run_dir, other, "test", 0.2)
    desk.scores(2, test=0.7)
    assert desk.score(2).gain is None


def test_a_report_that_a_dead_daemon_did_not_record_is_compared_too(desk):
    desk.scores(1, test=0.6)
    epoch = desk.run.commits(2)
    for split in ("val", "test"):
        write_evaluation(desk.run_dir, epoch, split, 0.7)
    desk.tend()
    assert desk.asked is None
    assert desk.score(2).gain.against_epoch == 1
    assert desk.score(2, "val").gain is None


def test_the_gap_between_two_winners_is_measured_once_for_each_pair(desk):
    desk.scores(1, test=0.6, val=0.9)
    assert desk.run.history.measured_gap is None
    desk.scores(2, test=0.7, val=0.5)
    measured = desk.run.history.measured_gap
    assert (measured.by_test, measured.by_val) == ((1, 2), (1, 1))
    assert 0 < measured.low < measured.high
    desk.scores(3, test=0.5, val=0.5)
    for _ in range(3):
        desk.tend()
    assert sum(isinstance(event, GapMeasured) for _, event in desk.run.told) == 1
    desk.scores(4, test=0.8, val=0.5)
    assert desk.run.history.measured_gap.by_test == (1, 4)


def test_winners_whose_images_were_not_counted_have_a_gap_without_interval_and_are_not_looked_at_again(desk):
    desk.scores(1, test=0.6, val=0.9, counted=False)
    desk.scores(2, test=0.7, val=0.5)
    assert desk.run.history.measured_gap.low is None
    desk.tend()
    assert sum(isinstance(event, GapMeasured) for _, event in desk.run.told) == 1


def write_text_below(run_dir, name: str) -> None:
    path = run_dir / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "{}")
