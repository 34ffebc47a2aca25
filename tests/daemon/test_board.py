"""What TensorBoard shows of a run, read back by TensorBoard's own readers."""

from __future__ import annotations

import warnings

import pytest
from PIL import Image
from segwatch import tags
from segwatch.daemon.board import Board
from segwatch.daemon.events import (
    AcceptedSplit,
    AlertChanged,
    AlertState,
    AttemptPlanned,
    DataAccepted,
    IncidentOpened,
    RescoreWanted,
    ScoreRecorded,
    Severity,
)
from segwatch.trainer.contract import Cause
from tensorboard.plugins.custom_scalar import layout_pb2

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TensorBoard's readers, not ours
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as ServerAccumulator

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SHOWN = (ScoreRecorded, IncidentOpened, AlertChanged, AttemptPlanned)


class Shown:
    """A story whose facts a board shows as they come; read back as a person's TensorBoard would."""

    def __init__(self, run_dir, run) -> None:
        self.run_dir, self.run = run_dir, run
        self.board = Board(run_dir, run.history)
        self._shown = len(run.told)

    def show(self) -> None:
        """Show what was told since; a fact is in the history before a board sees it."""
        for moment, event in self.run.told[self._shown :]:
            self.board.handle(moment, event)
        self._shown = len(self.run.told)

    def trains(self, *epochs: int, miou: float = 0.5) -> None:
        for epoch in epochs:
            self.run.trains(epoch, miou)
            self.show()

    def restart(self) -> None:
        self.board.close()
        self.board = Board(self.run_dir, self.run.history)

    def read(self) -> EventAccumulator:
        self.board.close()
        return EventAccumulator(str(self.run_dir / "tensorboard" / "eval"), size_guidance={"tensors": 0}).Reload()

    def served(self) -> ServerAccumulator:
        """As TensorBoard's own server reads it: to it every kind of point is a tensor, and is purged alike."""
        self.board.close()
        return ServerAccumulator(str(self.run_dir / "tensorboard" / "eval"), tensor_size_guidance={"text": 0}).Reload()

    def steps(self, tag: str) -> list[int]:
        served, read = self.served(), self.read()
        steps = [point.step for point in served.Tensors(tag)] if tag in served.Tags()["tensors"] else []
        if tag in read.Tags()["scalars"]:
            assert [point.step for point in read.Scalars(tag)] == steps
        return steps

    def words(self, tag: str) -> list[str]:
        return [point.tensor_proto.string_val[0].decode() for point in self.served().Tensors(tag)]


@pytest.fixture
def shown(tmp_path, a_run):
    run = a_run()
    run.begins(names=("field", "road"))
    shown = Shown(tmp_path, run)
    yield shown
    shown.board.close()


def test_each_figure_is_a_point_at_the_global_step_under_the_tags_of_the_list(shown):
    shown.trains(1, 2, miou=0.25)
    found = shown.read()
    for split in ("val", "test"):
        for figure in set(tags.EVALUATION) - {"miou_low", "miou_high"}:
            points = found.Scalars(tags.evaluation(split, figure))
            assert [(point.step, point.value) for point in points] == [(10, 0.25), (20, 0.25)]
        assert [point.value for point in found.Scalars(tags.epoch(split))] == [1, 2]
        assert [point.value for point in found.Scalars(tags.class_iou(split, "field"))] == [0.25, 0.25]


def test_the_interval_is_two_curves_that_the_custom_page_draws_as_a_band(shown):
    for epoch in (1, 2):
        shown.run.trains(epoch, 0.5, interval=(0.25, 0.75))
    shown.show()
    shown.restart()
    shown.run.trains(3, 0.5)
    shown.show()
    assert shown.steps("test/miou_low") == shown.steps("val/miou_high") == [10, 20]
    assert shown.steps("test/miou") == [10, 20, 30]
    assert [point.value for point in shown.read().Scalars("test/miou_high")] == [0.75, 0.75]
    layout = layout_pb2.Layout.FromString(shown.served().Tensors(tags.LAYOUT)[0].tensor_proto.string_val[0])
    bands = [(band.value, band.lower, band.upper) for band in layout.category[0].chart[0].margin.series]
    assert ("test/miou", "test/miou_low", "test/miou_high") in bands


def test_what_is_unknown_is_no_point(shown):
    shown.run.trains(1, None, verdict="failed")
    shown.run.trains(2, 0.5)
    shown.show()
    assert shown.steps("test/miou") == [20]
    assert shown.steps(tags.class_iou("test", "road")) == []


