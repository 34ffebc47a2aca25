"""Looks at a file that anybody may have written, without loading it: is it what `torch.save` writes? No torch.

What gets through here is still only read with `weights_only=True`. What is stopped here would read as nonsense, fill
the memory or never end: pipes and devices, archives that unpack to more than they are, bytes that changed.
"""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

LIMIT_BYTES = 16 << 30
"""Of a file. A UNet of 512 base channels, the largest that can be configured, has 8 GB."""
PICKLE_LIMIT_BYTES = 16 << 20
"""Of what is unpickled: names and shapes. The 118 tensors of a UNet take 20 kB."""
ZIP = b"PK\x03\x04"
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The pickled magic number with which `torch.save` began before it wrote zip archives."""
NAMED = 3
KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class UnfitError(Exception):
    """Why a file is not read: a predicate, to which the file's name is the subject."""


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """A plain file of sane size, for reading. Raises UnfitError, and FileNotFoundError where there is none."""
    try:
        # Without O_NONBLOCK, opening a pipe would wait for somebody to write into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnfitError(f"cannot be opened: {error.strerror}") from error
    try:
        _require_plain(os.fstat(descriptor))
    except UnfitError:
        os.close(descriptor)
        raise
    with os.fdopen(descriptor, "rb") as file:
        yield file


def sha256_of(file: BufferedReader) -> str:
    """Of the whole file, wherever it is read at now."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def inspect(file: BufferedReader) -> None:
    """Raises UnfitError unless it looks, from outside, like tensors that `torch.save` wrote, whole and undamaged."""
    file.seek(0)
    begin = file.read(len(LEGACY))
    if begin.startswith(ZIP):
        _inspect_archive(file)
    elif begin != LEGACY:
        raise UnfitError(f"is not a file of torch.save: {_looks_like(begin)}")


def printable(text: str, limit: int = 80) -> str:
    """A word of an unknown file, fit for a terminal: no control characters, not longer than `limit`."""
    shown = "".join(character if character.isprintable() else "?" for character in text[:limit])
    return shown if len(text) <= limit else f"{shown}..."


def _require_plain(status: os.stat_result) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        raise UnfitError(f"is {KINDS.get(kind, 'something else')}, not a file")
    if not status.st_size:
        raise UnfitError("is empty (0 bytes)")
    if status.st_size > LIMIT_BYTES:
        raise UnfitError(f"is too large for a UNet: {status.st_size / 1e9:.1f} GB")


def _inspect_archive(file: BufferedReader) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            _judge_entries(archive.infolist(), os.fstat(file.fileno()).st_size)
            damaged = archive.testzip()
    except UnfitError:
        raise
    except zipfile.BadZipFile as error:
        raise UnfitError("is cut short or damaged: a zip archive without a sound table of contents") from error
    except Exception as error:
        # Boundary: zipfile answers a hostile archive with as many exceptions as there are ways to break one.
        raise UnfitError(f"is cut short or damaged: {printable(str(error))}") from error
    if damaged is not None:  # torch.load does not compare checksums: a flipped bit would pass for a weight
        raise UnfitError(f"is damaged: the checksum of {printable(damaged)} is wrong")


def _judge_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    names = [entry.filename for entry in entries]
    if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
        raise UnfitError("is a TorchScript archive, which holds code: save model.state_dict() instead")
    pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
    if len(pickles) != 1 or len(set(names)) != len(names):
        shown = ", ".join(printable(name, 40) for name in names[:NAMED]) or "nothing"
        raise UnfitError(f"is a zip archive, but not one of torch.save: it holds {shown}")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise UnfitError("is a compressed archive, which torch.save never writes: it may unpack to any size")
    if sum(entry.file_size for entry in entries) > size:
        raise UnfitError("is an archive that claims to hold more than it has bytes")
    if pickles[0].file_size > PICKLE_LIMIT_BYTES:
        raise UnfitError(f"holds {pickles[0].file_size / 1e6:.0f} MB of names and shapes: no UNet has as many")


def _looks_like(begin: bytes) -> str:
    if begin.startswith(b"\x80"):
        return "a bare pickle, which may run any code when it is loaded"
    if begin.startswith(b"version https:"):
        return "a Git LFS pointer in place of the file; `git lfs pull` fetches it"
    return f"it begins with {printable(begin.decode('latin-1'))!r}"
