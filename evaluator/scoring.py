"""Counts what a network predicts over one split: forward passes in, one confusion matrix out.

Everything is counted where the network runs and read back once, at the end, so that a GPU never waits for the host.
Knows nothing about checkpoints, reports or what a good score is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Generator, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ..checkpoints.files import in_memory_order
from ..data.batches import load_batch, to_device
from ..data.cache import LabelCache, PixelCache
from ..data.resolved import IGNORE_INDEX
from .statistics import PerImage
from .windows import WHOLE, Band, Window, enlarged, logits_of, moved

BYTE = 256
"""Cells that a byte can number: those of up to 15 classes."""
LANES = 64
"""Copies of the matrix that a GPU counts into: most pixels are of one class, and would queue for one cell."""


@dataclass(frozen=True)
class Tally:
    """What was counted over a split."""

    confusion: np.ndarray
    """int64 (C, C), rows = truth."""
    per_image: PerImage
    """The same pixels by image, in the order of the split."""
    images: int
    counted_pixels: int
    ignored_pixels: int
    nonfinite: tuple[int, ...]
    """Indices of the images whose logits hold a NaN or an Inf, at counted pixels or at ignored ones."""
    predictions: dict[int, np.ndarray]
    """uint8 (H, W) training indices at the size of the cached image, of the images that were asked for."""


def tally(
    network: nn.Module,
    cache: PixelCache,
    *,
    classes: int,
    device: torch.device,
    batch_size: int,
    labels: LabelCache | None = None,
    window: Window = WHOLE,
    keep: Collection[int] = (),
) -> Generator[int, None, Tally]:
    """Run every image of `cache` through `network`, which is on `device` and in eval mode; return the tally.

    With `labels`, the logits are enlarged to the size of each label and compared there; else with the mask in `cache`.
    `batch_size` images, or windows of one image, make a forward pass. Yields how many images are done after each batch
    (on a GPU: handed over). `keep` names the images whose predictions are wanted. Raises ValueError for an empty split,
    and whatever the device raises when its memory ends.
    """
    if not len(cache):
        raise ValueError("a split without images has no score")
    counter = _Counter(classes, device)
    done = 0
    for indices in _batches(cache, labels, window, batch_size):
        with torch.inference_mode():  # not around the yield: the mode belongs to the thread, not to this generator
            counts = _BatchCounts(indices, classes, device, keep)
            _count_batch(network, cache, labels, window, counts, at_once=batch_size)
            counter.add(counts)
        done += len(indices)
        yield done
    return counter.read(cache)


def batches_of_one_size(sizes: Sequence[Hashable], batch_size: int) -> list[tuple[int, ...]]:
    """Indices of images by size in batches that need no padding: a padded border would change the logits.

    What is left over at the end goes in halves, quarters ... of a batch: sizes for which the evaluator made sure that
    they do not change the logits either.
    """
    by_size: dict[Hashable, list[int]] = defaultdict(list)
    for index, size in enumerate(sizes):
        by_size[size].append(index)
    batches = []
    for indices in by_size.values():
        start, part = 0, batch_size
        while start < len(indices):
            while part > len(indices) - start:
                part //= 2
            batches.append(tuple(indices[start : start + part]))
            start += part
    return batches


def _batches(
    cache: PixelCache, labels: LabelCache | None, window: Window, batch_size: int
) -> Iterator[tuple[int, ...]]:
    """Images of one size, whose labels are of one size too; one at a time where a window goes over them."""
    sizes = [(cache.size(index), None if labels is None else labels.size(index)) for index in range(len(cache))]
    for indices in batches_of_one_size(sizes, batch_size):
        if window.covers(*cache.size(indices[0])):
            yield indices
        else:
            yield from ((index,) for index in indices)


def _count_batch(
    network: nn.Module,
    cache: PixelCache,
    labels: LabelCache | None,
    window: Window,
    counts: _BatchCounts,
    *,
    at_once: int,
) -> None:
    """Run the images of `counts` through the network and count them, band of rows by band of rows."""
    batch = load_batch(cache, counts.indices)
    size = cache.size(counts.indices[0])

    def load(top: int, bottom: int) -> Tensor:
        rows = replace(batch, images=batch.images[:, :, top:bottom], masks=batch.masks[:, top:bottom])
        return to_device(rows, counts.device)[0]

    bands = counts.looked_at(logits_of(network, load, size, window, at_once=at_once))
    truth = batch.masks
    if labels is not None:
        truth = torch.from_numpy(np.stack([labels.item(index) for index in counts.indices]))
        bands = enlarged(bands, size, labels.size(counts.indices[0]))
    counts.count(bands, moved(truth, counts.device))


class _BatchCounts:
    """What was counted so far over the images of one batch, all of it on the device."""

    def __init__(self, indices: Sequence[int], classes: int, device: torch.device, keep: Collection[int]) -> None:
        self.indices = indices
        self.device = device
        self._classes = classes
        # One row more than there are classes: ignored pixels are counted there, which costs less than leaving them out.
        self._cells = torch.zeros(len(indices) * (classes + 1) * classes, dtype=torch.int64, device=device)
        self.counted = torch.zeros((), dtype=torch.int64, device=device)
        self.finite = torch.ones(len(indices), dtype=torch.bool, device=device)
        self._kept: dict[int, list[Tensor]] = {index: [] for index in indices if index in keep}

    @property
    def cells(self) -> Tensor:
        """int64 (N, C + 1, C): rows = truth, the last one = ignored pixels."""
        return self._cells.view(len(self.indices), self._classes + 1, self._classes)

    @property
    def predictions(self) -> dict[int, Tensor]:
        """uint8 (H, W) of the images to keep."""
        return {index: torch.cat(bands) for index, bands in self._kept.items()}

    def looked_at(self, bands: Iterable[Band]) -> Iterator[Band]:
        """Pass on what the network said, with a note of what is not finite and of the predictions to keep."""
        for top, logits in bands:
            self.finite &= finite_images(logits)
            for position, index in enumerate(self.indices):
                if index in self._kept:
                    self._kept[index].append(logits[position].argmax(dim=0).to(torch.uint8))
            yield top, logits

    def count(self, bands: Iterable[Band], truth: Tensor) -> None:
        """Bands of logits (N, C, rows, W) against uint8 masks (N, H, W)."""
        image = torch.arange(len(self.indices), device=self.device)[:, None, None] * (self._classes + 1)
        for top, logits in bands:
            rows = truth[:, top : top + logits.shape[2]]
            self.counted += (rows != IGNORE_INDEX).sum()
            predicted = logits.max(dim=1).indices  # argmax, in five sixths of its time on the CPU
            if self.device.type == "cpu" and (self._classes + 1) * self._classes <= BYTE:
                self._count_bytes(rows, predicted.to(torch.uint8))
                continue
            cells = rows.to(torch.int64).clamp_(max=self._classes).add_(image).mul_(self._classes).add_(predicted)
            self._cells += count(cells.flatten(), self._cells.numel())

    def _count_bytes(self, truth: Tensor, predicted: Tensor) -> None:
        """Image by image, with a cell's number in a byte: an eighth of the memory to go through, and ten times as fast.

        What goes beyond the classes of the network is counted as ignored here, and found by `_Counter.read`.
        """
        cells = truth.clamp(max=self._classes).mul_(self._classes).add_(predicted)
        bins = (self._classes + 1) * self._classes
        self._cells += torch.cat([torch.bincount(image.flatten(), minlength=bins) for image in cells])


class _Counter:
    """What was counted so far over a split, all of it on the device."""

    def __init__(self, classes: int, device: torch.device) -> None:
        self._classes = classes
        self._cells = torch.zeros((classes + 1, classes), dtype=torch.int64, device=device)
        self._counted = torch.zeros((), dtype=torch.int64, device=device)
        self._order: list[int] = []
        self._finite: list[Tensor] = []
        self._per_image: list[Tensor] = []
        self._predictions: dict[int, Tensor] = {}

    def add(self, batch: _BatchCounts) -> None:
        cells = batch.cells
        truth = cells[:, : self._classes]
        self._cells += cells.sum(dim=0)
        self._counted += batch.counted
        self._order.extend(batch.indices)
        self._finite.append(batch.finite)
        self._per_image.append(torch.stack([truth.diagonal(dim1=1, dim2=2), truth.sum(dim=2), truth.sum(dim=1)]))
        self._predictions.update(batch.predictions)

    def read(self, cache: PixelCache) -> Tally:
        """The one moment that waits for the device."""
        cells = self._cells.cpu().numpy()
        confusion, ignored = cells[:-1], int(cells[-1].sum())
        counted = int(self._counted)
        if int(confusion.sum()) != counted:
            raise ValueError(f"a mask holds a class beyond the {self._classes} of the network")
        place = np.argsort(self._order)
        finite = torch.cat(self._finite).cpu().numpy()[place]
        intersection, support, predicted = torch.cat(self._per_image, dim=1).cpu().numpy()[:, place]
        names = tuple(cache.name(index) for index in range(len(cache)))
        return Tally(
            confusion=confusion,
            per_image=PerImage(names, intersection, support, predicted),
            images=len(self._order),
            counted_pixels=counted,
            ignored_pixels=ignored,
            nonfinite=tuple(np.flatnonzero(~finite).tolist()),
            predictions={index: prediction.cpu().numpy() for index, prediction in self._predictions.items()},
        )


def finite_images(logits: Tensor) -> Tensor:
    """Whether all of an image's logits (N, C, H, W) are finite: bool (N,), on their device.

    NaN goes through a minimum and a maximum, so that two reductions see it without a mask as large as the logits.
    """
    images = [in_memory_order(image[None]) for image in logits]
    if logits.device.type == "cpu":
        return torch.tensor([_sums_up(image) or _has_finite_ends(image).item() for image in images])
    return torch.stack([_has_finite_ends(image) for image in images])


def _sums_up(numbers: Tensor) -> bool:
    """Whether their sum is finite. Then all of them are, for nothing that is added takes NaN or Inf away again; and if
    not, the sum of large ones may have overflowed. Half the time of their minimum and maximum, but the host waits.
    """
    return bool(numbers.sum().isfinite())


def _has_finite_ends(numbers: Tensor) -> Tensor:
    return torch.stack(numbers.aminmax()).isfinite().all()


def count(cells: Tensor, bins: int) -> Tensor:
    """int64 (bins,): how often each of 0 ... bins - 1 stands in the int64 vector `cells`."""
    return torch.bincount(cells, minlength=bins) if cells.device.type == "cpu" else count_without_waiting(cells, bins)


def count_without_waiting(cells: Tensor, bins: int) -> Tensor:
    """The same for a GPU, where `torch.bincount` reads its maximum back to the host and so waits for every batch."""
    lane = torch.arange(cells.numel(), device=cells.device).remainder_(LANES)
    counts = torch.zeros(LANES * bins, dtype=torch.int64, device=cells.device)
    counts.scatter_add_(0, lane.mul_(bins).add_(cells), torch.ones_like(cells))
    return counts.reshape(LANES, bins).sum(dim=0)
