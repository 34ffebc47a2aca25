"""`segwatch evaluate` for real: a directory that another program wrote, and the gaps of a run of our own."""

from __future__ import annotations

import csv
import hashlib
import os
import signal
from pathlib import Path

import pytest
import torch

from .conftest import Site, strict

pytestmark = pytest.mark.e2e


class Malice:
    """Unpickled, it makes a directory."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def class_ids(site: Site) -> list[int]:
    manifest = strict((site.run_dir / "checkpoints" / "checkpoint_epoch1.json").read_text())
    return manifest["class_ids"]


def hand_out(site: Site, names: dict[int, int], ids: list[int]) -> Path:
    """The run's epochs as the widespread code would have saved them, under other numbers."""
    directory = site.place / "foreign"
    directory.mkdir()
    for ours, theirs in names.items():
        state = torch.load(site.run_dir / "checkpoints" / f"checkpoint_epoch{ours}.pth", weights_only=True)
        torch.save({**state, "mask_values": ids}, directory / f"checkpoint_epoch{theirs}.pth")
    return directory


def sha256s(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir() if path.is_file()}


@pytest.mark.long
def test_a_foreign_directory_is_scored_like_the_run_that_it_came_from(site: Site) -> None:
    assert site.segwatch("run", "run.toml")[0] == 0
    ids = class_ids(site)
    directory = hand_out(site, {1: 2, 2: 10, 3: 1}, ids)
    state = torch.load(directory / "checkpoint_epoch1.pth", weights_only=True)
    torch.save({**state, "mask_values": [ids[1], ids[0], *ids[2:]]}, directory / "checkpoint_epoch3.pth")
    torch.save({"weight": Malice(site.place / "marker")}, directory / "checkpoint_epoch4.pth")
    before = sha256s(directory)

    code, output = site.segwatch("evaluate", "--config", "run.toml", "--checkpoints", "foreign")
    assert code == 0, output
    assert not (site.place / "marker").exists()
    assert sha256s(directory) == before
    assert f"[{ids[1]}, {ids[0]}, {ids[2]}" in output
    assert f"[{ids[0]}, {ids[1]}, {ids[2]}" in output
    assert "posix.mkdir" in output
    assert "what counts: 4 test images and 4 val images: mean over the" in output

    results = directory / "segwatch-evaluation"
    with (results / "results.csv").open() as file:
        theirs = {(int(row["epoch"]), row["split"]): row["miou"] for row in csv.DictReader(file)}
    ours = {(int(row["epoch"]), row["split"]): row["miou"] for row in site.rows()}
    with (results / "results.csv").open() as file:
        counted = [(row["images"], row["skipped_images"], row["policy"] != "") for row in csv.DictReader(file)]
    assert counted.count(("4", "0", True)) == 6
    for own, foreign in {1: 2, 2: 10, 3: 1}.items():
        for split in ("val", "test"):
            assert theirs[foreign, split] == ours[own, split]
    assert list(dict.fromkeys(epoch for epoch, _ in theirs)) == [1, 2, 3, 4, 10]

    reports = {path: path.stat().st_mtime_ns for path in (results / "evaluations").glob("*.json")}
    code, output = site.segwatch("evaluate", "--config", "run.toml", "--checkpoints", "foreign", "--json")
    assert code == 0
    found = strict(output[output.index("\n{") :])
    expected = max((1, 2, 10), key=lambda epoch: (float(theirs[epoch, "test"]), -epoch))
    assert found["best_by_test"]["epoch"] == expected
    assert {path: path.stat().st_mtime_ns for path in reports} == reports

    # Its own checkpoints through the same door: the manifest beside them settles what mask_values would.
    own = str(site.run_dir / "checkpoints")
    code, output = site.segwatch("evaluate", "--config", "run.toml", "--checkpoints", own, "--output", "own")
    assert code == 0, output
    assert "could not be checked" not in output


@pytest.mark.long
def test_epochs_that_no_daemon_saw_are_scored_and_nothing_is_trained(site: Site) -> None:
    child = site.start("run", "run.toml")
    site.until(lambda history: bool(history.epochs))
    child.send_signal(signal.SIGKILL)
    child.wait()
    worker = site.worker_identity()
    site.until(lambda _: not worker.alive())
    code, output = site.segwatch("evaluate", "run")
    assert code == 0, output
    assert "nothing missing" in output
    assert sorted(site.scored_epochs()) == [(1, 1), (1, 2), (1, 3)]
    assert len(site.history.attempts) == 1
    rows = site.rows()
    code, output = site.segwatch("evaluate", "run", "--json")
    assert (code, strict(output)["scored"], site.rows()) == (0, [], rows)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--config", "run.toml"),
        ("--checkpoints", "."),
        ("run", "--config", "a", "--checkpoints", "b"),
        ("--output", "x"),
    ],
)
def test_half_a_question_is_a_mistake_of_usage(site: Site, arguments: tuple[str, ...]) -> None:
    code, output = site.segwatch("evaluate", *arguments)
    assert code == 2
    assert "Traceback" not in output
