"""Batches as tensors, from the cache to the device. Knows nothing about files, losses or networks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .augment import COLOURLESS, Augmentation, Sample
from .cache import PixelCache
from .resolved import IGNORE_INDEX


@dataclass(frozen=True)
class Batch:
    images: Tensor
    """uint8 (N, 3, H, W), channels_last, RGB."""
    masks: Tensor
    """uint8 (N, H, W), training indices; 255 is ignored."""
    names: tuple[str, ...]
    """Of the images, as `PixelCache.name` gives them."""
    colour: Tensor | None = None
    """float32 (N, 3, 4): an affine map of RGB in [0, 1] for each image, which `to_device` applies."""
    padding: Tensor | None = None
    """bool (N, 1, H, W): black that no change of colour may touch; `None` where there is none, or no such change."""


def epoch_order(count: int, *, seed: int, epoch: int) -> list[int]:
    """The order in which an epoch visits `count` images: a permutation that depends on these three numbers alone.

    So a resumed run finds its place by its step count, without any stored random state.
    """
    order = list(range(count))
    # Python's own generator: the order must not change with the release of torch or numpy.
    random.Random(f"epoch order {seed}/{epoch}").shuffle(order)  # noqa: S311 - no secret depends on it
    return order


def load_batch(
    cache: PixelCache, indices: Sequence[int], augmentation: Augmentation | None = None, *, epoch: int = 0
) -> Batch:
    """Copy the items out of the map, changed as `augmentation` changes them in `epoch`.

    Smaller ones are padded at the right and below: image 0, mask 255. Raises ValueError when there are no indices.
    """
    if not indices:
        raise ValueError("a batch holds at least one image")
    items = [cache.item(index) for index in indices]
    if augmentation is None:
        samples = [Sample.whole(item) for item in items]
    else:
        samples = augmentation.samples(items, indices, epoch=epoch)
    height = max(sample.height for sample in samples)
    width = max(sample.width for sample in samples)
    images = np.empty((len(samples), height, width, 3), dtype=np.uint8)
    masks = np.empty((len(samples), height, width), dtype=np.uint8)
    for row, sample in enumerate(samples):
        _copy(sample, images[row], masks[row])
    colour = _colours(samples)
    return Batch(
        images=torch.from_numpy(images).permute(0, 3, 1, 2),  # (N, H, W, 3) in memory is what channels_last means
        masks=torch.from_numpy(masks),
        names=tuple(cache.name(index) for index in indices),
        colour=colour,
        padding=None if colour is None else _padding(samples, height, width),
    )


def to_device(batch: Batch, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """float32 images (N, 3, H, W) in [0, 1], channels_last, and int64 masks (N, H, W), both on `device`.

    Bytes cross the bus, not floats, and from pinned memory, so that the host does not wait for a GPU.
    """
    device = torch.device(device)
    images, masks = _moved(batch.images, device), _moved(batch.masks, device)
    scaled = images.to(torch.float32, memory_format=torch.channels_last).div_(255)
    if batch.colour is not None:
        scaled = _recolour(scaled, _moved(batch.colour, device))
        if batch.padding is not None:
            scaled.masked_fill_(_moved(batch.padding, device), 0)
    return scaled, masks.to(torch.int64)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _recolour(images: Tensor, colour: Tensor) -> Tensor:
    """The affine maps `colour` (N, 3, 4) of float32 images (N, 3, H, W), kept in [0, 1]; channels_last stays."""
    count, channels, height, width = images.shape
    pixels = images.permute(0, 2, 3, 1).reshape(count, height * width, channels)
    mapped = torch.baddbmm(colour[:, None, :, 3], pixels, colour[:, :, :3].mT).clamp_(0, 1)
    return mapped.view(count, height, width, channels).permute(0, 3, 1, 2)


def _colours(samples: Sequence[Sample]) -> Tensor | None:
    if all(sample.colour is None for sample in samples):
        return None
    return torch.from_numpy(np.stack([COLOURLESS if sample.colour is None else sample.colour for sample in samples]))


def _padding(samples: Sequence[Sample], height: int, width: int) -> Tensor | None:
    if all(sample.mask.shape == (height, width) for sample in samples):
        return None
    padding = np.ones((len(samples), 1, height, width), dtype=np.bool_)
    for row, sample in enumerate(samples):
        padding[(row, 0, *_place(sample))] = False
    return torch.from_numpy(padding)


def _place(sample: Sample) -> tuple[slice, slice]:
    height, width = sample.mask.shape
    return slice(sample.top, sample.top + height), slice(sample.left, sample.left + width)


def _copy(sample: Sample, image: np.ndarray, mask: np.ndarray) -> None:
    if sample.mask.shape != mask.shape:
        image[:] = 0
        mask[:] = IGNORE_INDEX
    rows, columns = _place(sample)
    # Channel by channel: seven times faster in numpy than one copy with an inner axis of three bytes.
    for channel in range(3):
        image[rows, columns, channel] = sample.image[..., channel]
    mask[rows, columns] = sample.mask
