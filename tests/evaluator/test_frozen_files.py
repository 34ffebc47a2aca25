"""An evaluator loads the files that its run began with, and no others."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from segwatch.data.frozen import freeze, write_frozen
from segwatch.errors import ConfigError
from segwatch.evaluator import evaluate
from segwatch.evaluator.evaluate import Evaluator

FILES = "files.jsonl"


@pytest.fixture
def run(tiny_run: Any, tmp_path: Path) -> Any:
    """With files of its own, and what they hold written down."""
    root = tmp_path / "data"
    shutil.copytree(tiny_run.data.root, root)
    own = tiny_run.freeze(root=root)
    pairs = [(split, pair) for split, pairs in own.data.splits.items() for pair in pairs]
    files = [freeze(root / name, split=split, name=name)[0] for split, p in pairs for name in (p.image, p.mask)]
    write_frozen(own.directory / FILES, files)
    return own


def change(run: Any, name: str) -> None:
    shutil.copy(run.data.root / "test_1.mask.png", run.data.root / name)  # a mask that can be read, of another content


def test_touched_files_and_changed_training_files_are_loaded(run: Any) -> None:
    os.utime(run.data.root / "test_0.mask.png", (1.0, 1.0))
    change(run, "train_0.mask.png")
    Evaluator(run.spec(files=FILES))


def test_changed_files_are_not_loaded(run: Any) -> None:
    change(run, "val_1.mask.png")
    with pytest.raises(ConfigError, match=r"val: val_1.mask.png: changed") as raised:
        Evaluator(run.spec(files=FILES))
    assert "Scores from before and after would be of different data" in str(raised.value)


def test_files_that_change_while_they_are_loaded_are_refused_as_well(run: Any, monkeypatch: Any) -> None:
    load = evaluate.load_splits

    def load_and_change(*arguments: Any, **settings: Any) -> Any:
        loaded = load(*arguments, **settings)
        change(run, "test_3.mask.png")
        return loaded

    monkeypatch.setattr(evaluate, "load_splits", load_and_change)
    with pytest.raises(ConfigError, match=r"test: test_3.mask.png: changed"):
        Evaluator(run.spec(files=FILES))


def test_a_run_of_an_older_release_has_no_such_file_and_is_scored_all_the_same(run: Any) -> None:
    (run.directory / FILES).unlink()
    change(run, "val_1.mask.png")
    Evaluator(run.spec(files=FILES))


def test_a_touched_file_leaves_the_fingerprint_of_its_split_as_it_is(run: Any) -> None:
    """It would begin a new series of scores."""
    before = {name: split.fingerprint for name, split in Evaluator(run.spec(files=FILES))._splits.items()}
    os.utime(run.data.root / "test_0.mask.png", (1.0, 1.0))
    assert {name: split.fingerprint for name, split in Evaluator(run.spec(files=FILES))._splits.items()} == before
