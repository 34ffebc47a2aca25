"""Every pair decoded and scaled once, then read through a memory map. Knows nothing about tensors, batches or training.

One directory per settings (scale, resampler, class table): `pixels.bin` holds the entries, `index.jsonl` says where. An
index line is written only after its pixels are on the disk, so a build that is killed is simply gone on with.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from pydantic import ValidationError

from ..durable import LineLog, read_lines
from ..errors import ConfigError
from ..section import Record
from .rasters import read_image, read_mask, reduce_mask
from .resolved import IGNORE_INDEX, Pair, ResolvedData

RESAMPLER = "draft+box+bicubic/nearest 1"
"""Part of the cache's name: whoever changes a pixel of `rasters` counts this up."""
CHANNELS = 4
"""R, G, B, training index."""
COMMIT_BYTES = 32 << 20
"""Pixels that share one flush to the disk."""
ALIGNMENT = 64

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PixelCache:
    """The scaled pixels of one split, in the order of `ResolvedData.splits`."""

    pairs: tuple[Pair, ...]
    _pixels: np.ndarray
    _entries: tuple[_Entry, ...]

    def __len__(self) -> int:
        return len(self._entries)

    def item(self, index: int) -> np.ndarray:
        """uint8 (H, W, 4), read-only, not copied: R, G, B and the training index, 255 where the pixel is ignored."""
        entry = self._entries[index]
        return self._pixels[entry.offset : entry.end].reshape(entry.height, entry.width, CHANNELS)

    def size(self, index: int) -> tuple[int, int]:
        """(height, width), without touching the pixels."""
        return self._entries[index].height, self._entries[index].width

    def name(self, index: int) -> str:
        """The image's path, relative to the data's root."""
        return self.pairs[index].image

    def pair(self, index: int) -> Pair:
        return self.pairs[index]


def open_cache(
    data: ResolvedData,
    split: str,
    cache_dir: Path,
    *,
    progress: Progress | None = None,
    threads: int | None = None,
) -> PixelCache:
    """Build what is missing of `split`, then map it. Worker and evaluator may do so at the same time.

    `progress` is told (done, total) from this thread; what was cached before counts as done. Raises ConfigError that
    names every pair that cannot be decoded, and OSError when the disk is full.
    """
    store = _Store(cache_dir / _settings_key(data))
    pairs = data.splits[split]
    keys = [_pair_key(data.root, pair) for pair in pairs]
    known = store.entries()
    missing = [(key, pair) for key, pair in zip(keys, pairs, strict=True) if key not in known]
    if missing:
        done = len(pairs) - len(missing)
        store.add(_counted(_decoded(data, missing, threads), done, len(pairs), progress))
        known = store.entries()
    elif progress is not None:
        progress(len(pairs), len(pairs))
    return PixelCache(pairs, store.map(), tuple(known[key] for key in keys))


class _Entry(Record):
    """A line of index.jsonl."""

    key: str
    offset: int
    height: int
    width: int

    @property
    def end(self) -> int:
        return self.offset + self.height * self.width * CHANNELS


