"""Loading pairs and auditing masks, against the common way and against the decoder alone."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from segwatch.data.batches import Batch, load_batch, to_device
from segwatch.data.cache import decode_pair, open_cache
from segwatch.data.config import DataConfig
from segwatch.data.masks import describe_mask
from segwatch.data.rasters import read_image
from segwatch.data.resolved import Pair, ResolvedData
from segwatch.data.scan import scan_splits
from segwatch.data.scenes import TABLE_COLOURS

from .common_way import load_image, load_pair
from .scenes import IDS, make_data
from .table import Row, Times, at_most, by_turns, faster, growth, spoken

SCALE = 0.25
SIZES = ((1024, 1224), (2048, 2448))
MASKS = 8


def loading(place: Path, rounds: int = 5, sizes: tuple[tuple[int, int], ...] = SIZES) -> Iterator[Row]:
    """A pair until it is two tensors: at first sight, and from the cache."""
    first, cached = [], []
    for height, width in sizes:
        data = make_data(place / f"scenes-{width}", size=(height, width), train=1, scale=SCALE)
        pair, lookup = data.splits["train"][0], data.lookup
        cache = open_cache(data, "train", place / "cache")

        def at_first_sight(data=data, pair=pair, lookup=lookup) -> object:
            entry = torch.from_numpy(decode_pair(data.root, pair, data.scale, lookup).transpose(2, 0, 1)[None])
            return to_device(Batch(entry[:, :3], entry[:, 3], (pair.image,)), "cpu")

        def common(data=data, pair=pair) -> object:
            return load_pair(data.root / pair.image, data.root / pair.mask, data.scale, IDS)

        size = f"{width}x{height} at {SCALE:g}"
        first.append(by_turns(at_first_sight, common, rounds))
        floor = by_turns(at_first_sight, lambda data=data, pair=pair: _decoders(data.root, pair), rounds)
        note = f"floor: {first[-1].theirs / floor.theirs:.3g} x, by {_decoder_words(data.root, pair)} alone"
        yield faster("loading", "first sight", size, first[-1], against="common way", goal=4, note=note)
        what, note = "first sight", "a mask is decoded whole, whatever the scale: PNG has no draft"
        yield at_most("loading", what, size, floor, against="decoders alone", goal=1.2, note=note)
        path = data.root / pair.image
        alone = by_turns(lambda path=path: read_image(path, SCALE), lambda path=path: load_image(path, SCALE), rounds)
        yield faster("loading", "first sight, image alone", size, alone, against="common way", goal=4)
        cached.append(by_turns(lambda cache=cache: to_device(load_batch(cache, [0]), "cpu"), common, rounds))
        yield faster("loading", "from the cache", size, cached[-1], against="common way", goal=30)
    work = [height * width for height, width in sizes]
    yield growth("loading", "first sight", work, [times.mine for times in first])
    yield growth("loading", "from the cache", work, [times.mine for times in cached])
    yield from building(place, rounds)


def building(place: Path, rounds: int = 5, pairs: int = 16) -> Iterator[Row]:
    """The cache of a split built by all cores, flushed to the disk, against the same pairs decoded by one."""
    height, width = SIZES[0]
    data = make_data(place / f"scenes-build-{pairs}", size=(height, width), train=pairs, scale=SCALE)
    lookup, fresh = data.lookup, itertools.count()

    def build() -> None:
        open_cache(data, "train", place / f"built-{next(fresh)}")

    def one_by_one() -> None:
        for pair in data.splits["train"]:
            decode_pair(data.root, pair, data.scale, lookup)

    cores = len(os.sched_getaffinity(0))
    size, note = f"{pairs} pairs of {width}x{height} at {SCALE:g}", f"{cores} cores; to the disk, with its index"
    times = by_turns(build, one_by_one, rounds)
    yield faster("loading", "cache built", size, times, against="decoded on one core", goal=None, note=note)


def audit(place: Path, rounds: int = 5, sizes: tuple[tuple[int, int], ...] = SIZES) -> Iterator[Row]:
    """Different masks read for their ids by all cores, and the whole scan, against the decoders alone on as many."""
    taken = []
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as cores:
        for height, width in sizes:
            data = make_data(place / f"scenes-audit-{width}", size=(height, width), train=MASKS, scale=SCALE)
            masks = [data.root / pair.mask for pair in data.splits["train"]]
            taken.append(_audited(cores, masks, rounds, describe_mask))
            size, floor = f"{MASKS} masks of {width}x{height}", _audited(cores, masks, rounds, _counted)
            note = f"floor: {floor.ratio:.3g} x, with the pixels counted by Pillow's histogram and nothing else"
            yield at_most("audit", "ids of masks", size, taken[-1], against="PNG decoder", goal=1.2, note=note)
            yield _coloured(place, cores, masks, size, rounds)
            yield _scanned(cores, data, f"{MASKS} pairs of {width}x{height}", rounds)
    work = [height * width for height, width in sizes]
    yield growth("audit", "ids of masks", work, [times.mine for times in taken])


def _coloured(place: Path, cores: ThreadPoolExecutor, masks: list[Path], size: str, rounds: int) -> Row:
    """The same masks in the colours of their classes."""
    coloured = []
    for mask in masks:
        path = place / "coloured" / mask.parents[2].name / mask.name
        path.parent.mkdir(parents=True, exist_ok=True)
        ids, colours = np.asarray(Image.open(mask)), np.zeros((256, 3), np.uint8)
        for number in IDS:
            colours[number] = TABLE_COLOURS[number]
        Image.fromarray(colours[ids]).save(path)
        coloured.append(path)
    times = _audited(cores, coloured, rounds, describe_mask)
    note = "Pillow's getcolors looks each pixel up in a table"
    return at_most("audit", "colours of masks", size, times, against="PNG decoder", goal=1.2, note=note)


def _scanned(cores: ThreadPoolExecutor, data: ResolvedData, size: str, rounds: int) -> Row:
    """As `segwatch audit` reads a split: files hashed, images and masks decoded to their ends, pixels counted."""
    places = {split: {kind: f"{kind}/{split}" for kind in ("images", "masks")} for split in data.splits}
    config = DataConfig.model_validate({"root": data.root, "classes": "classes.toml", "scale": SCALE, **places})
    files = [data.root / name for pair in data.splits["train"] for name in (pair.image, pair.mask)]
    times = by_turns(
        lambda: scan_splits(config, data.root, asked=("train",)), lambda: list(cores.map(_decoded, files)), rounds
    )
    note = "images are decoded to grey at an eighth of their size, which reads every byte all the same"
    return at_most("audit", "whole scan", size, times, against="decoders alone", goal=1.2, note=note)


def _audited(cores: ThreadPoolExecutor, masks: list[Path], rounds: int, look: Callable[[Path], object]) -> Times:
    def each(read: Callable[[Path], object]) -> Callable[[], object]:
        return lambda: list(cores.map(read, masks))

    return by_turns(each(look), each(_decoded), rounds)


def _decoders(root: Path, pair: Pair) -> None:
    """JPEG in the draft nearest to the scale, and PNG: nobody who reads these files does less."""
    _drafted(root / pair.image)
    _decoded(root / pair.mask)


def _decoder_words(root: Path, pair: Pair) -> str:
    times = by_turns(lambda: _drafted(root / pair.image), lambda: _decoded(root / pair.mask))
    return f"decoding the JPEG in draft mode ({spoken(times.mine)}) and the PNG ({spoken(times.theirs)})"


def _drafted(path: Path) -> None:
    with Image.open(path) as image:
        image.draft("RGB", (int(SCALE * image.width), int(SCALE * image.height)))
        image.load()


def _decoded(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


def _counted(path: Path) -> None:
    with Image.open(path) as image:
        image.load()
        image.histogram()
