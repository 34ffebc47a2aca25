"""docs/run-directory.md is true: it names each file of a run, and none that no code writes.

The end-to-end tests ask `files_without_a_name` of their runs as well.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from segwatch.daemon.place_checks import checkpoint_bytes
from segwatch.daemon.wishes import Wish, place

from .conftest import REPOSITORY
from .daemon.conftest import Daemon, write_data
from .daemon.test_doctor import FRAMES, config_of
from .run_directory import PAGE, PLACEHOLDER, files_without_a_name, may_go, named, pattern

ROOMS = ("daemon", "trainer", "evaluator", "data", "checkpoints")
NOTIFIED = '[alerts]\nnotify = ["file:nobody.url"]\nnotify_wait_seconds = 0\n'
BY_OTHERS = frozenset({"-journal", "events.out.tfevents."})
"""Named by SQLite and by TensorBoard."""
CUTS = range(1, 20)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    write_data(tmp_path)
    daemon = Daemon(tmp_path)
    yield daemon
    daemon.clean()


def test_every_file_of_a_broken_run_is_named_and_it_goes_on_without_those_that_may_go(daemon):
    """A replay, a restart, a corrupt checkpoint, a notification that nobody takes, somebody who asks for silence."""
    (daemon.place / "nobody.url").write_text("json://127.0.0.1:1/nobody\n")
    daemon.configure(extra=NOTIFIED)
    daemon.scenario(faults={"1:10": "nan"}, flip=["1:1"], diagnosis={"1": {"finding": "transient"}})
    code, output = daemon.run()
    assert code == 0, output
    place(daemon.run_dir, Wish(kind="silence", what="nan-loss", asked=1.0, by="somebody", until=2.0))
    assert files_without_a_name(daemon.run_dir) == []
    found = {str(path.relative_to(daemon.run_dir)) for path in daemon.run_dir.rglob("*") if path.is_file()}
    seldom = ("incidents/NNN/batch.pt", "checkpoints/quarantine/*", "outbox/CHANNEL/waiting/*.json", "requests/*.json")
    for path in seldom:
        assert any(pattern(path).fullmatch(file) for file in found), path

    gone = [file for file in found if any(pattern(path).fullmatch(file) for path in may_go())]
    assert {"state.db", "glance.json", "alerts.log", "results.csv", "best_test.pth", "daemon.lock"} <= set(gone)
    for file in gone:
        (daemon.run_dir / file).unlink()
    daemon.configure(epochs=4, extra=NOTIFIED)
    code, output = daemon.run()
    assert code == 0, f"without what may go, the run does not go on:\n{output}"
    assert {row["epoch"] for row in daemon.rows()} == {"1", "2", "3", "4"}
    assert (daemon.run_dir / "incidents" / "001" / "postmortem.md").exists()


@cache
def words_of_the_code() -> frozenset[str]:
    """Every short string of the rooms, f-strings in pieces; and what SQLite and TensorBoard call their files."""
    paths = [path for room in ROOMS for path in (REPOSITORY / room).glob("*.py")] + [*REPOSITORY.glob("*.py")]
    trees = [ast.parse(path.read_text()) for path in paths]
    constants = (node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return frozenset(word for word in constants if isinstance(word, str) and len(word) < 60) | BY_OTHERS


def pieces(path: str) -> list[str]:
    """What stands fixed between the placeholders and slashes of a path, such as `checkpoint_epoch` and `.pth`."""
    parts = [piece for part in path.split("/") for piece in PLACEHOLDER.split(re.escape(part))]
    return [part.replace("\\", "") for part in parts if part]


def written(piece: str) -> bool:
    """Whether some string begins or ends with it, or two together make it, such as `daemon.log` and `.first`."""
    words = words_of_the_code()
    if any(word.startswith(piece) or word.endswith(piece) for word in words):
        return True
    return any(piece[:cut] in words and piece[cut:].removeprefix("val").removeprefix("test") in words for cut in CUTS)


@pytest.mark.parametrize("path", named())
def test_it_names_no_file_that_no_code_writes(path):
    assert [piece for piece in pieces(path) if not written(piece)] == []


def test_what_it_says_of_the_room_is_what_the_doctor_reckons():
    weights = 124.2e6
    states = checkpoint_bytes(config_of(), FRAMES) - 100 * weights
    assert f"12.4 GB of weights, {states / 1e9:.1f} GB to go on from" in PAGE
    few = checkpoint_bytes(config_of(checkpoints={"keep_epochs": 5}), FRAMES) - states
    assert f"`checkpoints.keep_epochs = 5` the weights are {few / 1e9:.1f} GB at most" in PAGE


def test_every_row_says_who_writes_it_whether_it_may_go_and_how_large_it_is():
    rows = [line.strip("|").split("|") for line in PAGE.splitlines() if line.startswith("| `")]
    assert len(rows) > 40
    assert [row[0] for row in rows if len(row) != 5 or not all(cell.strip() for cell in row)] == []