class _Store:
    """pixels.bin and index.jsonl of one directory. The lock is held for moments: decoding happens outside of it."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._pixels = directory / "pixels.bin"
        self._index = directory / "index.jsonl"
        self._lock = FileLock(directory / "lock")

    def entries(self) -> dict[str, _Entry]:
        """What is cached, by key. An index that points behind the end of the pixels is not theirs: both begin anew."""
        with self._lock:
            self._pixels.touch()
            found = {entry.key: entry for entry in _read_index(self._index)}
            if any(entry.end > self._pixels.stat().st_size for entry in found.values()):
                self._index.unlink()
                self._pixels.unlink()
                self._pixels.touch()
                return {}
            return found

    def add(self, items: Iterable[tuple[str, np.ndarray]]) -> None:
        """Append in portions; what was finished before an exception stays."""
        portion: list[tuple[str, np.ndarray]] = []
        try:
            for item in items:
                portion.append(item)
                if sum(pixels.nbytes for _, pixels in portion) >= COMMIT_BYTES:
                    ready, portion = portion, []
                    self._commit(ready)
        finally:
            self._commit(portion)

    def map(self) -> np.ndarray:
        """uint8 (bytes,), read-only."""
        return np.asarray(np.memmap(self._pixels, dtype=np.uint8, mode="r"))

    def _commit(self, portion: list[tuple[str, np.ndarray]]) -> None:
        if not portion:
            return
        with self._lock:
            entries = self._write_pixels(portion)
            index = LineLog(self._index, fsync=False)
            try:
                for entry in entries:
                    index.append(entry.model_dump_json())
            finally:
                index.close()

    def _write_pixels(self, portion: list[tuple[str, np.ndarray]]) -> list[_Entry]:
        entries = []
        with self._pixels.open("r+b", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            offset = before
            try:
                for key, pixels in portion:
                    offset = -(-offset // ALIGNMENT) * ALIGNMENT
                    _write_at(file.fileno(), pixels, offset)
                    entries.append(_Entry(key=key, offset=offset, height=pixels.shape[0], width=pixels.shape[1]))
                    offset += pixels.nbytes
                os.fdatasync(file.fileno())
            except OSError as error:
                file.truncate(before)
                raise OSError(
                    error.errno, f"{error.strerror}: cannot write the pixel cache", str(self._pixels)
                ) from error
        return entries


def _write_at(descriptor: int, pixels: np.ndarray, offset: int) -> None:
    left = np.ascontiguousarray(pixels).data.cast("B")
    while left:
        written = os.pwrite(descriptor, left, offset)
        offset += written
        left = left[written:]


def _read_index(path: Path) -> Iterator[_Entry]:
    offset = 0
    while True:
        lines, behind = read_lines(path, offset)
        for line in lines:
            try:
                yield _Entry.model_validate_json(line)
            except ValidationError:  # the torn line of a builder that was killed: its pair is built again
                continue
        if behind == offset:
            return
        offset = behind


def _decoded(
    data: ResolvedData, missing: list[tuple[str, Pair]], threads: int | None
) -> Iterator[tuple[str, np.ndarray]]:
    """(key, pixels) of each pair that can be decoded; raises at the end, with all those that cannot."""
    lookup = data.lookup

    def decode(item: tuple[str, Pair]) -> tuple[str, np.ndarray] | ConfigError:
        key, pair = item
        try:
            return key, decode_pair(data.root, pair, data.scale, lookup)
        except ConfigError as error:
            return error

    failures: list[ConfigError] = []
    with ThreadPoolExecutor(threads or available_cores(), thread_name_prefix="decode") as pool:
        for result in pool.map(decode, missing):
            if isinstance(result, ConfigError):
                failures.append(result)
            else:
                yield result
    if failures:
        raise ConfigError(
            f"{len(failures)} of {len(missing)} files cannot be used:\n" + "\n".join(str(error) for error in failures),
            where=data.root,
            remedy='mend these files, or set data.on_bad_file = "skip" and start a new run',
        )


def decode_pair(root: Path, pair: Pair, scale: float, lookup: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 4) of one pair: the scaled image, and `lookup` of the mask's ids. Raises ConfigError."""
    image = read_image(root / pair.image, scale)
    ids = read_mask(root / pair.mask)
    height, width = image.shape[:2]
    entry = np.empty((height, width, CHANNELS), dtype=np.uint8)
    for channel in range(3):  # far faster in numpy than one copy with an inner axis of three bytes
        entry[..., channel] = image[..., channel]
    entry[..., 3] = lookup[reduce_mask(ids, height, width)]
    return entry


def available_cores() -> int:
    """Cores that this process may use, at most 16: reading from one disk gains nothing from more."""
    return min(16, len(os.sched_getaffinity(0)))


def _counted(
    items: Iterator[tuple[str, np.ndarray]], done: int, total: int, progress: Progress | None
) -> Iterator[tuple[str, np.ndarray]]:
    for count, item in enumerate(items, start=done + 1):
        yield item
        if progress is not None:
            progress(count, total)


def _settings_key(data: ResolvedData) -> str:
    digest = hashlib.sha256(f"{RESAMPLER}\0{data.scale!r}\0{IGNORE_INDEX}\0".encode())
    digest.update(data.lookup.tobytes())
    return digest.hexdigest()[:16]


def _pair_key(root: Path, pair: Pair) -> str:
    digest = hashlib.sha256()
    for name in (pair.image, pair.mask):
        path = root / name
        try:
            stat = path.stat()
        except OSError as error:
            raise ConfigError(
                f"cannot be read: {error.strerror}", where=path, remedy="restore the file, or start a new run"
            ) from error
        digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()
