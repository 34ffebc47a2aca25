"""What TensorBoard shows of a run, read back by TensorBoard's own readers."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
from PIL import Image
from segwatch import tags
from segwatch.daemon.board import Board
from segwatch.daemon.board_attempts import AttemptsBoard
from segwatch.daemon.board_layout import layout
from segwatch.daemon.events import (
    AcceptedSplit,
    AlertChanged,
    AlertState,
    AttemptPlanned,
    DataAccepted,
    IncidentOpened,
    Outcome,
    RescoreWanted,
    ScoreRecorded,
    Severity,
)
from segwatch.trainer.contract import Cause
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.util.tensor_util import make_ndarray

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
    charts = [chart for category in layout.category for chart in category.chart]
    bands = [(band.value, band.lower, band.upper) for chart in charts for band in chart.margin.series]
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


@pytest.mark.parametrize(("name", "tag"), [("", tags.OVERLAYS), ("_worst", tags.WORST), ("_confusion", tags.CONFUSION)])
def test_each_picture_of_a_test_score_is_an_image(shown, tmp_path, name, tag):
    directory = tmp_path / "evaluations" / "overlays"
    directory.mkdir(parents=True)
    Image.new("RGB", (6, 4)).save(directory / f"attempt001_epoch1{name}.png")
    shown.trains(1, 2)
    [image] = shown.read().Images(tag)
    assert (image.step, image.width, image.height) == (10, 6, 4)


# --- the page that it opens on ---------------------------------------------------------------------------------------


def test_every_curve_of_the_page_is_written_by_worker_or_daemon(shown):
    """A chart whose expression matches no tag is an empty box: a tag was renamed, and the page was not."""
    shown.trains(1)
    shown.run.suffers(Cause.NAN_LOSS, step=15)
    shown.show()
    written = [*shown.read().Tags()["scalars"]]
    written += [value for name, value in vars(tags).items() if name.startswith(("TRAIN_", "AMP_"))]
    patterns = [tag for category in layout().category for chart in category.chart for tag in chart.multiline.tag]
    assert len(patterns) >= 12
    assert [pattern for pattern in patterns if not any(re.match(pattern, tag) for tag in written)] == []


def needle(shown) -> list[tuple[int, float]]:
    steps = shown.steps(tags.INCIDENT_MARK)
    points = [(point.step, point.value) for point in shown.read().Scalars(tags.INCIDENT_MARK)]
    assert [step for step, _ in points] == steps == sorted(set(steps)), "runs back, or twice over a step"
    return points


def test_an_incident_is_a_needle_that_stays_behind_the_roll_back_that_answers_it(shown):
    shown.trains(1)
    shown.run.suffers(Cause.NAN_LOSS, step=15)
    shown.run.plans(resume_step=10, incident=1)
    shown.show()
    shown.trains(2)
    assert needle(shown) == [(14, 0), (15, 1), (16, 0)]


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize(
    ("second", "points"),
    [
        (13, [(12, 0), (13, 1), (14, 0), (16, 0), (17, 1), (18, 0)]),
        (16, [(15, 0), (16, 1), (17, 1), (18, 0)]),
        (17, [(16, 0), (17, 1), (18, 0)]),
        (19, [(16, 0), (17, 1), (18, 0), (19, 1), (20, 0)]),
    ],
)
def test_needles_stand_in_order_whatever_comes_after_a_roll_back(shown, second, points, restarted):
    shown.trains(1)
    shown.run.suffers(Cause.NAN_LOSS, step=17)
    shown.run.plans(resume_step=10, incident=1)
    shown.show()
    if restarted:
        shown.restart()
    shown.run.suffers(Cause.NAN_LOSS, step=second)
    shown.show()
    assert needle(shown) == points
    assert shown.steps("test/miou") == [10]


def test_an_incident_that_is_told_late_leaves_the_scores_in_order(shown):
    shown.trains(1, 2)
    shown.run.suffers(Cause.INF_GRADIENTS, step=12, fatal=False)
    shown.show()
    shown.trains(3)
    assert needle(shown) == [(11, 0), (12, 1), (13, 0)]
    assert shown.steps("test/miou") == [10, 20, 30]


def test_an_incident_that_a_killed_daemon_may_have_shown_is_one_needle_and_one_text(shown):
    shown.trains(1)
    shown.run.suffers(Cause.NAN_LOSS, step=15)
    shown.show()
    shown.restart()
    shown.board.catch_up(shown.run.told[-1:])
    assert needle(shown) == [(14, 0), (15, 1), (16, 0)]
    assert shown.steps(tags.INCIDENTS) == [15]


# --- a session for each attempt ---------------------------------------------------------------------------------------


def session(run_dir: Path, attempt: int) -> tuple[dict[str, object], list[tuple[int, float]], int | None]:
    """As TensorBoard's server reads it: what the attempt was given, its best test mIoU by step, how it ended."""
    found = ServerAccumulator(str(run_dir / "tensorboard" / "attempts" / f"{attempt:03d}")).Reload()

    def content(tag: str) -> plugin_data_pb2.HParamsPluginData:
        told = found.SummaryMetadata(tag).plugin_data.content
        return plugin_data_pb2.HParamsPluginData.FromString(told)

    names = found.Tags()["tensors"]
    given = content(metadata.SESSION_START_INFO_TAG).session_start_info.hparams
    best = tags.attempt_best("test")
    points = (
        [(p.step, round(make_ndarray(p.tensor_proto).item(), 2)) for p in found.Tensors(best)] if best in names else []
    )
    ended = metadata.SESSION_END_INFO_TAG
    status = content(ended).session_end_info.status if ended in names else None
    return {name: value.number_value or value.string_value for name, value in given.items()}, points, status


