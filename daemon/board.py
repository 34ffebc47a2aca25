"""TensorBoard for scores, incidents and alerts: the one writer of `tensorboard/eval` and `tensorboard/iou`. No torch.

The x-axis is the global step, as in `tensorboard/train`. After a roll-back the points beyond it are purged, so that no
curve runs twice over the same steps. Where the files of a split changed, curves begin anew in `tensorboard/eval-2` and
`tensorboard/iou-2`: one line would show a jump that the network never made.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event as BoardEvent
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.text.summary_v2 import text_pb

from .. import tags
from ..evaluator.report import PictureKind, picture_path
from ..trainer.config import Amp
from .alerts import alert_lines, evidence_words
from .board_files import WORDS, BoardFiles, class_key, directories
from .board_layout import layout_summary
from .board_marks import needles
from .events import (
    AlertChanged,
    AlertState,
    AttemptPlanned,
    DataAccepted,
    Event,
    IncidentOpened,
    RescoreWanted,
    ScoreRecorded,
)
from .history import History
from .members import AnyScore, Epoch
from .words import sentence

log = logging.getLogger(__name__)
IMAGE_LIMIT_BYTES = 8 << 20
PICTURES: dict[PictureKind, str] = {"": tags.OVERLAYS, "_worst": tags.WORST, "_confusion": tags.CONFUSION}


class Board:
    """Writes each fact as it comes, past every buffer: what is recorded can be seen."""

    def __init__(self, run_dir: Path, history: History) -> None:
        self._run_dir = run_dir
        self._history = history
        self._series = history.series.begun
        self._writer: BoardFiles | None = None
        self._scaled = False
        """Whether the charts of fp16 are laid out."""
        self._step = max((epoch.step for epoch in history.epochs.values()), default=0)
        """The newest step that anything was written at."""
        self._retold: set[int] = set()
        """Incidents that were written again behind a purge."""
        self._marks: dict[int, float] = {}
        """The points of the incidents' curve that stand in the directory."""

    def handle(self, moment: float, event: Event) -> None:
        retold = self._begin_series(moment) or self._tell_again_when_lost(moment)
        match event:
            case ScoreRecorded() if retold:
                pass
            case ScoreRecorded() if self._history.epochs[event.attempt, event.epoch].former:
                if not self._history.unscored:  # in order, once all are there: a curve does not run back
                    self._purge_from(1)
                    self._tell_scores(moment)
            case ScoreRecorded():
                self._score(moment, event)
            case IncidentOpened():
                self._open()  # which tells it already, where the history holds it
                if event.number not in self._retold:
                    self._text(moment, tags.INCIDENTS, event.step, _incident_words(event))
                self._mark(moment)
            case AlertChanged() if event.state is AlertState.FIRING:
                self._text(moment, tags.ALERTS, self._last_step(), _alert_words(event))
            case AttemptPlanned():
                self._step = event.resume_step
                self._purge_from(event.resume_step + 1)
                self._lay_out(anew=False)
                self._text(moment, tags.ATTEMPT, event.resume_step, sentence(event) or "")
            case _:
                return

    def _tell_again_when_lost(self, moment: float) -> bool:
        """Whether the directory was deleted or replaced, so that every score that stands was written once more."""
        if self._writer is None or self._writer.in_place():
            return False
        log.warning("%s is gone: its curves are written again from the facts", self._run_dir / "tensorboard")
        self._writer.close()
        self._writer = None
        self._purge_from(0)
        self._tell_scores(moment)
        return True

    def _begin_series(self, moment: float) -> bool:
        """Whether the files were changed, so that the curves begin anew in a directory of their own."""
        if self._series == self._history.series.begun:
            return False
        self.close()
        self._series = self._history.series.begun
        self._tell_scores(moment)
        return True

    def _tell_scores(self, moment: float, *, since: int = 0) -> None:
        again = [epoch for epoch in self._history.epochs.values() if epoch.step >= since]
        for epoch in sorted(again, key=lambda epoch: epoch.step):
            for score in epoch.scores.values():
                self._score(moment, score)

    def _rewind(self, step: int, moment: float) -> None:
        """Drop everything from this step on, and write what stands once more, in order."""
        self._purge_from(step)
        self._tell_scores(moment, since=step)

    def catch_up(self, facts: Sequence[tuple[float, Event]]) -> None:
        """Whether these were written nobody knows: drop everything from the first of them on, and write it again."""
        for moment, event in facts:
            if isinstance(event, AttemptPlanned):  # first, since it purges what an attempt before it had scored
                self.handle(moment, event)
        doubtful = [event.step for _, event in facts if isinstance(event, ScoreRecorded)]
        doubtful += [max(0, event.step - 1) for _, event in facts if isinstance(event, IncidentOpened)]
        if any(isinstance(event, DataAccepted | RescoreWanted) for _, event in facts):
            doubtful.append(1)
        if doubtful:
            self._rewind(min(doubtful), facts[0][0])
        for moment, event in facts:
            if not isinstance(event, ScoreRecorded | AttemptPlanned):
                self.handle(moment, event)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _score(self, moment: float, score: AnyScore) -> None:
        epoch = self._history.epochs[score.attempt, score.epoch]
        if epoch.moved == "superseded" or self._is_rolled_back(epoch):
            return  # its steps belong to another line now; results.csv has the row
        if not self._history.series.holds(epoch, (score.split,)):
            return
        self._step = max(self._step, score.step)
        values = {tags.evaluation(figure): getattr(score, figure) for figure in tags.EVALUATION}
        interval = (score.miou, score.miou_low, score.miou_high)
        if None not in interval:
            values |= dict(zip(tags.INTERVAL, interval, strict=True))
        self._add(moment, score.step, _scalars({**values, tags.EPOCH: float(score.epoch)}), score.split)
        for name, iou in zip(self._class_names(), score.class_iou, strict=False):
            if iou is not None:
                self._add(moment, score.step, _scalars({tags.class_iou(score.split): iou}), class_key(name))
        if score.split == "test":
            self._show_pictures(moment, score)

    def _class_names(self) -> tuple[str, ...]:
        return () if self._history.created is None else self._history.created.class_names

    def _show_pictures(self, moment: float, score: AnyScore) -> None:
        for kind, tag in PICTURES.items():
            picture = picture_path(self._run_dir, score.attempt, score.epoch, kind)
            if picture.exists() and picture.stat().st_size < IMAGE_LIMIT_BYTES:
                self._add(moment, score.step, _image(tag, picture))

    def _mark(self, moment: float) -> None:
        """Bring the incidents' curve up to the history. Its points stand in order, or it would run back."""
        wanted = self._needles()
        differ = [step for step in wanted.keys() | self._marks.keys() if wanted.get(step) != self._marks.get(step)]
        if not differ:
            return
        if min(differ) <= max(self._marks, default=-1):
            self._rewind(min(differ), moment)
        else:
            self._add_marks(moment, wanted, since=min(differ))

    def _needles(self) -> dict[int, float]:
        return needles(incident.opened.step for incident in self._history.incidents)

    def _add_marks(self, moment: float, wanted: dict[int, float], *, since: int) -> None:
        for step, height in wanted.items():
            if step >= since:
                self._add(moment, step, Summary(value=[Summary.Value(tag=tags.INCIDENT_MARK, simple_value=height)]))
                self._marks[step] = height

    def _is_rolled_back(self, epoch: Epoch) -> bool:
        """Whether the present attempt trains over its steps again, though its files have not been moved yet."""
        current = self._history.current
        return current is not None and epoch.attempt < current.number and epoch.step > current.plan.resume_step

    def _text(self, moment: float, tag: str, step: int, words: str) -> None:
        self._add(moment, step, text_pb(tag, words))

    def _purge_from(self, step: int) -> None:
        """TensorBoard drops what an earlier file holds from this step on. Works only when every file begins so.

        It drops the incidents too, which are why there was a roll-back: they are written again.
        """
        self._open().purge_from(step)
        dropped = [incident for incident in self._history.incidents if incident.opened.step >= step]
        for incident in sorted(dropped, key=lambda incident: incident.opened.step):
            self._text(incident.at, tags.INCIDENTS, incident.opened.step, _incident_words(incident.opened))
            self._retold.add(incident.number)
        self._marks = {known: height for known, height in self._marks.items() if known < step}
        self._add_marks(time.time(), self._needles(), since=step)

    def _last_step(self) -> int:
        current = self._history.current
        return self._step if current is None else max(self._step, current.plan.resume_step)

    def _add(self, moment: float, step: int, summary: Summary, key: str = WORDS) -> None:
        try:
            self._open().add_event(BoardEvent(wall_time=moment, step=step, summary=summary), key)
        except OSError:
            self.close()  # the next fact opens a new file
            raise

    def _open(self) -> BoardFiles:
        if self._writer is None:
            board = self._run_dir / "tensorboard"
            self._writer = BoardFiles(directories(board, self._series, self._class_names()))
            self._marks = {step: height for step, height in self._needles().items() if step <= self._step}
            self._purge_from(self._step + 1)
            self._lay_out(anew=True)
        return self._writer

    def _lay_out(self, *, anew: bool) -> None:
        """Lay the charts out: `anew` in each file, and once more when the first attempt in fp16 is planned."""
        scaled = any(attempt.plan.amp is Amp.FP16 for attempt in self._history.attempts)
        if anew or scaled is not self._scaled:
            self._scaled = scaled
            self._add(time.time(), 0, layout_summary(scaled=scaled))


def _scalars(values: Mapping[str, float | None]) -> Summary:
    """What is unknown is no point."""
    known = {tag: value for tag, value in values.items() if value is not None}
    return Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in known.items()])


def _incident_words(incident: IncidentOpened) -> str:
    place = f"attempt {incident.attempt}, epoch {incident.epoch}"
    return f"**{sentence(incident)}**\n\n{place}: {evidence_words(incident.evidence)}"


def _alert_words(alert: AlertChanged) -> str:
    head, *rest = alert_lines(alert, alert.since)
    return "\n\n".join((f"**{head}**", *(line.strip() for line in rest)))


def _image(tag: str, path: Path) -> Summary:
    with Image.open(path, formats=("PNG",)) as picture:
        width, height = picture.size
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=path.read_bytes())
    return Summary(value=[Summary.Value(tag=tag, image=image)])
