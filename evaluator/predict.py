"""Predicts images that need no mask: `python -m segwatch.evaluator.predict TASK`, one answer for each image.

An image is read, reduced and taken through the network as for a score, so that both give the same pixels. Knows nothing
about which checkpoint that should be, or about directories of images.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..data.rasters import opened, read_image, scaled_size
from ..data.resolved import ResolvedClass
from ..errors import ConfigError, SegwatchError
from . import overlays
from .blend import blend, factor
from .errand import run, set_threads
from .evaluate import describe, ran_out_of_memory, resolve_device
from .loading import load, network_of
from .overlays import palette_of
from .report import Ready, Working
from .scoring import finite_images
from .task import Predicted, PredictTask, Spoiled, Target, TaskAnswer
from .windows import Window, enlarged, logits_of, moved

WHOLE_PIXELS = 1 << 22
"""Of an image after scaling that goes through whole where nobody said how: 2048 x 2048 take 7 GB in a UNet of 64 base
channels."""
WINDOWS = (1024, 512, 256)
"""Sides for an image that is larger than that, or than memory: each is tried where the one before it did not fit."""
LEAST_SIDE = 16
"""Four times halved, one pixel is left."""
MIRRORED = ((3,), (2,), (2, 3))
"""Axes of (N, C, H, W): left-right, top-bottom, both."""


class DiskRefusesError(SegwatchError):
    """A picture cannot be written, and the next one could not either (EX_IOERR)."""

    exit_code = 74


def predict(task: PredictTask) -> Iterator[TaskAnswer]:
    """Ready, then Predicted or Spoiled for each image, with Working in between.

    Raises SegwatchError where nothing can be predicted, or where the disk takes no file.
    """
    started = time.monotonic()
    set_threads(task.source.threads)
    predictor = Predictor(task)
    yield Ready(device=describe(predictor.device), seconds=round(time.monotonic() - started, 3))
    for target in task.targets:
        try:
            found = yield from predictor.predict(target.image)
            _write(target, found, predictor.classes)
        except ConfigError as error:
            yield Spoiled(image=str(target.image), reason=_without(error, target.image))
            continue
        yield Predicted(
            image=str(target.image),
            height=found.labels.shape[0],
            width=found.labels.shape[1],
            pixels=tuple(np.bincount(found.labels.ravel(), minlength=len(predictor.classes)).tolist()),
            window=found.window,
            seconds=round(found.seconds, 3),
        )


@dataclass(frozen=True)
class Found:
    """What is predicted of one image."""

    labels: np.ndarray
    """uint8 (H, W), training indices."""
    window: int
    seconds: float


class Mirrored(nn.Module):
    """The mean of the logits of images and of their mirror images, each turned back: (N, 3, H, W) -> (N, C, H, W)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = network

    def forward(self, images: Tensor) -> Tensor:
        total: Tensor = self._network(images).float()
        for axes in MIRRORED:
            mirror = images.flip(axes).contiguous(memory_format=torch.channels_last)
            total += self._network(mirror).float().flip(axes)
        return total.div_(1 + len(MIRRORED))


