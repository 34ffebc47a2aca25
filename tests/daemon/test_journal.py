"""A worker's journal, read while it grows: every whole line once, and nothing that is not of the contract."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segwatch.daemon.journal import JournalReader, tail
from segwatch.trainer.contract import Phase

PHASES = ("loading", "first-step", "training", "saving")


def lines(count: int, *, first: int = 0) -> bytes:
    """Whole lines that can be told apart by their time."""
    phases = [Phase(time=number, phase=PHASES[number % 4]) for number in range(first, first + count)]
    return b"".join(phase.model_dump_json().encode() + b"\n" for phase in phases)


def times(read: list) -> list[int]:
    return [int(line.time) for line in read]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.jsonl"


def test_a_journal_that_is_not_there_yet_has_no_lines(path):
    reader = JournalReader(path)
    assert reader.read() == []
    path.write_bytes(lines(1))
    assert times(reader.read()) == [0]


def test_each_line_is_handed_out_once(path):
    reader = JournalReader(path)
    path.write_bytes(lines(3))
    assert times(reader.read()) == [0, 1, 2]
    assert reader.read() == []
    with path.open("ab") as journal:
        journal.write(lines(1, first=3))
    assert times(reader.read()) == [3]


def test_a_torn_line_waits_for_its_end(path):
    reader = JournalReader(path)
    text = lines(2)
    path.write_bytes(text[:-9])
    assert times(reader.read()) == [0]
    with path.open("ab") as journal:
        journal.write(text[-9:])
    assert times(reader.read()) == [1]
    assert reader.unreadable == 0


@settings(max_examples=40)
@given(st.lists(st.integers(0, 400), max_size=6))
def test_wherever_a_write_is_cut_the_lines_come_whole_once_and_in_order(tmp_path_factory, cuts):
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    text = lines(8)
    reader, read = JournalReader(path), []
    for end in (*sorted(cuts), len(text)):
        path.write_bytes(text[:end])
        read += times(reader.read())
    assert read == list(range(8))


@pytest.mark.parametrize(
    "foreign",
    [
        b"not json",
        b"{}",
        b'{"kind": "phase", "time": NaN, "phase": "loading"}',
        b'{"kind": "of-tomorrow", "time": 1}',
        b"\xff\xfe\x00",
        b"",
        b"[]",
        b"null",
    ],
)
def test_a_line_that_is_not_of_the_contract_is_counted_and_left_out(path, foreign):
    path.write_bytes(lines(1) + foreign + b"\n" + lines(1, first=1))
    reader = JournalReader(path)
    assert times(reader.read()) == [0, 1]
    assert reader.unreadable == 1


def test_a_journal_taken_up_at_an_offset_goes_on_from_there(path):
    path.write_bytes(lines(2))
    offset = path.stat().st_size
    with path.open("ab") as journal:
        journal.write(lines(2, first=2))
    reader = JournalReader(path, offset)
    assert times(reader.read()) == [2, 3]
    assert reader.offset == path.stat().st_size


@pytest.mark.parametrize("how", ["truncated", "replaced"])
def test_a_journal_that_became_shorter_is_read_from_its_start(path, how):
    path.write_bytes(lines(9))
    reader = JournalReader(path)
    reader.read()
    if how == "replaced":
        path.unlink()
    path.write_bytes(lines(2, first=50))
    assert times(reader.read()) == [50, 51]


def test_a_journal_cut_to_nothing_goes_on_with_what_comes(path):
    path.write_bytes(lines(3))
    reader = JournalReader(path)
    reader.read()
    path.write_bytes(b"")
    assert reader.read() == []
    path.write_bytes(lines(1, first=9))
    assert times(reader.read()) == [9]


def test_the_tail_gives_the_last_lines_and_never_half_a_line(path):
    path.write_bytes(lines(100))
    assert times(tail(path)) == list(range(100))
    length = len(lines(1, first=99))
    for size in range(3 * length - 3, 3 * length + 3):
        assert times(tail(path, size)) in ([98, 99], [97, 98, 99])


def test_the_tail_of_a_journal_that_is_not_there_is_empty(path):
    assert tail(path) == []