def test_the_file_is_of_the_version_in_which_a_restart_purges(shown, tmp_path):
    shown.trains(1)
    shown.board.close()
    [path] = (tmp_path / "tensorboard" / "eval").iterdir()
    first, second, *_ = EventFileLoader(str(path)).Load()
    assert first.file_version == "brain.Event:2"
    assert second.HasField("session_log")


def test_what_is_recorded_can_be_seen_at_once(shown, tmp_path):
    shown.trains(1)
    [path] = (tmp_path / "tensorboard" / "eval").iterdir()
    assert any(value.tag == "test/miou" for event in EventFileLoader(str(path)).Load() for value in event.summary.value)


def test_after_a_roll_back_no_curve_runs_twice_over_the_same_steps(shown):
    shown.trains(1, 2, 3, miou=0.5)
    shown.run.suffers(Cause.NAN_LOSS, step=35)
    shown.run.plans(resume_step=10, incident=1)
    shown.run.moves(1, 2)
    shown.run.moves(1, 3)
    shown.show()
    shown.trains(2, 3, 4, miou=0.6)
    points = shown.read().Scalars("test/miou")
    assert [(point.step, round(point.value, 3)) for point in points] == [(10, 0.5), (20, 0.6), (30, 0.6), (40, 0.6)]


def test_a_daemon_that_starts_again_goes_on_with_the_same_curves(shown):
    shown.trains(1, 2)
    shown.restart()
    shown.trains(3)
    assert shown.steps("test/miou") == [10, 20, 30]


def test_a_roll_back_that_is_shown_by_the_next_daemon_purges_too(shown):
    shown.trains(1, 2)
    shown.restart()
    shown.run.plans(resume_step=10)
    shown.run.moves(1, 2)
    shown.show()
    shown.trains(2)
    assert shown.steps("test/miou") == [10, 20]


def test_a_score_of_a_superseded_epoch_that_comes_late_is_no_point(shown):
    shown.trains(1)
    late = shown.run.commits(2)
    shown.run.plans(resume_step=10)
    shown.run.moves(1, 2)
    shown.run.scores(late, "test", 0.9)
    shown.show()
    shown.trains(2, miou=0.6)
    assert shown.steps("test/miou") == [10, 20]


def test_a_score_that_comes_between_a_roll_back_and_its_moves_is_no_point_either(shown):
    shown.trains(1)
    late = shown.run.commits(2)
    shown.run.plans(resume_step=10)
    shown.run.scores(late, "test", 0.9)
    shown.show()
    shown.run.moves(1, 2)
    shown.trains(2, miou=0.6)
    assert shown.steps("test/miou") == [10, 20]


def test_an_incident_stays_to_be_read_after_the_roll_back_that_it_led_to(shown):
    shown.trains(1)
    shown.run.suffers(Cause.NAN_LOSS, step=15)
    shown.run.plans(resume_step=10, incident=1, because="learning rate halved")
    shown.show()
    assert shown.steps(tags.INCIDENTS) == [15]
    assert "nan-loss" in shown.words(tags.INCIDENTS)[0]
    assert "learning rate halved" in shown.words(tags.ATTEMPT)[-1]


def test_an_incident_stays_to_be_read_after_a_second_one_and_after_a_restart_of_the_daemon(shown):
    shown.trains(1)
    for number in (1, 2):
        shown.run.suffers(Cause.NAN_LOSS, step=15)
        shown.run.plans(resume_step=10, incident=number)
        shown.show()
    shown.restart()
    shown.trains(2)
    assert shown.steps(tags.INCIDENTS) == [15, 15]


def test_an_incident_that_a_dead_daemon_did_not_show_is_shown_once_by_the_next(shown):
    shown.trains(1)
    shown.run.suffers(Cause.INF_GRADIENTS, step=15, fatal=False)
    shown.restart()
    shown.show()
    assert shown.steps(tags.INCIDENTS) == [15]


@pytest.mark.parametrize(("state", "seen"), [("firing", True), ("pending", False), ("resolved", False)])
def test_an_alert_is_a_text_when_it_fires(shown, state, seen):
    shown.trains(1)
    shown.run.tell(
        AlertChanged(
            fingerprint="x",
            code="miou-stall",
            severity=Severity.WARNING,
            state=AlertState(state),
            since=1.0,
            cause="no gain",
            evidence={"epoch": 1},
            action="None.",
            advice="Lower lr.",
        )
    )
    shown.show()
    assert shown.steps(tags.ALERTS) == ([10] if seen else [])
    if seen:
        assert all(word in shown.words(tags.ALERTS)[0] for word in ("miou-stall", "no gain", "epoch 1", "Lower lr."))


