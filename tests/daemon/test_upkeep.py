"""What retention remembers from round to round: the same files go, and nobody looks at ten thousand epochs for it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from segwatch.checkpoints.config import CheckpointConfig
from segwatch.daemon import upkeep
from segwatch.daemon.upkeep import Retention, remove_surplus


def commits(run, places: list[Path], epoch: int) -> object:
    for place in places:
        for suffix in (".pth", ".state.pth", ".json"):
            (place / "checkpoints" / f"checkpoint_epoch{epoch}{suffix}").touch()
    return run.commits(epoch)


def scores(run, epoch, miou: float) -> None:
    for split in ("val", "test"):
        run.scores(epoch, split, miou)


def rolls_back(run, places: list[Path], *, after: int) -> None:
    attempt = run.attempt
    for epoch in [epoch for epoch in run.history.lineage() if epoch.epoch > after]:
        run.moves(epoch.attempt, epoch.epoch)
        for place in places:
            for file in (place / "checkpoints").glob(f"checkpoint_epoch{epoch.epoch}.*"):
                file.unlink()
    run.plans(resume_from=f"checkpoints/checkpoint_epoch{after}.json", resume_epoch=after, incident=attempt)


@pytest.mark.parametrize("keep_epochs", [None, 1, 3])
@pytest.mark.parametrize("seed", range(8))
def test_what_goes_is_what_a_look_at_every_epoch_would_let_go(a_run, tmp_path, seed: int, keep_epochs: int | None):
    chance, config = random.Random(seed), CheckpointConfig(keep_epochs=keep_epochs)
    places = [tmp_path / "remembers", tmp_path / "looks"]
    for place in places:
        (place / "checkpoints").mkdir(parents=True)
    run, retention, waiting, epoch = a_run(), Retention(), [], 0
    run.begins()
    for _ in range(40):
        what = chance.random()
        if what < 0.5:
            epoch += 1
            waiting.append(commits(run, places, epoch))
        elif what < 0.9 and waiting:
            scores(run, waiting.pop(0), chance.choice([0.1, 0.6, 0.7, 0.8]))
        elif what >= 0.9:
            standing = [
                e.epoch
                for e in run.history.lineage()
                if (places[1] / "checkpoints" / f"checkpoint_epoch{e.epoch}.state.pth").exists()
            ]
            epoch = chance.choice(standing or [0])
            rolls_back(run, places, after=epoch)
            waiting = [e for e in waiting if e.moved is None]
        retention.remove_surplus(places[0], run.history, config)
        remove_surplus(places[1], run.history, config, set())
        left = [sorted(file.name for file in (place / "checkpoints").iterdir()) for place in places]
        assert left[0] == left[1]


@pytest.mark.parametrize("keep_epochs", [None, 5])
def test_a_round_late_in_a_run_looks_at_no_more_epochs_than_an_early_one(a_run, tmp_path, monkeypatch, keep_epochs):
    (tmp_path / "checkpoints").mkdir()
    run, retention, config = a_run(), Retention(), CheckpointConfig(keep_epochs=keep_epochs)
    run.begins()
    looked: list[str] = []
    stem = upkeep._stem
    monkeypatch.setattr(upkeep, "_stem", lambda epoch: (looked.append(epoch.manifest), stem(epoch))[1])
    each = []
    for epoch in range(1, 61):
        scores(run, commits(run, [tmp_path], epoch), 0.5)
        looked.clear()
        retention.remove_surplus(tmp_path, run.history, config)
        each.append(len(looked))
    assert each[-1] == each[20] < 60


def test_a_file_that_could_not_be_removed_is_tried_again(a_run, tmp_path, monkeypatch):
    (tmp_path / "checkpoints").mkdir()
    run, retention = a_run(), Retention()
    run.begins()
    for epoch in range(1, 4):
        scores(run, commits(run, [tmp_path], epoch), 0.5)
    first = tmp_path / "checkpoints/checkpoint_epoch1.state.pth"
    with monkeypatch.context() as refused:
        refused.setattr(upkeep, "_remove", lambda _: False)
        retention.remove_surplus(tmp_path, run.history, CheckpointConfig())
    assert first.exists()
    retention.remove_surplus(tmp_path, run.history, CheckpointConfig())
    assert not first.exists()
