"""Every pair decoded and scaled once, then read through a memory map. Knows nothing about tensors, batches or training.

One directory per settings (scale, resampler, class table): `pixels.bin` holds the entries, `index.jsonl` says where. An
index line is written only after its pixels are on the disk, so a build that is killed is simply gone on with. Masks at
their full size, for scores at the resolution of the labels, are kept in the same way in a directory of their own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from pydantic import ValidationError

from ..durable import LineLog, read_lines
from ..errors import ConfigError
from ..section import Record
from .masks import mask_values, read_mask
from .rasters import read_image
from .resolved import IGNORE_INDEX, Pair, Reading, ResolvedData

RESAMPLER = "draft+box+bicubic/nearest 1"
"""Part of the cache's name: whoever changes a pixel of `rasters` counts this up."""
FULL_SIZE = "labels at full size 1"
"""The same for masks alone."""
CHANNELS = 4
"""R, G, B, training index."""
COMMIT_BYTES = 32 << 20
"""Pixels that share one flush to the disk."""
ALIGNMENT = 64
AHEAD = 2
"""Pairs decoded and not yet taken, for each thread: the memory of a build, where the disk is slower than the cores."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Mapped:
    """The entries of one split in the memory map, in the order of `ResolvedData.splits`."""

    pairs: tuple[Pair, ...]
    _pixels: np.ndarray
    _entries: tuple[_Entry, ...]

    def __len__(self) -> int:
        return len(self._entries)

    def size(self, index: int) -> tuple[int, int]:
        """(height, width), without touching the pixels."""
        return self._entries[index].height, self._entries[index].width

    def _bytes(self, index: int) -> np.ndarray:
        entry = self._entries[index]
        return self._pixels[entry.offset : entry.end]


class PixelCache(_Mapped):
    """The scaled pixels of one split."""

    def item(self, index: int) -> np.ndarray:
        """uint8 (H, W, 4), read-only, not copied: R, G, B and the training index, 255 where the pixel is ignored."""
        return self._bytes(index).reshape(*self.size(index), CHANNELS)

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
    lookup = data.lookup
    pairs = data.splits[split]
    keys = [_file_key(data.root, pair.image, pair.mask) for pair in pairs]

    def decode(pair: Pair) -> np.ndarray:
        return decode_pair(data.root, pair, data.scale, lookup, data.reading)

    store = _Store(cache_dir / _settings_key(data, RESAMPLER, repr(data.scale)))
    entries = _filled(store, keys, pairs, _Builder(data.root, decode, progress, threads))
    return PixelCache(pairs, store.map(), entries)


def decode_again(data: ResolvedData, split: str, cache_dir: Path, images: Collection[str]) -> list[str]:
    """Make the entries of `images` anew where they are not what their files hold; returns the names of those.

    A new entry is appended, and its line in the index counts from then on: whoever has mapped the old one keeps it, and
    the place on the disk where it was spoilt is not written to again. Raises ConfigError for a file that cannot be
    decoded, OSError.
    """
    wanted = [pair for pair in data.splits[split] if pair.image in images]
    if not wanted:
        return []
    store = _Store(cache_dir / _settings_key(data, RESAMPLER, repr(data.scale)))
    known, mapped = store.entries(), store.map()
    fresh: dict[str, tuple[str, np.ndarray]] = {}
    for pair in wanted:
        pixels = decode_pair(data.root, pair, data.scale, data.lookup, data.reading)
        key = _file_key(data.root, pair.image, pair.mask)
        entry = known.get(key)
        if entry is None or not np.array_equal(mapped[entry.offset : entry.end], pixels.reshape(-1)):
            fresh[pair.image] = key, pixels
    store.add(fresh.values())
    return list(fresh)


def copy_entries(data: ResolvedData, cache_dir: Path, into: Path) -> None:
    """A cache directory of its own, with all that `open_cache` of `data` has built in `cache_dir`. Raises OSError."""
    key = _settings_key(data, RESAMPLER, repr(data.scale))
    shutil.copytree(cache_dir / key, into / key)


def overwrite_entry(
    data: ResolvedData, split: str, cache_dir: Path, index: int, changed: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Put `changed` (H, W, 4) of an entry in its place, in a cache that nobody else uses; maps see it at once."""
    pair = data.splits[split][index]
    store = _Store(cache_dir / _settings_key(data, RESAMPLER, repr(data.scale)))
    entry = store.entries()[_file_key(data.root, pair.image, pair.mask)]
    before = store.map()[entry.offset : entry.end].reshape(entry.height, entry.width, CHANNELS)
    store.replace(entry, changed(before))


class LabelCache(_Mapped):
    """The masks of one split at their own full size."""

    def item(self, index: int) -> np.ndarray:
        """uint8 (H, W), read-only, not copied: the training index, 255 where the pixel is ignored."""
        return self._bytes(index).reshape(self.size(index))


def open_labels(
    data: ResolvedData,
    split: str,
    cache_dir: Path,
    *,
    progress: Progress | None = None,
    threads: int | None = None,
) -> LabelCache:
    """`open_cache` for the masks alone, at full size whatever `data.scale` is: a byte a pixel on the disk."""
    lookup = data.lookup
    pairs = data.splits[split]
    keys = [_file_key(data.root, pair.mask) for pair in pairs]

    def decode(pair: Pair) -> np.ndarray:
        return decode_labels(data.root, pair, lookup, data.reading)

    store = _Store(cache_dir / _settings_key(data, FULL_SIZE))
    entries = _filled(store, keys, pairs, _Builder(data.root, decode, progress, threads))
    return LabelCache(pairs, store.map(), entries)


