"""A real daemon around a fake worker and a fake evaluator: everything but torch is the real thing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from segwatch.daemon.events import (
    AttemptEnded,
    AttemptPlanned,
    Diagnosed,
    DrillFired,
    EpochCommitted,
    EpochMoved,
    Event,
    Evidence,
    Gain,
    IncidentOpened,
    Outcome,
    RunCreated,
    ScoreRecorded,
)
from segwatch.daemon.history import History
from segwatch.daemon.members import Epoch
from segwatch.daemon.process import Identity
from segwatch.trainer.config import Amp
from segwatch.trainer.contract import Cause, Drill

from ..watched import Watched

HERE = Path(__file__).parent
CONFIG = """\
[data]
classes = "classes.json"
[data.train]
images = "images"
masks = "masks"
[data.val]
images = "images_val"
masks = "masks_val"
[data.test]
images = "images_test"
masks = "masks_test"
[trainer]
epochs = {epochs}
batch_size = 4
lr = 1e-3
amp = "{amp}"
[watch]
scan_seconds = 0.1
hang_floor_seconds = 2.0
stop_grace_seconds = 5
[recovery]
backoff_seconds = 0.05
{extra}
"""


class Daemon(Watched):
    """One `segwatch run` around the fakes."""

    def configure(self, *, epochs: int = 3, amp: str = "off", extra: str = "") -> None:
        (self.place / "run.toml").write_text(CONFIG.format(epochs=epochs, amp=amp, extra=extra))

    def scenario(self, **what: object) -> None:
        (self.place / "scenario.json").write_text(json.dumps(what))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return self.spawn([sys.executable, str(HERE / "run_with_fakes.py"), "run.toml", *arguments])

    @property
    def orphan(self) -> Identity | None:
        """What a worker has left behind; `None` once it is gone, or only waits to be reaped."""
        note = self.place / "orphan.pid"
        found = Identity.of(int(note.read_text())) if note.exists() else None
        return found if found is not None and found.alive() else None

    def clean(self) -> None:
        super().clean()
        if self.orphan is not None:
            self.orphan.send(signal.SIGKILL, group=False)

    def start_under(self, wrapper: list[str]) -> subprocess.Popen[str]:
        """As the child of another program, such as strace."""
        return self.spawn([*wrapper, sys.executable, str(HERE / "run_with_fakes.py"), "run.toml"])

    def start_on(self, terminal: int) -> subprocess.Popen[str]:
        """In a session of its own whose controlling terminal is this one."""
        take = "import fcntl,os,sys,termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
        command = [sys.executable, "-c", take, sys.executable, str(HERE / "run_with_fakes.py"), "run.toml"]
        child = subprocess.Popen(
            command, cwd=self.place, stdin=terminal, stdout=terminal, stderr=terminal, text=True, start_new_session=True
        )
        self.children.append(child)
        return child

    def run(self, *arguments: str) -> tuple[int, str]:
        return self.finish(self.start(*arguments))


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    write_data(tmp_path)
    daemon = Daemon(tmp_path)
    daemon.configure()
    daemon.scenario()
    yield daemon
    daemon.clean()


def write_data(place: Path) -> None:
    """Two classes, one image per split: what the audit needs to let a run begin."""
    classes = [{"id": 0, "name": "a", "colour": [0, 0, 0]}, {"id": 1, "name": "b", "colour": [255, 0, 0]}]
    (place / "classes.json").write_text(json.dumps({"classes": classes}))
    mask = np.zeros((128, 128), dtype=np.uint8)
    mask[64:] = 1
    rng = np.random.default_rng(0)
    for suffix in ("", "_val", "_test"):
        for kind in ("images", "masks"):
            (place / f"{kind}{suffix}").mkdir()
        pixels = rng.integers(0, 255, (128, 128, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"images{suffix}" / f"one{suffix}.png")
        Image.fromarray(mask).save(place / f"masks{suffix}" / f"one{suffix}.png")


class Story:
    """A run told fact by fact, without processes or files; `history` is what the facts fold into."""

    def __init__(self) -> None:
        self.told: list[tuple[float, Event]] = []
        self.history = History()

    def tell(self, event: Event) -> None:
        moment = float(len(self.told))
        self.told.append((moment, event))
        self.history.apply(moment, event)

    def begins(self, *, epochs: int = 100, names: tuple[str, ...] = ("field", "road")) -> None:
        self.tell(RunCreated(config_hash="c0ffee", epochs=epochs, class_names=names))
        self.plans(because="the run begins", resume_from=None)

    def plans(self, **changes: object) -> None:
        """The next attempt."""
        plan = AttemptPlanned(
            attempt=len(self.history.attempts) + 1,
            lr=1e-3,
            amp=Amp.OFF,
            batch_size=4,
            accumulate=1,
            resume_from="checkpoints/initial.json",
            resume_epoch=0,
            resume_step=0,
            because="a test says so",
        )
        self.tell(AttemptPlanned.model_validate({**plan.model_dump(), **changes}))

    @property
    def attempt(self) -> int:
        return len(self.history.attempts)

    def ends(self, outcome: Outcome, *, cause: Cause | None = None, message: str = "it ended", epoch: int = 0) -> None:
        ended = AttemptEnded(
            attempt=self.attempt, outcome=outcome, cause=cause, message=message, step=0, epoch=epoch, stepped=True
        )
        self.tell(ended)

    def commits(self, epoch: int, *, step: int | None = None, finite: bool = True) -> Epoch:
        manifest = f"checkpoints/checkpoint_epoch{epoch}.json"
        step = 10 * epoch if step is None else step
        sha256 = f"{self.attempt:02d}{epoch:062d}"
        self.tell(
            EpochCommitted(
                attempt=self.attempt, epoch=epoch, step=step, manifest=manifest, sha256=sha256, finite=finite
            )
        )
        return self.history.epochs[self.attempt, epoch]

    def moves(self, attempt: int, epoch: int, reason: str = "superseded") -> None:
        manifest = f"checkpoints/{reason}/{attempt:03d}/checkpoint_epoch{epoch}.json"
        self.tell(EpochMoved(attempt=attempt, epoch=epoch, manifest=manifest, reason=reason))

    def scores(
        self,
        epoch: Epoch,
        split: str,
        miou: float | None,
        *,
        verdict: str = "ok",
        message: str = "",
        interval: tuple[float, float] | None = None,
        gain: Gain | None = None,
        skipped: int = 0,
        data: str = "",
    ) -> ScoreRecorded:
        score = ScoreRecorded(
            attempt=epoch.attempt,
            epoch=epoch.epoch,
            step=epoch.step,
            split=split,
            verdict=verdict,
            miou=miou,
            fwiou=miou,
            pixel_accuracy=miou,
            mean_accuracy=miou,
            mean_dice=miou,
            class_iou=() if miou is None else (miou, None),
            miou_low=interval and interval[0],
            miou_high=interval and interval[1],
            gain=gain,
            images=3,
            skipped_images=skipped,
            seconds=0.5,
            checkpoint_sha256=epoch.sha256,
            data_fingerprint=data,
            message=message,
        )
        self.tell(score)
        return score

    def trains(
        self,
        epoch: int,
        test: float | None,
        val: float | None = None,
        *,
        verdict: str = "ok",
        interval: tuple[float, float] | None = None,
        gain: Gain | None = None,
        skipped: int = 0,
        data: str = "",
    ) -> Epoch:
        """One epoch, committed and scored on both splits; `val` is as good as `test` where it is not given."""
        committed = self.commits(epoch)
        told = {"verdict": verdict, "message": "as told", "skipped": skipped, "data": data}
        self.scores(committed, "val", test if val is None else val, interval=interval, **told)
        self.scores(committed, "test", test, interval=interval, gain=gain, **told)
        return committed

    @staticmethod
    def over(epoch: Epoch, difference: float, low: float, high: float) -> Gain:
        """A comparison with this epoch over the same images."""
        return Gain(against_attempt=epoch.attempt, against_epoch=epoch.epoch, difference=difference, low=low, high=high)

    def suffers(
        self,
        cause: Cause,
        *,
        step: int = 15,
        epoch: int = 2,
        fatal: bool = True,
        drill: Drill | None = None,
        onset_step: int | None = None,
        evidence: Evidence | None = None,
    ) -> IncidentOpened:
        incident = IncidentOpened(
            number=len(self.history.incidents) + 1,
            attempt=self.attempt,
            cause=cause,
            step=step,
            epoch=epoch,
            message=f"what {cause} looks like",
            evidence=evidence or {"lr": 1e-3, **({} if onset_step is None else {"onset_step": onset_step})},
            drill=drill,
            fatal=fatal,
        )
        self.tell(incident)
        return incident

    def finds(self, finding: str, **more: object) -> None:
        """What a replay of the newest incident has found."""
        told = {"incident": self.history.incidents[-1].number, "because": "the replay says so", **more}
        self.tell(Diagnosed.model_validate({"finding": finding, **told}))

    def drills(self, drill: Drill) -> None:
        self.tell(DrillFired(attempt=self.attempt, drill=drill))


@pytest.fixture(scope="session")
def a_run() -> type[Story]:
    """Called, it begins an empty story: `run = a_run()`."""
    return Story
