"""What TensorBoard shows of a run, read back by TensorBoard's own readers."""

from __future__ import annotations

import re
import warnings

import pytest
from PIL import Image
from segwatch import tags
from segwatch.daemon.board import Board
from segwatch.daemon.board_files import directories
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
from segwatch.trainer.config import Amp
from segwatch.trainer.contract import Cause, Progress
from segwatch.trainer.points import points
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

    def read(self, below: str = "eval") -> EventAccumulator:
        self.board.close()
        return EventAccumulator(str(self.run_dir / "tensorboard" / below), size_guidance={"tensors": 0}).Reload()

    def served(self, below: str = "eval") -> ServerAccumulator:
        """As TensorBoard's own server reads it: to it every kind of point is a tensor, and is purged alike."""
        self.board.close()
        return ServerAccumulator(str(self.run_dir / "tensorboard" / below), tensor_size_guidance={"text": 0}).Reload()

    def steps(self, tag: str, below: str = "eval") -> list[int]:
        served, read = self.served(below), self.read(below)
        steps = [point.step for point in served.Tensors(tag)] if tag in served.Tags()["tensors"] else []
        if tag in read.Tags()["scalars"]:
            assert [point.step for point in read.Scalars(tag)] == steps
        return steps

    def words(self, tag: str) -> list[str]:
        return [point.tensor_proto.string_val[0].decode() for point in self.served().Tensors(tag)]


MIOU = tags.evaluation("miou"), "eval/test"
"""The curve that most of these tests look at."""


@pytest.fixture
def shown(tmp_path, a_run):
    run = a_run()
    run.begins(names=("field", "road"))
    shown = Shown(tmp_path, run)
    yield shown
    shown.board.close()


def test_each_figure_is_a_point_at_the_global_step_under_the_tags_of_the_list(shown):
    shown.trains(1, 2, miou=0.25)
    for split in ("val", "test"):
        found = shown.read(f"eval/{split}")
        for figure in tags.EVALUATION:
            points = found.Scalars(tags.evaluation(figure))
            assert [(point.step, point.value) for point in points] == [(10, 0.25), (20, 0.25)]
        assert [point.value for point in found.Scalars(tags.EPOCH)] == [1, 2]
        assert [point.value for point in shown.read("iou/field").Scalars(tags.class_iou(split))] == [0.25, 0.25]


def test_the_interval_is_two_curves_that_the_custom_page_draws_as_a_band(shown):
    for epoch in (1, 2):
        shown.run.trains(epoch, 0.5, interval=(0.25, 0.75))
    shown.show()
    shown.restart()
    shown.run.trains(3, 0.5)
    shown.show()
    value, low, high = tags.INTERVAL
    for split in ("val", "test"):
        # TensorBoard draws no band at all where the three differ in a step.
        assert [shown.steps(tag, f"eval/{split}") for tag in tags.INTERVAL] == [[10, 20]] * 3
    assert shown.steps(*MIOU) == [10, 20, 30]
    assert [point.value for point in shown.read("eval/test").Scalars(high)] == [0.75, 0.75]
    layout = layout_pb2.Layout.FromString(shown.served().Tensors(tags.LAYOUT)[0].tensor_proto.string_val[0])
    charts = [chart for category in layout.category for chart in category.chart]
    bands = [(band.value, band.lower, band.upper) for chart in charts for band in chart.margin.series]
    assert bands == [(value, low, high)], "of two, TensorBoard tells of tags that are missing"


def test_what_is_unknown_is_no_point(shown):
    shown.run.trains(1, None, verdict="failed")
    shown.run.trains(2, 0.5)
    shown.show()
    assert shown.steps(*MIOU) == [20]
    assert shown.steps(tags.class_iou("test"), "iou/road") == []


def test_the_file_is_of_the_version_in_which_a_restart_purges(shown, tmp_path):
    shown.trains(1)
    shown.board.close()
    files = [path for path in (tmp_path / "tensorboard").rglob("*") if path.is_file()]
    assert len(files) == 5, "of words, two splits and two classes"
    for path in files:
        first, second, *_ = EventFileLoader(str(path)).Load()
        assert first.file_version == "brain.Event:2"
        assert second.HasField("session_log")


