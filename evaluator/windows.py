"""Logits of images of any size, in bands of rows, so that those of a large image never stand in memory at once.

An image goes through the network whole, or in a sliding window; `enlarged` brings the bands to the size of the labels.
Knows nothing about classes, masks or scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Band = tuple[int, Tensor]
"""The first row of a band, and its logits (N, C, rows, W)."""
Load = Callable[[int, int], Tensor]
"""Rows from ... to of the images, as the network takes them: float32 (N, 3, rows, W), channels_last."""

BAND_BYTES = {"cpu": 8 << 20, "cuda": 64 << 20}
"""Enlarged logits at once: what fits a CPU's cache, and what keeps a GPU busy."""


@dataclass(frozen=True)
class Window:
    """Images that are larger than `side` go through the network in squares of it; all of them whole where it is 0."""

    side: int = 0
    overlap: float = 0.0
    """Share of a square that the next one covers as well, at least."""

    def covers(self, height: int, width: int) -> bool:
        """Whether an image of this size goes through whole."""
        return not self.side or (height <= self.side and width <= self.side)

    def along(self, length: int) -> Places:
        """Where the windows lie along one side of an image."""
        side = min(self.side, length)
        step = max(1, side - round(side * self.overlap))
        count = 1 + -(-(length - side) // step)
        # Spread evenly: the last one ends with the image, and none is smaller than the others.
        starts = tuple(index * (length - side) // max(1, count - 1) for index in range(count))
        return Places(length, side, starts)


WHOLE = Window()


@dataclass(frozen=True)
class Places:
    """Windows of one length along one side of an image."""

    length: int
    side: int
    starts: tuple[int, ...]

    def weights(self) -> list[np.ndarray]:
        """float32 (side,) for each window: at every pixel, those of all windows over it sum up to 1.

        They rise linearly over the overlap, so that one window fades into the next without a seam: at its border a
        network sees padding where its neighbour sees the image.
        """
        steps = np.diff(self.starts)
        overlap = self.side - int(steps.max()) if len(steps) else 0
        inwards = np.minimum(np.arange(self.side), np.arange(self.side)[::-1]) + 0.5
        taper = np.minimum(inwards, overlap) if overlap else np.ones(self.side)
        total = np.zeros(self.length)
        for start in self.starts:
            total[start : start + self.side] += taper
        return [(taper / total[start : start + self.side]).astype(np.float32) for start in self.starts]


def logits_of(network: nn.Module, load: Load, size: tuple[int, int], window: Window, *, at_once: int) -> Iterator[Band]:
    """The logits of images of one size (height, width), float32, from the top to the bottom; each row comes once.

    In a window: of one image, with `at_once` windows in each forward pass, all of one shape. Overlapping logits are
    averaged with `Places.weights`.
    """
    height, width = size
    if window.covers(height, width):
        yield 0, network(load(0, height)).float()
        return
    rows, columns = window.along(height), window.along(width)
    weights = rows.weights()
    pending: Tensor | None = None  # what earlier windows said about rows that are not finished
    for number, top in enumerate(rows.starts):
        images = load(top, top + rows.side)
        band = _row_of_windows(network, images, columns, weights[number], at_once)
        if pending is not None:
            band[:, :, : pending.shape[2]] += pending
        finished = rows.starts[number + 1] - top if number + 1 < len(rows.starts) else rows.side
        yield top, band[:, :, :finished]
        pending = band[:, :, finished:]


def _row_of_windows(network: nn.Module, images: Tensor, columns: Places, vertical: np.ndarray, at_once: int) -> Tensor:
    """Weighted logits (1, C, side, W) of the windows side by side over `images` (1, 3, side, W)."""
    horizontal = columns.weights()
    band: Tensor | None = None
    down = torch.from_numpy(vertical)[:, None]
    for first in range(0, len(columns.starts), at_once):
        starts = columns.starts[first : first + at_once]
        crops = torch.cat([images[..., start : start + columns.side] for start in starts])
        logits = network(crops.contiguous(memory_format=torch.channels_last)).float()
        if band is None:
            shape = (1, logits.shape[1], logits.shape[2], columns.length)
            band = torch.zeros(shape, device=logits.device).contiguous(memory_format=torch.channels_last)
        for place, start in enumerate(starts):
            weights = moved(down * torch.from_numpy(horizontal[first + place]), logits.device)
            band[0, :, :, start : start + columns.side].addcmul_(logits[place], weights)
    assert band is not None
    return band


def enlarged(bands: Iterable[Band], size: tuple[int, int], target: tuple[int, int]) -> Iterator[Band]:
    """Bands of logits of `size` (height, width), brought to `target` bilinearly, row for row what

        F.interpolate(logits, target, mode="bilinear", align_corners=False)

    gives, in bands of at most BAND_BYTES or one row.
    """
    if size == target:
        yield from bands
        return
    above, below, share = _rows(size[0], target[0])
    done = 0
    last: Tensor | None = None  # a row between two bands needs the last of the one and the first of the other
    for top, band in bands:
        logits = band if last is None else torch.cat([last, band], dim=2)
        first, end = top + band.shape[2] - logits.shape[2], top + band.shape[2]
        ready = int(np.searchsorted(below, end, side="left"))
        step = _rows_at_once(band, target[1])
        for start in range(done, ready, step):
            rows = slice(start, min(start + step, ready))
            yield start, _enlarged_rows(logits, above[rows] - first, below[rows] - first, share[rows], target[1])
        done = ready
        last = band[:, :, -1:]
    assert done == target[0], "the bands end before the image does"


def _enlarged_rows(logits: Tensor, above: np.ndarray, below: np.ndarray, share: np.ndarray, width: int) -> Tensor:
    """Rows between `above` and `below` of logits (N, C, H, W), then to `width`: (N, C, len(share), width)."""
    # Classes last: that is how the network leaves them, and five times as fast to find the largest of.
    pixels = logits.permute(0, 2, 3, 1)
    upper, lower, down = (moved(torch.from_numpy(array), logits.device) for array in (above, below, share))
    down = down[:, None, None]
    # Two products, not a + share * (b - a), whose difference may overflow where both are finite.
    rows = pixels.index_select(1, upper).mul_(1 - down).addcmul_(pixels.index_select(1, lower), down)
    stretched: Tensor = F.interpolate(
        rows.permute(0, 3, 1, 2), size=(len(share), width), mode="bilinear", align_corners=False
    )
    return stretched


def _rows(height: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `target` rows: the rows of `height` above and below it (int64), and the share of the latter.

    In float32, as torch computes it, so that a pixel on the edge falls as it would there.
    """
    source = np.arange(target, dtype=np.float32) + np.float32(0.5)
    source = np.maximum(np.float32(height / target) * source - np.float32(0.5), np.float32(0))
    above = np.minimum(source.astype(np.int64), height - 1)
    below = np.minimum(above + 1, height - 1)
    return above, below, (source - above).astype(np.float32)


def _rows_at_once(logits: Tensor, width: int) -> int:
    count, classes = logits.shape[:2]
    return max(1, BAND_BYTES.get(logits.device.type, BAND_BYTES["cpu"]) // (count * classes * width * 4))


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Without making the host wait for a GPU."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
