"""TensorBoard's HParams page: one session for each attempt, with what it was given and what came of it. No torch.

The one writer of `tensorboard/attempts/NNN`. A session is written from the history, so whoever begins again writes all
of it again, and what an earlier file holds is purged.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event as BoardEvent
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

from .. import tags
from ..event_file import EventFile
from .events import AttemptEnded, AttemptPlanned, Event, Outcome, ScoreRecorded
from .history import History
from .members import Attempt, Epoch

WELL = frozenset({Outcome.FINISHED, Outcome.STOPPED})


class AttemptsBoard:
    """Writes an attempt when it is planned, its best scores as they come, and how it ended."""

    def __init__(self, run_dir: Path, history: History) -> None:
        self._directory = run_dir / "tensorboard" / "attempts"
        self._history = history
        self._file: EventFile | None = None
        self._attempt = 0
        """The one that the open file is of."""
        self._best: dict[str, float] = {}
        """Of that attempt, by split."""

    def handle(self, moment: float, event: Event) -> None:
        if not isinstance(event, AttemptPlanned | ScoreRecorded | AttemptEnded):
            return
        if self._file is None or self._attempt != event.attempt or not self._file.in_place():
            self._tell(self._history.attempt(event.attempt), moment)  # all that is known, and so this fact too
        elif isinstance(event, ScoreRecorded):
            self._score(self._history.epochs[event.attempt, event.epoch], event.split, moment)
        elif isinstance(event, AttemptEnded):
            self._add(0, moment, _ended(event, moment))

    def catch_up(self, facts: Sequence[tuple[float, Event]]) -> None:
        """Write the attempts of these facts once more."""
        told = (event for _, event in facts if isinstance(event, AttemptPlanned | ScoreRecorded | AttemptEnded))
        for number in sorted({event.attempt for event in told}):
            self._tell(self._history.attempt(number), facts[0][0])

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _tell(self, attempt: Attempt, moment: float) -> None:
        self.close()
        self._file = EventFile(self._directory / f"{attempt.number:03d}")
        self._attempt, self._best = attempt.number, {}
        self._file.purge_from(0)
        self._add(0, moment, _begun(attempt.plan, attempt.spawned_at or moment))
        own = [epoch for epoch in self._history.epochs.values() if epoch.attempt == attempt.number]
        for epoch in sorted(own, key=lambda epoch: epoch.step):
            for split in epoch.scores:
                self._score(epoch, split, moment)
        if attempt.ended is not None:
            self._add(0, moment, _ended(attempt.ended, attempt.ended_at or moment))

    def _score(self, epoch: Epoch, split: str, moment: float) -> None:
        """The best of the attempt so far: the page shows the newest value of a curve."""
        miou = epoch.miou(split)
        if miou is None or not self._history.series.holds(epoch, (split,)):
            return
        self._best[split] = max(miou, self._best.get(split, miou))
        value = Summary.Value(tag=tags.attempt_best(split), simple_value=self._best[split])
        self._add(epoch.step, moment, Summary(value=[value]))

    def _add(self, step: int, moment: float, summary: Summary) -> None:
        assert self._file is not None
        try:
            self._file.add_event(BoardEvent(wall_time=moment, step=step, summary=summary))
        except OSError:
            self.close()  # the next fact begins a new file, with all of the attempt
            raise


def _begun(plan: AttemptPlanned, moment: float) -> Summary:
    info = plugin_data_pb2.SessionStartInfo(group_name=f"attempt {plan.attempt}", start_time_secs=moment)
    numbers = {
        "lr": plan.lr,
        "batch size": plan.batch_size,
        "accumulate": plan.accumulate,
        "from epoch": plan.resume_epoch,
        "images left out": len(plan.left_out),
    }
    words = {"AMP": plan.amp.value, "remedy": plan.remedy or "-", "because": plan.because}
    for name, number in numbers.items():
        info.hparams[name].number_value = number
    for name, told in words.items():
        info.hparams[name].string_value = told
    return _summary(metadata.SESSION_START_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_start_info=info))


def _ended(ended: AttemptEnded, moment: float) -> Summary:
    status = api_pb2.STATUS_SUCCESS if ended.outcome in WELL else api_pb2.STATUS_FAILURE
    info = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=moment)
    return _summary(metadata.SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=info))


def _summary(tag: str, content: plugin_data_pb2.HParamsPluginData) -> Summary:
    value = Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(content), tensor=metadata.NULL_TENSOR)
    return Summary(value=[value])