class Predictor:
    """A network that is loaded once and sees one image after another."""

    def __init__(self, task: PredictTask) -> None:
        """Raises SegwatchError for a device or a checkpoint that cannot be used."""
        self.device = resolve_device(task.source.device)
        data, checkpoint = load(task.source)
        self.classes: tuple[ResolvedClass, ...] = data.classes
        self._scale = data.scale
        network = network_of(checkpoint, self.device)
        self._network = Mirrored(network) if task.flips else network
        self._task = task

    def predict(self, image: Path) -> Generator[Working, None, Found]:
        """Tells the rows that are done. Raises ConfigError for an image that cannot be predicted."""
        started = time.perf_counter()
        with opened(image) as header:
            size = header.height, header.width
        scaled = scaled_size(*size, self._scale)
        if min(scaled) < LEAST_SIDE:
            raise ConfigError(
                f"{size[1]}x{size[0]} pixels, reduced by {self._scale:g} to {scaled[1]}x{scaled[0]}: too small",
                where=image,
                remedy=f"the network needs {LEAST_SIDE} pixels along each side after scaling",
            )
        pixels = read_image(image, self._scale)
        target = scaled if self._task.scaled else size
        for window in windows_for(scaled, self._task.window, self._task.overlap):
            try:
                labels = yield from self._labels(image, pixels, window, target)
            except (MemoryError, RuntimeError) as error:
                if not ran_out_of_memory(error):
                    raise
            else:
                side = 0 if window.covers(*scaled) else window.side
                return Found(labels, side, time.perf_counter() - started)
            # Behind the except clause, whose traceback still held the tensors.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        raise ConfigError(
            f"does not fit into the memory of {describe(self.device)}", where=image, remedy="try --device cpu"
        )

    def _labels(
        self, image: Path, pixels: np.ndarray, window: Window, target: tuple[int, int]
    ) -> Generator[Working, None, np.ndarray]:
        """uint8 `target` (height, width) of uint8 pixels (h, w, 3), band of rows by band of rows."""
        size = pixels.shape[0], pixels.shape[1]
        labels = np.empty(target, dtype=np.uint8)
        bands = enlarged(
            logits_of(
                self._network,
                lambda top, bottom: self._on_device(pixels[top:bottom]),
                size,
                window,
                at_once=self._task.batch_size,
            ),
            size,
            target,
        )
        while True:
            with torch.inference_mode():  # not around the yield: the mode belongs to the thread
                band = next(bands, None)
                if band is None:
                    return labels
                top, logits = band
                if not finite_images(logits).all():
                    raise ConfigError("what the network says of it is not finite", where=image)
                bottom = top + logits.shape[2]
                labels[top:bottom] = logits[0].argmax(dim=0).to(torch.uint8).cpu().numpy()
            yield Working(what=str(image), done=bottom, total=target[0])

    def _on_device(self, rows: np.ndarray) -> Tensor:
        """uint8 (h, w, 3) -> float32 (1, 3, h, w) in [0, 1], channels_last: what `data.batches` gives a network."""
        images = moved(torch.from_numpy(rows.copy())[None].permute(0, 3, 1, 2), self.device)
        return images.to(torch.float32, memory_format=torch.channels_last).div_(255)


def windows_for(size: tuple[int, int], wanted: int | None, overlap: float) -> list[Window]:
    """How an image of `size` (height, width) after scaling is taken, and how instead where memory does not suffice."""
    large = size[0] * size[1] > WHOLE_PIXELS
    first = (WINDOWS[0] if large else 0) if wanted is None else wanted
    longest = min(first or max(size), max(size))
    smaller = [side for side in WINDOWS if side < longest]
    return [Window(side, overlap if side else 0.0) for side in (first, *smaller)]


def _write(target: Target, found: Found, classes: tuple[ResolvedClass, ...]) -> None:
    """The three pictures. Raises DiskRefusesError, and ConfigError where the image is gone meanwhile."""
    ids = np.array([entry.id for entry in classes], dtype=np.uint16)
    narrow = ids.astype(np.uint8) if ids.max() < 256 else ids
    with opened(target.image) as header:
        reduced = factor(header.height, header.width)
    pictures = {
        target.ids: Image.fromarray(narrow[found.labels]),
        target.colour: Image.fromarray(palette_of(classes)[found.labels]),
        target.overlay: blend(read_image(target.image, reduced), found.labels, classes),
    }
    try:
        for path, picture in pictures.items():
            overlays.write(path, picture)
    except OSError as error:
        raise DiskRefusesError(
            f"cannot be written: {error.strerror or error}",
            where=target.stem.parent,
            remedy="make room, then predict the rest",
        ) from error


def _without(error: ConfigError, image: Path) -> str:
    """What is wrong, without the name that stands beside it anyway."""
    return str(error).removeprefix(f"{os.fspath(image)}: ")


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:], PredictTask, predict))