def test_the_overlay_of_a_test_score_is_an_image(shown, tmp_path):
    directory = tmp_path / "evaluations" / "overlays"
    directory.mkdir(parents=True)
    Image.new("RGB", (6, 4)).save(directory / "attempt001_epoch1.png")
    shown.trains(1, 2)
    [image] = shown.read().Images(tags.OVERLAYS)
    assert (image.step, image.width, image.height) == (10, 6, 4)


def test_every_tag_that_is_written_is_of_the_list(shown, tmp_path):
    shown.trains(1)
    shown.run.suffers(Cause.NAN_LOSS)
    shown.run.plans(resume_step=10)
    shown.show()
    known = {tags.INCIDENTS, tags.ALERTS, tags.ATTEMPT, tags.OVERLAYS, tags.LAYOUT}
    for split in ("val", "test"):
        known |= {tags.evaluation(split, figure) for figure in tags.EVALUATION}
        known |= {tags.epoch(split)} | {tags.class_iou(split, name) for name in ("field", "road")}
    found = shown.read().Tags()
    assert set(found["scalars"]) | set(found["tensors"]) <= known


def test_a_disk_that_refuses_costs_one_fact_and_no_more(shown, monkeypatch):
    shown.trains(1)
    writer = shown.board._writer

    def refuse(_event: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "add_event", refuse)
    shown.run.trains(2, 0.5)
    with pytest.raises(OSError, match="No space left"):
        shown.board.handle(*shown.run.told[-1])
    shown._shown = len(shown.run.told)
    shown.trains(3)
    assert shown.steps("test/miou") == [10, 30]


def test_what_a_killed_daemon_may_have_shown_is_shown_once(shown):
    """It died after the fact and before its note that the fact was shown: nobody knows whether the point is there."""
    shown.trains(1, 2, 3)
    doubtful = shown.run.told[-3:]
    shown.restart()
    shown.board.catch_up(doubtful)
    shown.trains(4)
    steps = shown.steps(tags.evaluation("test", "miou"))
    assert len(steps) == len(set(steps)) == 4
    assert len(shown.steps(tags.evaluation("val", "miou"))) == 4


# --- files that were changed ---------------------------------------------------------------------------------------


def on_other_files(shown, *, told: bool = True) -> None:
    """Two epochs; then the test files are changed, and epoch 3 is scored on them."""
    for epoch in (1, 2):
        shown.run.trains(epoch, 0.8, data="old")
    shown.show()
    split = AcceptedSplit(split="test", before="old", after="new", count="1 file of test changed")
    steps = (
        lambda: shown.run.tell(DataAccepted(splits=(split,))),
        lambda: shown.run.commits(3),
        lambda: shown.run.scores(shown.run.history.epochs[1, 3], "val", 0.8, data="old"),
        lambda: shown.run.scores(shown.run.history.epochs[1, 3], "test", 0.2, data="new"),
    )
    for step in steps:
        step()
        if told:
            shown.show()


def curves(shown, directory: str) -> dict[str, list[tuple[int, float]]]:
    shown.board.close()
    found = EventAccumulator(str(shown.run_dir / "tensorboard" / directory)).Reload()
    return {
        split: [(point.step, round(point.value, 2)) for point in found.Scalars(tags.evaluation(split, "miou"))]
        for split in ("val", "test")
    }


OLD = {"val": [(10, 0.8), (20, 0.8)], "test": [(10, 0.8), (20, 0.8)]}
NEW = {"val": [(10, 0.8), (20, 0.8), (30, 0.8)], "test": [(30, 0.2)]}


def test_curves_on_changed_files_begin_anew_beside_those_of_before(shown):
    on_other_files(shown)
    assert curves(shown, "eval") == OLD
    assert curves(shown, "eval-2") == NEW


def test_a_board_that_missed_the_change_catches_up_with_it(shown):
    on_other_files(shown, told=False)
    shown.restart()
    shown.board.catch_up(shown.run.told[-4:])
    assert curves(shown, "eval") == OLD
    assert curves(shown, "eval-2") == NEW


def test_epochs_that_are_scored_again_stand_in_order_once_all_are_there(shown):
    on_other_files(shown)
    shown.run.tell(RescoreWanted(former=((1, 1), (1, 2))))
    for number in (1, 2):
        shown.run.scores(shown.run.history.epochs[1, number], "test", 0.1, data="new")
        moment, event = shown.run.told[-1]
        shown.board.handle(moment, event)
    assert curves(shown, "eval") == OLD
    assert curves(shown, "eval-2")["test"] == [(10, 0.1), (20, 0.1), (30, 0.2)]