def test_what_is_recorded_can_be_seen_at_once(shown, tmp_path):
    shown.trains(1)
    [path] = (tmp_path / "tensorboard" / "eval" / "test").iterdir()
    assert any(value.tag == MIOU[0] for event in EventFileLoader(str(path)).Load() for value in event.summary.value)


def test_after_a_roll_back_no_curve_runs_twice_over_the_same_steps(shown):
    shown.trains(1, 2, 3, miou=0.5)
    shown.run.suffers(Cause.NAN_LOSS, step=35)
    shown.run.plans(resume_step=10, incident=1)
    shown.run.moves(1, 2)
    shown.run.moves(1, 3)
    shown.show()
    shown.trains(2, 3, 4, miou=0.6)
    for tag, below in (MIOU, (MIOU[0], "eval/val"), (tags.class_iou("test"), "iou/field")):
        points = [(point.step, round(point.value, 3)) for point in shown.read(below).Scalars(tag)]
        assert points == [(10, 0.5), (20, 0.6), (30, 0.6), (40, 0.6)]
        assert shown.steps(tag, below) == [10, 20, 30, 40]


def test_a_daemon_that_starts_again_goes_on_with_the_same_curves(shown):
    shown.trains(1, 2)
    shown.restart()
    shown.trains(3)
    assert shown.steps(*MIOU) == [10, 20, 30]


def test_a_roll_back_that_is_shown_by_the_next_daemon_purges_too(shown):
    shown.trains(1, 2)
    shown.restart()
    shown.run.plans(resume_step=10)
    shown.run.moves(1, 2)
    shown.show()
    shown.trains(2)
    assert shown.steps(*MIOU) == [10, 20]


def test_a_score_of_a_superseded_epoch_that_comes_late_is_no_point(shown):
    shown.trains(1)
    late = shown.run.commits(2)
    shown.run.plans(resume_step=10)
    shown.run.moves(1, 2)
    shown.run.scores(late, "test", 0.9)
    shown.show()
    shown.trains(2, miou=0.6)
    assert shown.steps(*MIOU) == [10, 20]


def test_a_score_that_comes_between_a_roll_back_and_its_moves_is_no_point_either(shown):
    shown.trains(1)
    late = shown.run.commits(2)
    shown.run.plans(resume_step=10)
    shown.run.scores(late, "test", 0.9)
    shown.show()
    shown.run.moves(1, 2)
    shown.trains(2, miou=0.6)
    assert shown.steps(*MIOU) == [10, 20]


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


def worker_tags(amp: Amp) -> set[str]:
    """What a worker writes in this precision."""
    scale = 65536.0 if amp is Amp.FP16 else None
    line = Progress(
        time=0.0,
        step=1,
        epoch=1,
        step_in_epoch=1,
        loss=0.5,
        grad_norm=1.0,
        lr=1e-3,
        images_per_second=9.0,
        p99_step_seconds=0.1,
        amp_scale=scale,
        skipped_steps=0,
        memory_mb=1.0,
    )
    return {tag for tag, value in points(line, amp).items() if value is not None}


@pytest.mark.parametrize("amp", Amp)
def test_every_curve_of_the_page_is_written_by_worker_or_daemon_and_no_chart_stays_empty(shown, amp):
    """A chart whose expression matches no tag is an empty box: a tag was renamed, or this run cannot have it."""
    shown.run.plans(amp=amp)
    shown.run.trains(1, 0.5, interval=(0.4, 0.6))
    shown.run.suffers(Cause.NAN_LOSS, step=15)
    shown.show()
    written = worker_tags(amp)
    for below in ("eval", "eval/val", "eval/test", "iou/field"):
        written |= set(shown.read(below).Tags()["scalars"])
    charts = laid_out(shown)
    patterns = [tag for chart in charts for tag in chart.multiline.tag]
    patterns += [re.escape(tag) for chart in charts for band in chart.margin.series for tag in (band.value, band.lower)]
    assert len(patterns) >= 12
    assert [pattern for pattern in patterns if not any(re.match(pattern, tag) for tag in written)] == []
    assert any(tags.AMP_SCALE in tag for tag in patterns) == (amp is Amp.FP16)


