"""`segwatch replay`: repeats a diagnosis in the foreground, and leaves the run as it is."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console
from segwatch.checkpoints.manifest import Architecture, Manifest, Role, StoredFile
from segwatch.daemon import replaying
from segwatch.daemon.config import RecoveryConfig
from segwatch.daemon.history import History
from segwatch.daemon.process import WorkerLock
from segwatch.daemon.rundir import RunDir
from segwatch.daemon.store import Store, read_events
from segwatch.errors import RunHeldError, UsageError
from segwatch.trainer.contract import Cause
from segwatch.trainer.diagnosis import DiagnosisSpec, Finding

HERE = Path(__file__).parent


class FrozenConfig:
    recovery = RecoveryConfig()


class Site:
    def __init__(self, place: Path) -> None:
        self.run = RunDir(place)
        self.incident = place / "incidents" / "001"
        self.told = io.StringIO()
        self.console = Console(file=self.told, width=160)

    @property
    def history(self) -> History:
        return History.of(read_events(self.run.path))

    def replays(self, found: object, *, cpu: bool = False, number: int = 1) -> replaying.Replayed:
        scenario = self.run.path.parent / "scenario.json"
        scenario.write_text(json.dumps({"diagnosis": {"1": found}}))
        command = (sys.executable, str(HERE / "fake_diagnosis.py"), str(scenario))
        replayed = replaying.replay(self.run, number, cpu=cpu, seconds=None, console=self.console, command=command)
        replaying.say(replayed, self.console)
        return replayed

    def checkpoint(self, epoch: int, *, attempt: int, moved: bool = False, state: bool = True) -> None:
        directory = self.run.path / "checkpoints"
        directory = directory / "superseded" / f"{attempt:03d}" if moved else directory
        directory.mkdir(parents=True, exist_ok=True)
        stored = {kind: StoredFile(name=f"{epoch}.{kind}", sha256="", size=0) for kind in ("weights", "state")}
        manifest = Manifest(
            role=Role.EPOCH,
            attempt=attempt,
            epoch=epoch,
            step=10 * epoch,
            step_in_epoch=0,
            finite=True,
            class_ids=(0,),
            class_names=("a",),
            architecture=Architecture(base_channels=1, classes=1),
            config_hash="",
            created=datetime.now(UTC).isoformat(),
            **stored,
        )
        (directory / f"checkpoint_epoch{epoch}.json").write_text(manifest.model_dump_json())
        if state:
            (directory / f"{epoch}.state").touch()


@pytest.fixture
def site(a_run, tmp_path, monkeypatch) -> Site:
    """A numeric incident at step 35 of a second attempt, replayed when it happened, and one without a batch."""
    monkeypatch.setattr(replaying, "frozen_config", lambda _run: FrozenConfig)
    place = tmp_path / "one"
    place.mkdir()
    run = a_run()
    run.begins()
    run.plans()
    run.suffers(Cause.NAN_LOSS, step=35, epoch=4)
    run.suffers(Cause.WORKER_CRASHED, step=40, epoch=5)
    store = Store(place)
    for _, event in run.told:
        store.append(event)
    store.close()
    site = Site(place)
    for number in ("001", "002"):
        (place / "incidents" / number).mkdir(parents=True)
    for name in ("batch.pt", "worker.json", "state.pt"):
        (site.incident / name).write_text(f"{name} as the worker left it")
    asked = DiagnosisSpec(
        run_dir=place,
        incident=1,
        attempt=2,
        directory="incidents/001",
        good=("checkpoints/checkpoint_epoch3.json", "checkpoints/checkpoint_epoch2.json"),
        seconds=9.0,
    )
    (site.incident / "diagnosis_spec.json").write_text(asked.model_dump_json())
    answer = {"finding": "precision", "because": "when it happened", "device": "cpu", "seconds": 1.0}
    (site.incident / "diagnosis.json").write_text(json.dumps(answer))
    site.checkpoint(2, attempt=1)
    site.checkpoint(3, attempt=2)
    return site


def spec_of(replayed: replaying.Replayed) -> DiagnosisSpec:
    return DiagnosisSpec.model_validate_json((replayed.directory / "diagnosis_spec.json").read_bytes())


def state_of(place: Path) -> dict[str, str]:
    files = (path for path in place.rglob("*") if path.is_file() and "replays" not in path.relative_to(place).parts)
    ours = {"worker.lock", "replays.txt"}  # the lock that is held meanwhile, and the note of the fake
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files if p.name not in ours}


def test_a_replay_answers_beside_the_incident_and_leaves_the_run_as_it_is(site):
    before = state_of(site.run.path)
    replayed = site.replays({"finding": Finding.PRECISION, "because": "seen again"})
    assert replayed.diagnosis is not None
    assert replayed.directory.parent == site.incident / "replays"
    assert state_of(site.run.path) == before
    text = site.told.getvalue()
    assert "incident 001, replayed on cpu in 0.1 s: precision" in text
    assert "when it happened, the replay said: precision (the same)" in text


def test_it_is_asked_the_same_and_finds_what_the_worker_left(site):
    replayed = site.replays({"finding": Finding.TRANSIENT})
    asked = spec_of(replayed)
    assert asked.good == ("checkpoints/checkpoint_epoch3.json", "checkpoints/checkpoint_epoch2.json")
    assert (asked.attempt, asked.seconds, asked.device) == (2, RecoveryConfig().diagnosis_seconds, None)
    for name in ("batch.pt", "worker.json", "state.pt"):
        assert (site.run.path / asked.directory / name).read_text() == f"{name} as the worker left it"
    assert "precision (another verdict)" in site.told.getvalue()


def test_a_checkpoint_is_found_where_a_roll_back_has_moved_it(site):
    """In its place lies one of the same name, of a later attempt."""
    site.checkpoint(3, attempt=2, moved=True)
    site.checkpoint(3, attempt=3)
    assert spec_of(site.replays({"finding": Finding.TRANSIENT})).good[0] == (
        "checkpoints/superseded/002/checkpoint_epoch3.json"
    )


def test_a_checkpoint_whose_state_is_gone_is_told_of_and_done_without(site):
    (site.run.path / "checkpoints" / "2.state").unlink()
    assert spec_of(site.replays({"finding": Finding.TRANSIENT})).good == ("checkpoints/checkpoint_epoch3.json",)
    assert "checkpoint_epoch2.json of that time is gone" in site.told.getvalue()


def test_while_a_worker_has_the_device_it_is_refused_or_goes_to_the_cpu(site):
    held = WorkerLock(site.run.path).acquire()
    assert held is not None
    with pytest.raises(RunHeldError, match="--cpu"):
        site.replays({"finding": Finding.TRANSIENT})
    assert not (site.incident / "replays").exists()
    assert spec_of(site.replays({"finding": Finding.TRANSIENT}, cpu=True)).device == "cpu"
    os.close(held)
    site.replays({"finding": Finding.TRANSIENT})
    assert WorkerLock(site.run.path).free()


def test_an_incident_without_a_batch_cannot_be_repeated(site):
    with pytest.raises(UsageError, match="left no batch to repeat"):
        site.replays({}, number=2)
    with pytest.raises(UsageError, match="incidents here: 1, 2"):
        site.replays({}, number=3)


def test_a_replay_that_dies_is_no_answer(site):
    replayed = site.replays("crash")
    assert replayed.diagnosis is None
    assert "the replay left no answer" in site.told.getvalue()
    assert replaying.as_json(replayed)["before"] == "precision"


def test_one_that_does_not_end_is_ended(site, monkeypatch):
    monkeypatch.setattr(replaying, "GRACE_SECONDS", 1.0 - RecoveryConfig().diagnosis_seconds)
    assert site.replays("hang").diagnosis is None


@pytest.fixture
def fallen(a_run, tmp_path, monkeypatch) -> Site:
    """Scores that had fallen with epoch 4; the run has gone on from epoch 3 since."""
    monkeypatch.setattr(replaying, "frozen_config", lambda _run: FrozenConfig)
    place = tmp_path / "one"
    place.mkdir()
    run = a_run()
    run.begins()
    run.plans()
    for epoch in range(1, 6):
        run.commits(epoch)
    collapse = run.suffers(Cause.MIOU_COLLAPSE, step=55, epoch=6)
    run.told[-1] = (run.told[-1][0], collapse.model_copy(update={"evidence": {"onset_step": 40}}))
    run.moves(2, 4)
    store = Store(place)
    for _, event in run.told:
        store.append(event)
    store.close()
    site = Site(place)
    site.incident.mkdir(parents=True)
    site.checkpoint(3, attempt=2)
    return site


def test_a_collapse_is_replayed_on_the_way_to_the_epoch_that_fell_wherever_that_is_now(fallen):
    moved = next(epoch for epoch in fallen.history.epochs.values() if epoch.epoch == 4).manifest
    fallen.checkpoint(4, attempt=2, moved=True, state=False)
    (fallen.run.path / moved).with_name("4.weights").touch()
    spec = spec_of(fallen.replays({"finding": Finding.LEARNING_RATE}))
    assert (spec.fallen, spec.attempt) == (moved, 2)


def test_a_collapse_whose_epoch_is_gone_cannot_be_replayed(fallen):
    with pytest.raises(UsageError, match="epoch of incident 1 whose scores fell is gone"):
        fallen.replays({"finding": Finding.LEARNING_RATE})
