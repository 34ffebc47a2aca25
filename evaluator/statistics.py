"""PURE: what the images of a split say about the noise in its score. Knows nothing about networks, pictures or torch.

A score is a figure of the images that happened to be in the split. The bootstrap (Efron and Tibshirani, 1993) draws
them anew with replacement, many times, and shows how far the figure moves: images are what varies, so images are drawn,
never pixels. Frames of one video are alike; an interval over them is narrower than the truth.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from ..durable import write_atomic
from .report import ImageScore, Interval

RESAMPLES = 1000
LEVEL = 0.95
EPSILON = 1e-6
"""Of the per-image Dice of common UNet code: with it, a plane that is empty in truth and prediction has the Dice 1."""
SEED = 20
"""One seed for all: the same counts always give the same interval."""
BLOCK_CELLS = 1 << 20
"""Weights drawn at once, 8 MB: memory must not grow with the number of images."""
COUNTS = ("intersection", "support", "predicted")


@dataclass(frozen=True)
class PerImage:
    """The counts of every image of a split, by class: int64 (I, C) each. Sums over I are those of the matrix."""

    names: tuple[str, ...]
    intersection: np.ndarray
    """Counted pixels whose truth and prediction are this class."""
    support: np.ndarray
    """Counted pixels whose truth is this class."""
    predicted: np.ndarray
    """Counted pixels whose prediction is this class."""


@dataclass(frozen=True)
class Difference:
    """mIoU after - before on the same images, with its 95 % interval from a paired bootstrap."""

    difference: float
    low: float
    high: float


def miou_interval(images: PerImage) -> Interval | None:
    """Where the mIoU of the split lies in 95 of 100 draws of as many images (percentile bootstrap).

    `None` with fewer than two images, or where no pixel counts.
    """
    if len(images.names) < 2:
        return None
    limits = _limits(_mious(weights @ _columns(images)) for weights in _draws(len(images.names)))
    return None if limits is None else Interval(low=limits[0], high=limits[1], level=LEVEL, resamples=RESAMPLES)


def difference(before: PerImage, after: PerImage) -> Difference | None:
    """How much better `after` is, over the same draws of images for both: what both find hard cancels.

    `None` where they are not of the same images with the same truth, with fewer than two, or where no pixel counts.
    """
    matched = _in_order_of(before, after)
    if matched is None or len(before.names) < 2:
        return None
    pair = _columns(before), _columns(matched)
    old, new = (float(_mious(columns.sum(axis=0, keepdims=True))[0]) for columns in pair)
    limits = _limits(_mious(weights @ pair[1]) - _mious(weights @ pair[0]) for weights in _draws(len(before.names)))
    if limits is None or math.isnan(new - old):
        return None
    return Difference(new - old, *limits)


def worst_places(images: PerImage, count: int) -> list[tuple[int, float]]:
    """(index, mIoU) of the `count` images of the lowest mIoU, worst first; those without a counted pixel are not among
    them.
    """
    mious = _mious(_columns(images))
    order = np.argsort(mious, kind="stable")  # NaN comes last
    return [(int(index), float(mious[index])) for index in order if not math.isnan(mious[index])][:count]


def worst_images(images: PerImage, count: int) -> tuple[ImageScore, ...]:
    """The same by name."""
    return tuple(ImageScore(name=images.names[index], miou=miou) for index, miou in worst_places(images, count))


def per_image_foreground_dice(images: PerImage) -> float | None:
    """The "Dice" that common UNet training code prints: the mean over all planes of (image, class 1 ... C - 1) of

        (2 |truth and prediction| + 1e-6) / (|truth| + |prediction| + 1e-6)

    so that a class which is in neither counts as 1, and as almost 0 once a single stray pixel predicts it. Ignored
    pixels are in no plane, and an image of them alone is none of the images. Neither the Dice of a whole split nor
    bound to its IoU by any law: see docs/metrics.md. `None` without a counted pixel or without a second class.
    """
    counted = images.support.sum(axis=1) > 0
    if not counted.any() or images.support.shape[1] < 2:
        return None
    both = 2 * images.intersection[counted, 1:]
    either = images.support[counted, 1:] + images.predicted[counted, 1:]
    return float(((both + EPSILON) / (either + EPSILON)).mean())


def write_per_image(path: Path, images: PerImage) -> None:
    """As a compressed .npz that appears whole; the directory is there already."""

    def write(file: IO[bytes]) -> None:
        counts = {name: getattr(images, name) for name in COUNTS}
        np.savez_compressed(file, names=np.array(images.names, dtype=np.str_), **counts)

    write_atomic(path, write)


def read_per_image(path: Path) -> PerImage | None:
    """`None` where there is no such file; raises ValueError for one that is not ours. Nothing in it is unpickled."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            names = tuple(str(name) for name in arrays["names"])
            images = PerImage(names, *(arrays[name] for name in COUNTS))
    except (ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        # What numpy and zipfile make of torn or foreign bytes: TypeError of a bare array, RuntimeError of encryption.
        raise ValueError(f"{path}: no per-image counts of segwatch: {error}") from error
    if wrong := _mistake(images):
        raise ValueError(f"{path}: no per-image counts of segwatch: {wrong}")
    return images


def _mistake(images: PerImage) -> str:
    """What is wrong with counts from a file; empty where nothing is."""
    for name in COUNTS:
        counts = getattr(images, name)
        if counts.dtype != np.int64 or counts.ndim != 2 or counts.shape != images.support.shape:
            return f"{name} is {counts.dtype} {counts.shape}"
    if len(images.names) != len(images.support):
        return f"{len(images.names)} names for {len(images.support)} images"
    if (images.intersection < 0).any() or (images.intersection > np.minimum(images.support, images.predicted)).any():
        return "more pixels are right than there are"
    return ""


def _in_order_of(reference: PerImage, images: PerImage) -> PerImage | None:
    """`images` sorted as `reference` is; `None` where the images or their truth differ."""
    place = {name: index for index, name in enumerate(images.names)}
    if len(place) != len(images.names) or sorted(place) != sorted(reference.names):
        return None
    order = np.array([place[name] for name in reference.names], dtype=np.intp)
    ordered = PerImage(reference.names, *(getattr(images, name)[order] for name in COUNTS))
    return ordered if np.array_equal(ordered.support, reference.support) else None


def _draws(count: int) -> Iterator[np.ndarray]:
    """float64 (resamples, count) in blocks, RESAMPLES rows in all: how often each image is in each draw of `count`."""
    random = np.random.default_rng(SEED)
    rows = max(1, BLOCK_CELLS // count)
    for start in range(0, RESAMPLES, rows):
        size = min(rows, RESAMPLES - start)
        drawn = random.integers(0, count, (size, count))
        drawn += np.arange(size)[:, None] * count
        yield np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count).astype(np.float64)


def _columns(images: PerImage) -> np.ndarray:
    """float64 (I, 2 C): intersections, then unions. Exact, and sums too, below 2^53 pixels."""
    union = images.support + images.predicted - images.intersection
    return np.concatenate([images.intersection, union], axis=1).astype(np.float64)


def _mious(sums: np.ndarray) -> np.ndarray:
    """(N, 2 C) sums as in `_columns` -> mIoU (N,), over the classes with a union; NaN where there is none."""
    intersection, union = np.split(sums, 2, axis=1)
    classes = (union > 0).sum(axis=1)
    total = (intersection / np.maximum(union, 1)).sum(axis=1)
    return np.where(classes > 0, total / np.maximum(classes, 1), np.nan)


def _limits(blocks: Iterator[np.ndarray]) -> tuple[float, float] | None:
    """The ends of the middle LEVEL of all values; `None` where a draw may hold no counted pixel and all do."""
    values = np.concatenate(list(blocks))
    values = values[~np.isnan(values)]
    if not values.size:
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
