"""New epochs on the disk become facts, at the same cost however many lie there already."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from segwatch.checkpoints.manifest import Architecture, Manifest, Role, StoredFile
from segwatch.daemon import observing
from segwatch.daemon.observing import Observer
from segwatch.daemon.rundir import RunDir


@pytest.fixture
def seen(a_run, tmp_path, monkeypatch):
    """`commit` writes a manifest and has the observer look; `lists` counts how often it read the whole directory."""
    run = a_run()
    run.begins()
    recorder = SimpleNamespace(history=run.history, record_all=lambda facts: [run.tell(fact) for fact in facts])
    observer = Observer(RunDir(tmp_path), recorder, SimpleNamespace())
    (tmp_path / "checkpoints").mkdir()
    lists: list[object] = []
    scan = observing.scan_manifests
    monkeypatch.setattr(observing, "scan_manifests", lambda *a, **k: (lists.append(a), scan(*a, **k))[1])

    def commit(epoch: int, text: str = "") -> None:
        stored = StoredFile(name=f"checkpoint_epoch{epoch}.pth", sha256="0" * 64, size=0)
        manifest = Manifest(
            role=Role.EPOCH, attempt=run.attempt, epoch=epoch, step=10 * epoch, step_in_epoch=0, weights=stored,
            state=None, finite=True, class_ids=(0,), class_names=("a",),
            architecture=Architecture(base_channels=2, classes=1), config_hash="c", created="2026-01-01T00:00:00+00:00",
        )  # fmt: skip
        (tmp_path / f"checkpoints/checkpoint_epoch{epoch}.json").write_text(text or manifest.model_dump_json())
        observer._checkpoints_changed = observer._checkpoints_changed and 1  # a clock too coarse for two files
        observer.find_epochs()

    return SimpleNamespace(run=run, observer=observer, commit=commit, lists=lists, epochs=run.history.epochs)


def test_the_next_epoch_is_looked_for_by_its_name_and_the_directory_is_read_now_and_then(seen):
    for epoch in range(1, 6):
        seen.commit(epoch)
    assert list(seen.epochs) == [(1, epoch) for epoch in range(1, 6)]
    assert len(seen.lists) == 1, "the first look reads all of it"
    seen.commit(9)  # not the next one
    assert (1, 9) not in seen.epochs
    seen.observer.find_epochs(anyway=True)
    assert (1, 9) in seen.epochs


def test_an_attempt_goes_on_from_the_epoch_that_it_resumed_from(seen):
    for epoch in range(1, 6):
        seen.commit(epoch)
    for epoch in (4, 5):
        seen.run.moves(1, epoch)
    seen.run.plans(resume_epoch=3)
    seen.commit(4)
    assert (2, 4) in seen.epochs
    assert len(seen.lists) == 1


def test_behind_a_manifest_that_is_none_the_epochs_are_found_all_the_same(seen):
    seen.commit(1)
    seen.commit(2, text="{ torn")
    seen.commit(3)
    assert list(seen.epochs) == [(1, 1), (1, 3)]
