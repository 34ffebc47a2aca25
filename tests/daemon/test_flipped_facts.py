"""One flipped bit within a fact: SQLite calls the file sound, and the other file still has what was written."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from segwatch.daemon.store import Store, read_events
from segwatch.errors import SegwatchError

from .test_store import EVERY_KIND, reopened


@pytest.fixture
def told(tmp_path) -> list:
    """What `tmp_path` holds."""
    store = Store(tmp_path)
    store.append_all(EVERY_KIND)
    store.close()
    return list(read_events(tmp_path))


def flipped(path: Path, before: bytes, place: int, bit: int) -> None:
    """One bit of a byte at `place` of the first spot where this stands."""
    content = bytearray(path.read_bytes())
    content[content.index(before) + place] ^= 1 << bit
    path.write_bytes(content)


def sound(path: Path) -> bool:
    with sqlite3.connect(path) as database:
        checked = database.execute("pragma quick_check").fetchone() == ("ok",)
    database.close()
    return checked


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param((b'"kind": "attempt-planned"', 6, 3), id="no-json"),
        pytest.param((b'"because": "the run', 0, 0), id="no-json-within"),
        pytest.param((b'"kind": "attempt-planned"', 10, 0), id="no-such-kind"),
        pytest.param((b'"lr": 5e-05', 6, 0), id="another-number"),
        pytest.param((b'"because": "the run', 13, 7), id="no-text"),
    ],
)
@pytest.mark.parametrize("name", ["state.db", "events.jsonl"])
def test_one_flipped_bit_within_a_fact_is_made_good_from_the_other_file(tmp_path, told, name, damage):
    """SQLite calls such a file sound. Of two facts that can be understood the line counts, which is written first."""
    flipped(tmp_path / name, *damage)
    assert sound(tmp_path / "state.db")
    if name == "events.jsonl" and b"lr" in damage[0]:
        told = list(read_events(tmp_path))
    assert reopened(tmp_path) == told == list(read_events(tmp_path))
    assert reopened(tmp_path) == told
    aside = list(tmp_path.glob("state.db.corrupt-*"))
    assert len(aside) <= 1
    assert aside or name == "events.jsonl", "the database as it was is not kept"


def test_a_damaged_fact_of_which_there_is_no_copy_is_named(tmp_path, told):
    flipped(tmp_path / "state.db", b'"kind": "attempt-planned"', 6, 3)
    (tmp_path / "events.jsonl").unlink()
    with pytest.raises(SegwatchError, match=r"fact 6 is damaged in state\.db, and events\.jsonl holds no copy"):
        Store(tmp_path)
    assert not list(tmp_path.glob("state.db.corrupt-*"))