def laid_out(shown) -> list[layout_pb2.Chart]:
    """The charts of the newest layout, which is the one that TensorBoard takes."""
    newest = shown.served().Tensors(tags.LAYOUT)[-1]
    layout = layout_pb2.Layout.FromString(newest.tensor_proto.string_val[0])
    return [chart for category in layout.category for chart in category.chart]


def test_the_charts_of_fp16_come_with_its_first_attempt_and_stay(shown):
    def has_them() -> bool:
        return "AMP: loss scale" in [chart.title for chart in laid_out(shown)]

    shown.trains(1)
    assert not has_them()
    shown.run.plans(amp=Amp.FP16)
    shown.show()
    assert has_them()
    shown.run.plans(amp=Amp.OFF)
    shown.show()
    shown.restart()
    shown.trains(2)
    assert has_them()


def test_classes_whose_names_look_alike_to_a_disk_have_directories_of_their_own(tmp_path):
    found = directories(tmp_path, 2, ["road/paved", "road paved", "道路", "..", "x" * 300])
    names = [str(place.relative_to(tmp_path)) for place in found.values()]
    assert names == [
        *("eval-2", "eval-2/val", "eval-2/test"),
        *("iou-2/road_paved", "iou-2/road_paved-2", "iou-2/道路", "iou-2/_", f"iou-2/{'x' * 60}"),
    ]


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
    assert shown.steps(*MIOU) == [10]


def test_an_incident_that_is_told_late_leaves_the_scores_in_order(shown):
    shown.trains(1, 2)
    shown.run.suffers(Cause.INF_GRADIENTS, step=12, fatal=False)
    shown.show()
    shown.trains(3)
    assert needle(shown) == [(11, 0), (12, 1), (13, 0)]
    assert shown.steps(*MIOU) == [10, 20, 30]


def test_an_incident_that_a_killed_daemon_may_have_shown_is_one_needle_and_one_text(shown):
    shown.trains(1)
    shown.run.suffers(Cause.NAN_LOSS, step=15)
    shown.show()
    shown.restart()
    shown.board.catch_up(shown.run.told[-1:])
    assert needle(shown) == [(14, 0), (15, 1), (16, 0)]
    assert shown.steps(tags.INCIDENTS) == [15]


def test_every_tag_that_is_written_is_of_the_list(shown):
    shown.trains(1)
    shown.run.suffers(Cause.NAN_LOSS)
    shown.run.plans(resume_step=10)
    shown.show()
    known = {tags.INCIDENTS, tags.INCIDENT_MARK, tags.ALERTS, tags.ATTEMPT, tags.OVERLAYS, tags.LAYOUT}
    scores = {tags.evaluation(figure) for figure in tags.EVALUATION} | {tags.EPOCH}
    classes = {tags.class_iou(split) for split in ("val", "test")}
    for below, those in {"eval": known, "eval/val": scores, "eval/test": scores, "iou/road": classes}.items():
        found = shown.read(below).Tags()
        assert set(found["scalars"]) | set(found["tensors"]) <= those


def test_a_disk_that_refuses_costs_one_fact_and_no_more(shown, monkeypatch):
    shown.trains(1)
    writer = shown.board._writer

    def refuse(_event: object, _key: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "add_event", refuse)
    shown.run.trains(2, 0.5)
    with pytest.raises(OSError, match="No space left"):
        shown.board.handle(*shown.run.told[-1])
    shown._shown = len(shown.run.told)
    shown.trains(3)
    assert shown.steps(*MIOU) == [10, 30]


def test_what_a_killed_daemon_may_have_shown_is_shown_once(shown):
    """It died after the fact and before its note that the fact was shown: nobody knows whether the point is there."""
    shown.trains(1, 2, 3)
    doubtful = shown.run.told[-3:]
    shown.restart()
    shown.board.catch_up(doubtful)
    shown.trains(4)
    for tag, below in (MIOU, (MIOU[0], "eval/val"), (tags.class_iou("val"), "iou/field")):
        assert shown.steps(tag, below) == [10, 20, 30, 40]


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
    found = {}
    for split in ("val", "test"):
        points = shown.read(f"{directory}/{split}").Scalars(tags.evaluation("miou"))
        found[split] = [(point.step, round(point.value, 2)) for point in points]
    return found


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
