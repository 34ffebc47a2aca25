"""A session of TensorBoard's HParams page for each attempt, read back by TensorBoard's own reader."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from segwatch import tags
from segwatch.daemon.board_attempts import AttemptsBoard
from segwatch.daemon.events import Outcome
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.util.tensor_util import make_ndarray

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TensorBoard's readers, not ours
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as ServerAccumulator

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


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
