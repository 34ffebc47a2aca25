"""Files that appear whole or not at all, and JSON that other programs can read. Knows nothing about what is in them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

LINE_LIMIT_BYTES = 16 << 20
"""The longest line that we write names every class: some 2 MB."""


def dumps(value: Any, *, indent: int | None = None) -> str:
    """JSON as the standard has it: NaN or Infinity raises ValueError instead of becoming a word no parser knows."""
    return json.dumps(value, allow_nan=False, ensure_ascii=False, indent=indent)


def write_atomic(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to the disk, and only then give it the name."""
    temporary = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_text(path: Path, text: str) -> None:
    write_atomic(path, lambda file: _write_all(file, text.encode()))


def write_json(path: Path, value: Any) -> None:
    write_text(path, dumps(value, indent=1) + "\n")


def sync_directory(directory: Path) -> None:
    """A rename is durable only once its directory is (fsync(2), NOTES)."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def next_number(base: Path) -> Path:
    """The first free `NNN` below a directory, which is made where it is missing."""
    base.mkdir(parents=True, exist_ok=True)
    number = max((int(path.name) for path in base.iterdir() if path.name.isdecimal()), default=0) + 1
    return base / f"{number:03d}"


def takes_name(filled: Path, place: Path) -> bool:
    """Give a directory its name, or say that another process was faster.

    It must hold something: rename(2) refuses to replace a directory with content, but replaces an empty one in silence.
    """
    assert any(filled.iterdir()), f"{filled} is empty: it could be replaced unseen"
    try:
        filled.rename(place)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    sync_directory(place.parent)
    return True


def append_whole(descriptor: int, payload: bytes) -> None:
    """All of `payload` to a file that is only appended to, by one writer. On a full disk what was begun is taken back:
    what comes next must not be glued to half a line.
    """
    written = os.write(descriptor, payload)
    try:
        while written < len(payload):
            written += os.write(descriptor, payload[written:])
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
        raise


def leads_to(path: Path, descriptor: int) -> bool:
    """Whether the name still leads to the open file: what is written to one that was deleted, nobody reads."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False


class LineLog:
    """An append-only file of whole lines: each `append` is one write(2), so that no reader sees a line torn by us.

    With `follow`, a file that was deleted or replaced is begun anew under its name, instead of being written to where
    nobody reads it: for what is told, not for what must be whole.
    """

    def __init__(self, path: Path, *, fsync: bool, follow: bool = False) -> None:
        self.path = path
        self._fsync = fsync
        self._follow = follow
        self._descriptor = self._open()
        self._end_torn_line()

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def append(self, *lines: str) -> None:
        """Lines that belong together, all or none. Raises ValueError for one with a line break in it, OSError when the
        disk refuses.
        """
        if any("\n" in line for line in lines):
            raise ValueError("a line holds no line break")
        if self._follow and not self.in_place():
            os.close(self._descriptor)
            self._descriptor = self._open()
        append_whole(self._descriptor, "".join(f"{line}\n" for line in lines).encode())
        if self._fsync:
            os.fsync(self._descriptor)

    def in_place(self) -> bool:
        return leads_to(self.path, self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)

    def _end_torn_line(self) -> None:
        """A writer that was killed may have left half a line; ours must not be glued to it."""
        with self.path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size == 0:
                return
            file.seek(size - 1)
            if file.read(1) != b"\n":
                os.write(self._descriptor, b"\n")


def read_text(path: Path, *, limit: int, encoding: str = "utf-8") -> str:
    """A file that a person wrote. Raises ValueError when it is larger than any such file, before it is in memory."""
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"larger than {limit >> 20} MiB")
    return content.decode(encoding)


def read_lines(path: Path, offset: int = 0, *, limit: int = 4 << 20) -> tuple[list[bytes], int]:
    """The whole lines that stand after byte `offset`, and the offset behind them; at most about `limit` bytes at once.

    A last line without its line break is still being written and is left for the next call. A line that is longer than
    `LINE_LIMIT_BYTES` is none of ours and is passed over. A file that is not there yet has no lines.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            block = file.read(limit)
            if block and b"\n" not in block:  # one line longer than the limit: read on to its end, if it has one
                block += file.readline(LINE_LIMIT_BYTES)
                if not block.endswith(b"\n"):
                    return [], _next_line(file, offset)
    except FileNotFoundError:
        return [], offset
    end = block.rfind(b"\n") + 1
    return block[:end].splitlines(), offset + end


def _next_line(file: IO[bytes], otherwise: int) -> int:
    """The offset behind the next line break, however far; a line that has none yet may still get one."""
    while part := file.readline(1 << 20):
        if part.endswith(b"\n"):
            return file.tell()
    return otherwise


def _write_all(file: IO[bytes], payload: bytes) -> None:
    file.write(payload)
