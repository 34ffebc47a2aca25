"""What an answer of the evaluator means for the run, with an evaluator that only notes what it is asked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from segwatch.daemon.inbox import EvaluatorExited, EvaluatorSaid
from segwatch.daemon.scoring import Scoring
from segwatch.durable import write_text
from segwatch.evaluator.report import Done, Refused, Request


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
        self.scoring = Scoring(run_dir, run.history, self.scorer)

    def tend(self) -> None:
        self._record(self.scoring.tend())

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


def write_text_below(run_dir, name: str) -> None:
    path = run_dir / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "{}")
