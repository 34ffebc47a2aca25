"""state.db and events.jsonl: the same facts twice, so that either can be rebuilt from the other. Knows no policy.

A fact is first one fsynced line of events.jsonl, then a row of state.db; opening the store brings the one that is
behind up to the other. SQLite runs with a rollback journal and full sync: WAL has a corruption bug up to 3.51.2.
"""

from __future__ import annotations

import errno
import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..durable import LineLog, dumps, read_lines, write_text
from ..errors import SegwatchError
from .events import EVENT, Event

DATABASE = "state.db"
EVENTS = "events.jsonl"
SCHEMA_VERSION = 1
BLOCK_BYTES = 64 << 10
"""Read at once: the lines of a large block leave holes in the memory of a daemon that lives for weeks."""
DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_SCHEMA = """
create table if not exists events (seq integer primary key, time real not null, kind text not null, body text not null);
create table if not exists notes (key text primary key, value text not null);
"""


class Store:
    """The one writer. Readers use `read_events`."""

    def __init__(self, run_dir: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._log_path = run_dir / EVENTS
        self._database, self._sequence = _opened(run_dir / DATABASE, self._log_path)
        try:
            self._log = LineLog(self._log_path, fsync=True)
        except BaseException:
            self._database.close()
            raise

    def append(self, event: Event) -> float:
        """Make a fact durable; returns its time. Raises OSError or sqlite3.Error when the disk refuses: then stop."""
        return self.append_all([event])[0]

    def append_all(self, events: Sequence[Event]) -> list[float]:
        """Several at once: the disk is waited for as long as for one. Returns their times; raises as `append` does."""
        if not self._log.in_place():
            raise OSError(errno.ESTALE, "was deleted or replaced while it was written to", str(self._log_path))
        facts = [
            (sequence, self._clock(), event.model_dump(mode="json"))
            for sequence, event in enumerate(events, start=self._sequence + 1)
        ]
        self._log.append(*(dumps({"seq": sequence, "time": moment, **body}) for sequence, moment, body in facts))
        self._sequence += len(facts)
        with self._database:
            for sequence, moment, body in facts:
                _insert(self._database, sequence, moment, body)
        return [moment for _, moment, _ in facts]

    def note(self, key: str, value: str) -> None:
        """A reading position or the like: worth keeping, harmless to lose."""
        with self._database:
            self._database.execute("insert or replace into notes values (?, ?)", (key, value))

    def noted(self, key: str) -> str | None:
        row = self._database.execute("select value from notes where key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    @property
    def sequence(self) -> int:
        """The number of the last fact."""
        return self._sequence

    @property
    def log_bytes(self) -> int:
        """How long events.jsonl is."""
        return self._log_path.stat().st_size

    def events(self, after: int = 0) -> Iterator[tuple[float, Event]]:
        """The facts numbered above `after` with their times, oldest first."""
        return _rows(self._database, self._log_path, after)

    def since(self, moment: float) -> Iterator[tuple[float, Event]]:
        """The facts recorded from a moment on, with their times, oldest first."""
        rows = self._database.execute("select time, body from events where time >= ? order by seq", (moment,))
        for recorded, body in rows:
            yield recorded, _event(json.loads(body), self._log_path)

    def close(self) -> None:
        self._log.close()
        self._database.close()


def read_events(run_dir: Path) -> Iterator[tuple[float, Event]]:
    """Every fact with its time, oldest first, whether a daemon is writing or not.

    Reads events.jsonl, which asks for no lock and no write access: a database that a dying daemon left in mid-commit
    can only be read by rolling it back. Raises SegwatchError where no run is.
    """
    path = run_dir / EVENTS
    if not path.exists():
        raise SegwatchError(f"no run here: it has no {EVENTS}", where=run_dir, remedy="name a run's directory")
    for _, moment, body in _log_rows(path):
        yield moment, _event(body, path)


def _insert(database: sqlite3.Connection, sequence: int, moment: float, body: dict[str, Any]) -> None:
    database.execute("insert into events values (?, ?, ?, ?)", (sequence, moment, body["kind"], dumps(body)))


def _opened(path: Path, log: Path) -> tuple[sqlite3.Connection, int]:
    """The database with every fact, and the last sequence number.

    What SQLite calls sound may hold another fact than was written: one flipped bit within a row. Then both files are
    made again of what is right in either, and the database as it was is kept beside.
    """
    database = _open_database(path)
    try:
        try:
            return database, _reconcile(database, log)
        except _DifferenceError:
            facts = _what_is_right(database, log)
    except BaseException:
        database.close()
        raise
    database.close()
    write_text(log, "".join(f"{line}\n" for line in facts))
    _set_aside(path)
    return _opened(path, log)


class _DifferenceError(Exception):
    """The two files tell one fact in two ways."""


def _reconcile(database: sqlite3.Connection, log: Path) -> int:
    """Bring each up to the other; returns the last sequence number. Raises _DifferenceError, SegwatchError.

    Lines may be missing in the middle too: where the file was deleted under a daemon that went on, or damaged.
    """
    in_database = {row[0] for row in database.execute("select seq from events")}
    rows = iter(database.execute("select seq, time, cast(body as blob) from events order by seq"))
    row = next(rows, None)
    in_log: set[int] = set()
    with database:  # one commit for all: each waits for the disk
        for line in _whole_lines(log):
            if row is not None and line == _line(*row):  # nearly always; to read the JSON of thousands takes long
                in_log.add(row[0])
                row = next(rows, None)
                continue
            said = _said(line)
            if said is None or said[0] in in_log:
                continue
            sequence, moment, body = said
            in_log.add(sequence)
            if sequence not in in_database:
                in_database.add(sequence)
                _insert(database, sequence, moment, body)
            elif not _says(database, sequence, line):
                raise _DifferenceError
            while row is not None and row[0] <= sequence:
                row = next(rows, None)
    if not in_database <= in_log:
        write_text(log, "".join(f"{line}\n" for line in _what_is_right(database, log)))
    return max(in_database, default=0)


def _says(database: sqlite3.Connection, sequence: int, line: bytes) -> bool:
    """Whether the row is what its line says. As bytes: what was damaged may be no text."""
    moment, body = _row(database, sequence)
    if line == _line(sequence, moment, body):
        return True
    try:  # written otherwise, by hand perhaps
        return bool(json.loads(line) == {"seq": sequence, "time": moment, **json.loads(body)})
    except (ValueError, TypeError):
        return False


def _row(database: sqlite3.Connection, sequence: int) -> tuple[float, bytes]:
    query = "select time, cast(body as blob) from events where seq = ?"
    moment, body = database.execute(query, (sequence,)).fetchone()
    return moment, body


def _line(sequence: int, moment: float, body: bytes) -> bytes:
    """As `append_all` writes it, without reading the body; nothing where these are no row of ours."""
    if not isinstance(moment, float) or not body.startswith(b"{"):
        return b""
    return b'{"seq": %d, "time": %s, %s' % (sequence, repr(moment).encode(), body[1:])


def _what_is_right(database: sqlite3.Connection, log: Path) -> list[str]:
    """The lines of every fact: of two that differ the one that can be understood, and the log, which is written first.

    Raises SegwatchError for a fact of which only a damaged copy is left.
    """
    lines: dict[int, bytes] = {}
    for line in _whole_lines(log):
        if (said := _said(line)) is not None:
            lines.setdefault(said[0], line)
    for (sequence,) in database.execute("select seq from events").fetchall():
        if sequence not in lines or not _is_fact(lines[sequence]):
            line = _line(sequence, *_row(database, sequence))
            if _is_fact(line) or sequence not in lines:
                lines[sequence] = line
    for sequence, line in lines.items():
        if not _is_json(line):
            raise SegwatchError(
                f"fact {sequence} is damaged in {DATABASE}, and {EVENTS} holds no copy of it",
                where=log,
                remedy="put back one of the two files from a copy, or begin another run with --name",
            )
    return [lines[sequence].decode() for sequence in sorted(lines)]


def _is_fact(line: bytes) -> bool:
    try:
        EVENT.validate_json(line)
    except ValidationError:
        return False
    return True


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _rows(database: sqlite3.Connection, where: Path, after: int = 0) -> Iterator[tuple[float, Event]]:
    rows = database.execute("select time, body from events where seq > ? order by seq", (after,))
    for moment, body in rows:
        yield moment, _event(json.loads(body), where)


def _event(body: dict[str, Any], where: Path) -> Event:
    try:
        return EVENT.validate_python(body)
    except ValidationError as error:
        kind = body.get("kind")
        raise SegwatchError(
            f"a fact that this release does not understand: {kind!r}",
            where=where,
            remedy="use the release of segwatch that wrote it last, a newer one it seems",
        ) from error


def _log_rows(path: Path) -> Iterator[tuple[int, float, dict[str, Any]]]:
    for line in _whole_lines(path):
        if (said := _said(line)) is not None:
            yield said


def _whole_lines(path: Path) -> Iterator[bytes]:
    offset = 0
    while True:
        lines, end = read_lines(path, offset, limit=BLOCK_BYTES)
        if end == offset:
            return
        offset = end
        yield from lines


def _said(line: bytes) -> tuple[int, float, dict[str, Any]] | None:
    """What a line says; one that a dying daemon left torn is not a fact: its fsync had not returned, and nothing was
    built on it.
    """
    try:
        body = json.loads(line)
        return int(body.pop("seq")), float(body.pop("time")), body
    except (ValueError, KeyError, AttributeError):
        return None


def _open_database(path: Path) -> sqlite3.Connection:
    """Open or create; a database that SQLite calls damaged is moved aside and built anew from events.jsonl.

    Only damage: a disk that is full or read-only, or a lock, says nothing about the database.
    """
    try:
        return _connect(path)
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF not in DAMAGE:  # the low byte of an extended code is what it extends
            raise
        _set_aside(path)
        return _connect(path)


def _set_aside(path: Path) -> None:
    path.replace(path.with_name(f"{path.name}.corrupt-{time.time_ns()}"))
    path.with_name(f"{path.name}-journal").unlink(missing_ok=True)


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=10)
    try:
        database.execute("pragma journal_mode = delete")
        database.execute("pragma synchronous = full")
        if database.execute("pragma quick_check").fetchone()[0] != "ok":
            damaged = sqlite3.DatabaseError("quick_check failed")
            damaged.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise damaged
        version = database.execute("pragma user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise SegwatchError(
                f"state version {version}, this release knows {SCHEMA_VERSION}",
                where=path,
                remedy="use the release of segwatch that began this run",
            )
        if version == 0:  # in one: whoever is killed in between leaves none of it
            database.executescript(f"begin immediate; {_SCHEMA} pragma user_version = {SCHEMA_VERSION}; commit;")
    except BaseException:
        database.close()
        raise
    return database
