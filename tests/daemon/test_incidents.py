"""Daemon and worker number what goes wrong in two processes: each incident has a directory of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from segwatch import durable
from segwatch.daemon import incidents
from segwatch.daemon.history import History
from segwatch.daemon.incidents import open_incident
from segwatch.trainer.contract import Cause


def left_by_a_worker(run_dir: Path) -> Path:
    begun = run_dir / "incidents" / ".worker.tmp"
    begun.mkdir(parents=True)
    (begun / "batch.pt").write_text("a batch")
    place = durable.next_number(begun.parent)
    assert durable.takes_name(begun, place)
    return place


def opened(run_dir: Path, directory: str | None = None):
    return open_incident(
        run_dir,
        History(),
        attempt=1,
        cause=Cause.INF_GRADIENTS,
        step=10 if directory is None else 12,
        epoch=1,
        message="m",
        evidence={},
        fatal=False,
        directory=directory,
    )


def test_a_worker_that_numbers_its_own_at_the_same_moment_keeps_its_directory(tmp_path, monkeypatch):
    theirs = []

    def numbered_meanwhile(path, value):
        durable.write_json(path, value)
        if not theirs:
            theirs.append(left_by_a_worker(tmp_path))

    monkeypatch.setattr(incidents, "write_json", numbered_meanwhile)
    ours = opened(tmp_path)
    second = opened(tmp_path, directory=str(theirs[0].relative_to(tmp_path)))
    assert (ours.number, second.number) == (2, 1)
    for incident in (ours, second):
        kept = json.loads((tmp_path / "incidents" / f"{incident.number:03d}" / "incident.json").read_text())
        assert kept == incident.model_dump(mode="json")
    assert sorted(path.name for path in (tmp_path / "incidents").iterdir()) == ["001", "002"]
    assert (theirs[0] / "batch.pt").exists()


def test_an_empty_directory_is_given_no_name_and_a_full_one_is_never_replaced(tmp_path):
    begun = tmp_path / "begun"
    begun.mkdir()
    with pytest.raises(AssertionError, match="is empty"):
        durable.takes_name(begun, tmp_path / "001")
    (begun / "facts").touch()
    (tmp_path / "001").mkdir()
    (tmp_path / "001" / "other").touch()
    assert not durable.takes_name(begun, tmp_path / "001")
    assert (tmp_path / "001" / "other").exists()
    assert durable.takes_name(begun, durable.next_number(tmp_path))
    assert (tmp_path / "002" / "facts").exists()