class _Entry(Record):
    """A line of index.jsonl."""

    key: str
    offset: int
    height: int
    width: int
    channels: int = CHANNELS

    @classmethod
    def of(cls, key: str, pixels: np.ndarray, offset: int) -> _Entry:
        """Of pixels (H, W) or (H, W, channels)."""
        height, width, channels = pixels.reshape(*pixels.shape[:2], -1).shape
        return cls(key=key, offset=offset, height=height, width=width, channels=channels)

    @property
    def end(self) -> int:
        return self.offset + self.height * self.width * self.channels


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

    def replace(self, entry: _Entry, pixels: np.ndarray) -> None:
        assert pixels.nbytes == entry.end - entry.offset
        with self._lock, self._pixels.open("r+b", buffering=0) as file:
            _write_at(file.fileno(), pixels, entry.offset)
            os.fdatasync(file.fileno())

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
                    entries.append(_Entry.of(key, pixels, offset))
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


@dataclass(frozen=True)
class _Builder:
    """How the entries that are missing are made."""

    root: Path
    decode: Callable[[Pair], np.ndarray]
    """Called from several threads at once; raises ConfigError."""
    progress: Progress | None
    threads: int | None

    def made(self, missing: list[tuple[str, Pair]], total: int) -> Iterator[tuple[str, np.ndarray]]:
        """(key, pixels) of each pair that can be decoded; raises at the end, with all those that cannot."""
        done = total - len(missing)
        failures: list[ConfigError] = []
        threads = self.threads or available_cores()
        with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
            for result in self._attempts(pool, missing, AHEAD * threads):
                if isinstance(result, ConfigError):
                    failures.append(result)
                    continue
                yield result
                done += 1
                if self.progress is not None:
                    self.progress(done, total)
        if failures:
            raise ConfigError(
                f"{len(failures)} of {len(missing)} files cannot be used:\n"
                + "\n".join(str(error) for error in failures),
                where=self.root,
                remedy='mend these files, or set data.on_bad_file = "skip" and start a new run',
            )

    def _attempts(
        self, pool: ThreadPoolExecutor, missing: list[tuple[str, Pair]], at_once: int
    ) -> Iterator[tuple[str, np.ndarray] | ConfigError]:
        """In order, at most `at_once` of them ahead of who takes them."""
        waiting: deque[Future[tuple[str, np.ndarray] | ConfigError]] = deque()
        for item in missing:
            waiting.append(pool.submit(self._attempt, item))
            if len(waiting) >= at_once:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _attempt(self, item: tuple[str, Pair]) -> tuple[str, np.ndarray] | ConfigError:
        key, pair = item
        try:
            return key, self.decode(pair)
        except ConfigError as error:
            return error


def _filled(store: _Store, keys: list[str], pairs: tuple[Pair, ...], builder: _Builder) -> tuple[_Entry, ...]:
    """The entries of `pairs`, whose missing ones are built first."""
    known = store.entries()
    missing = [(key, pair) for key, pair in zip(keys, pairs, strict=True) if key not in known]
    if missing:
        store.add(builder.made(missing, len(pairs)))
        known = store.entries()
    elif builder.progress is not None:
        builder.progress(len(pairs), len(pairs))
    return tuple(known[key] for key in keys)


def decode_pair(root: Path, pair: Pair, scale: float, lookup: np.ndarray, reading: Reading = Reading.IDS) -> np.ndarray:
    """uint8 (H, W, 4) of one pair: the scaled image, and `lookup` of the mask's values. Raises ConfigError."""
    image = read_image(root / pair.image, scale)
    height, width = image.shape[:2]
    mask = read_mask(root / pair.mask, reading, reduced_to=(height, width))
    entry = np.empty((height, width, CHANNELS), dtype=np.uint8)
    for channel in range(3):  # far faster in numpy than one copy with an inner axis of three bytes
        entry[..., channel] = image[..., channel]
    entry[..., 3] = lookup[mask_values(mask)]
    return entry


def available_cores() -> int:
    """Cores that this process may use, at most 16: reading from one disk gains nothing from more."""
    return min(16, len(os.sched_getaffinity(0)))


def decode_labels(root: Path, pair: Pair, lookup: np.ndarray, reading: Reading = Reading.IDS) -> np.ndarray:
    """uint8 (H, W) of one mask at full size: `lookup` of its values. Raises ConfigError."""
    labels: np.ndarray = lookup[mask_values(read_mask(root / pair.mask, reading))]
    return labels


def _settings_key(data: ResolvedData, *made_by: str) -> str:
    """One per way to make the entries: every setting that changes a byte of them."""
    digest = hashlib.sha256("\0".join([*made_by, str(IGNORE_INDEX), ""]).encode())
    digest.update(repr((data.reading.value, data.mapping)).encode())
    return digest.hexdigest()[:16]


def _file_key(root: Path, *names: str) -> str:
    """One per state of these files."""
    digest = hashlib.sha256()
    for name in names:
        path = root / name
        try:
            stat = path.stat()
        except OSError as error:
            raise ConfigError(
                f"cannot be read: {error.strerror}", where=path, remedy="restore the file, or start a new run"
            ) from error
        digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()
