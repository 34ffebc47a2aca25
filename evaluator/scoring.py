"""Counts what a network predicts over one split: forward passes in, one confusion matrix out.

Everything is counted where the network runs and read back once, at the end, so that a GPU never waits for the host.
Knows nothing about checkpoints, reports or what a good score is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..data.batches import load_batch, to_device
from ..data.cache import PixelCache
from ..data.resolved import IGNORE_INDEX

LANES = 64
"""Copies of the matrix that a GPU counts into: most pixels are of one class, and would queue for one cell."""


@dataclass(frozen=True)
class Tally:
    """What was counted over a split."""

    confusion: np.ndarray
    """int64 (C, C), rows = truth."""
    images: int
    counted_pixels: int
    ignored_pixels: int
    nonfinite: tuple[int, ...]
    """Indices of the images whose logits hold a NaN or an Inf, at counted pixels or at ignored ones."""
    predictions: dict[int, np.ndarray]
    """uint8 (H, W) training indices, of the images that were asked for."""


def tally(
    network: nn.Module,
    cache: PixelCache,
    *,
    classes: int,
    device: torch.device,
    batch_size: int,
    keep: Collection[int] = (),
) -> Generator[int, None, Tally]:
    """Run every image of `cache` through `network`, which is on `device` and in eval mode; return the tally.

    Yields how many images are done after each batch (on a GPU: handed over). `keep` names the images whose
    predictions are wanted. Raises ValueError for an empty split, and whatever the device raises when its memory ends.
    """
    if not len(cache):
        raise ValueError("a split without images has no score")
    counter = _Counter(classes, device, frozenset(keep))
    done = 0
    for indices in batches_of_one_size([cache.size(index) for index in range(len(cache))], batch_size):
        with torch.inference_mode():  # not around the yield: the mode belongs to the thread, not to this generator
            images, masks = to_device(load_batch(cache, indices), device)
            counter.add(indices, network(images).float(), masks)
        done += len(indices)
        yield done
    return counter.read()


def batches_of_one_size(sizes: Sequence[tuple[int, int]], batch_size: int) -> list[tuple[int, ...]]:
    """Indices of images (height, width) in batches that need no padding: a padded border would change the logits."""
    by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, size in enumerate(sizes):
        by_size[size].append(index)
    return [
        tuple(indices[start : start + batch_size])
        for indices in by_size.values()
        for start in range(0, len(indices), batch_size)
    ]


class _Counter:
    """What was counted so far, all of it on the device."""

    def __init__(self, classes: int, device: torch.device, keep: frozenset[int]) -> None:
        self._classes = classes
        self._keep = keep
        # One row more than there are classes: ignored pixels are counted there, which costs less than leaving them out.
        self._cells = torch.zeros((classes + 1) * classes, dtype=torch.int64, device=device)
        self._counted = torch.zeros((), dtype=torch.int64, device=device)
        self._order: list[int] = []
        self._finite: list[Tensor] = []
        self._predictions: dict[int, Tensor] = {}

    def add(self, indices: Sequence[int], logits: Tensor, masks: Tensor) -> None:
        """Logits (N, C, H, W) and int64 masks (N, H, W) of the images `indices`."""
        prediction = logits.argmax(dim=1)
        rows = masks.clamp(max=self._classes)
        self._cells += count(rows.mul_(self._classes).add_(prediction).flatten(), self._cells.numel())
        self._counted += (masks != IGNORE_INDEX).sum()
        self._order.extend(indices)
        self._finite.append(finite_images(logits))
        for position, index in enumerate(indices):
            if index in self._keep:
                self._predictions[index] = prediction[position].to(torch.uint8)

    def read(self) -> Tally:
        """The one moment that waits for the device."""
        cells = self._cells.cpu().numpy().reshape(self._classes + 1, self._classes)
        confusion, ignored = cells[:-1], int(cells[-1].sum())
        counted = int(self._counted)
        assert int(confusion.sum()) == counted, "a mask holds a class that the network has not"
        finite = torch.cat(self._finite).tolist()
        return Tally(
            confusion=confusion,
            images=len(self._order),
            counted_pixels=counted,
            ignored_pixels=ignored,
            nonfinite=tuple(sorted(index for index, good in zip(self._order, finite, strict=True) if not good)),
            predictions={index: prediction.cpu().numpy() for index, prediction in self._predictions.items()},
        )


def finite_images(logits: Tensor) -> Tensor:
    """Whether all of an image's logits (N, C, H, W) are finite: bool (N,), on their device.

    NaN goes through a minimum and a maximum, so that two reductions see it without a mask as large as the logits.
    """
    return torch.stack([torch.stack(image.aminmax()).isfinite().all() for image in logits])


def count(cells: Tensor, bins: int) -> Tensor:
    """int64 (bins,): how often each of 0 ... bins - 1 stands in the int64 vector `cells`."""
    return torch.bincount(cells, minlength=bins) if cells.device.type == "cpu" else count_without_waiting(cells, bins)


def count_without_waiting(cells: Tensor, bins: int) -> Tensor:
    """The same for a GPU, where `torch.bincount` reads its maximum back to the host and so waits for every batch."""
    lane = torch.arange(cells.numel(), device=cells.device).remainder_(LANES)
    counts = torch.zeros(LANES * bins, dtype=torch.int64, device=cells.device)
    counts.scatter_add_(0, lane.mul_(bins).add_(cells), torch.ones_like(cells))
    return counts.reshape(LANES, bins).sum(dim=0)