def test_an_attempt_is_a_session_with_what_it_was_given_and_the_best_it_came_to(tmp_path, a_run):
    run = a_run()
    board = AttemptsBoard(tmp_path, run.history)
    steps = [
        run.begins,
        lambda: run.trains(1, 0.5),
        lambda: run.trains(2, 0.3),
        lambda: run.ends(Outcome.UNSTABLE),
        lambda: run.plans(lr=5e-4, amp="bf16", remedy="lower-lr", resume_epoch=2),
        lambda: run.trains(3, 0.6),
    ]
    for step in steps:
        told = len(run.told)
        step()
        for moment, event in run.told[told:]:
            board.handle(moment, event)
    board.close()
    given, points, status = session(tmp_path, 1)
    assert (given["lr"], given["AMP"], given["batch size"]) == (1e-3, "off", 4)
    assert points == [(10, 0.5), (20, 0.5)]
    assert status == api_pb2.STATUS_FAILURE
    given, points, status = session(tmp_path, 2)
    assert (given["lr"], given["AMP"], given["remedy"], given["from epoch"]) == (5e-4, "bf16", "lower-lr", 2)
    assert (points, status) == ([(30, 0.6)], None)


def test_a_session_that_is_told_again_has_no_point_twice(tmp_path, a_run):
    run = a_run()
    run.begins()
    run.trains(1, 0.5)
    run.trains(2, 0.6)
    for _ in range(2):
        board = AttemptsBoard(tmp_path, run.history)
        board.catch_up(run.told[-2:])
        board.close()
    assert session(tmp_path, 1)[1] == [(10, 0.5), (20, 0.6)]


def test_every_tag_that_is_written_is_of_the_list(shown, tmp_path):
    shown.trains(1)
    shown.run.suffers(Cause.NAN_LOSS)
    shown.run.plans(resume_step=10)
    shown.show()
    known = {tags.INCIDENTS, tags.INCIDENT_MARK, tags.ALERTS, tags.ATTEMPT, tags.OVERLAYS, tags.LAYOUT}
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
