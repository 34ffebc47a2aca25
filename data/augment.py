"""Random changes of training images, image and mask alike. Knows nothing about tensors, batches or when it is used.

Everything is drawn from (seed, epoch, image) and from nothing else: a resumed run repeats it, and so can a person who
looks into an incident.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .cache import available_cores
from .config import AugmentConfig

GREY = np.array([0.299, 0.587, 0.114])
"""ITU-R BT.601: what red, green and blue give to the brightness that an eye sees."""
TO_YIQ = np.array([GREY, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
"""NTSC: brightness, and two axes across which hue is an angle."""
COLOURLESS = np.eye(3, 4, dtype=np.float32)


@dataclass(frozen=True)
class Sample:
    """An image with its mask, and the canvas on which it lies; what it does not cover is padding."""

    image: np.ndarray
    """uint8 (h, w, 3 or more): R, G, B first. May be a view of the cache in any order of memory."""
    mask: np.ndarray
    """uint8 (h, w): training indices, 255 where the pixel is ignored."""
    height: int
    """Of the canvas."""
    width: int
    top: int = 0
    left: int = 0
    colour: np.ndarray | None = None
    """float32 (3, 4): RGB in [0, 1] becomes colour[:, :3] @ RGB + colour[:, 3]; `None` leaves it as it is."""

    @classmethod
    def whole(cls, item: np.ndarray) -> Sample:
        """An item of the cache, uint8 (H, W, 4), as it is."""
        return cls(item, item[..., 3], *item.shape[:2])

    @property
    def padded(self) -> bool:
        return self.mask.shape != (self.height, self.width)


@dataclass(frozen=True)
class Draw:
    """What happens to one image in one epoch."""

    mirrored: bool
    upside_down: bool
    quarter_turns: int
    zoom: float
    row: float
    """Where a cut-out or an image on its canvas lies between the top, 0, and the bottom, 1."""
    column: float
    brightness: float
    contrast: float
    saturation: float
    hue: float
    """In turns of the colour circle."""


class Augmentation:
    """Changes the images of the training split as `[augment]` says."""

    def __init__(self, config: AugmentConfig, *, seed: int) -> None:
        self._config = config
        self._seed = seed
        self._threads: ThreadPoolExecutor | None = None

    @classmethod
    def of(cls, config: AugmentConfig, *, seed: int) -> Augmentation | None:
        """`None` where everything is off: then nothing is drawn and nothing is paid."""
        return None if config == AugmentConfig() else cls(config, seed=seed)

    def draw(self, epoch: int, index: int) -> Draw:
        """For image `index` of the training split in epoch `epoch`, from 1.

        Every figure is drawn whether it is used or not, so that switching one change on leaves the others alone.
        """
        config = self._config
        # Only `random()` of Python's own generator, and a text as its seed, promise the same numbers in every release.
        uniform = random.Random(f"augment {self._seed}/{epoch}/{index}").random  # noqa: S311 - no secret depends on it
        mirrored, upside_down, turns = uniform() < 0.5, uniform() < 0.5, int(uniform() * 4)
        low, high = config.scale
        return Draw(
            mirrored=config.flip and mirrored,
            upside_down=config.flip and upside_down,
            quarter_turns=turns if config.turn else 0,
            zoom=low * (high / low) ** uniform(),
            row=uniform(),
            column=uniform(),
            brightness=1 + config.brightness * (2 * uniform() - 1),
            contrast=1 + config.contrast * (2 * uniform() - 1),
            saturation=1 + config.saturation * (2 * uniform() - 1),
            hue=config.hue * (2 * uniform() - 1),
        )

    def samples(self, items: Sequence[np.ndarray], indices: Sequence[int], *, epoch: int) -> list[Sample]:
        """The items of the cache, uint8 (H, W, 4), of the images `indices`, as epoch `epoch` sees them."""
        draws = [self.draw(epoch, index) for index in indices]
        if self._config.scale == (1.0, 1.0) or len(items) == 1:
            return [self.apply(item, draw) for item, draw in zip(items, draws, strict=True)]
        if self._threads is None:  # Pillow lets go of the interpreter while it scales
            self._threads = ThreadPoolExecutor(available_cores(), thread_name_prefix="augment")
        return list(self._threads.map(self.apply, items, draws))

    def apply(self, item: np.ndarray, draw: Draw) -> Sample:
        """One item, uint8 (H, W, 4), zoomed, cut out, turned and flipped; its colours are left to `Sample.colour`."""
        height, width = self._canvas(*item.shape[:2])
        image, mask = _cut(item, draw, height, width)
        colour = self._colour(image, draw)
        image, mask = _turn(image, draw), _turn(mask, draw)
        if draw.quarter_turns % 2:
            height, width = width, height
        top = int(draw.row * (height - mask.shape[0] + 1))
        left = int(draw.column * (width - mask.shape[1] + 1))
        return Sample(image, mask, height, width, top, left, colour)

    def sizes(self, height: int, width: int) -> set[tuple[int, int]]:
        """Every (height, width) that an image of this size can come out with."""
        height, width = self._canvas(height, width)
        return {(height, width), (width, height)} if self._config.turn else {(height, width)}

    def _canvas(self, height: int, width: int) -> tuple[int, int]:
        crop = self._config.crop
        return (crop, crop) if crop else (height, width)

    def _colour(self, image: np.ndarray, draw: Draw) -> np.ndarray | None:
        """float32 (3, 4): brightness, contrast around the mean grey, saturation and hue as one affine map."""
        config = self._config
        if not (config.brightness or config.contrast or config.saturation or config.hue):
            return None
        linear = _hue(draw.hue) @ _saturation(draw.saturation) * (draw.contrast * draw.brightness)
        colour = COLOURLESS.copy()
        colour[:, :3] = linear
        if config.contrast:  # hue and saturation leave grey as it is, so that the mean grey passes through them
            colour[:, 3] = (1 - draw.contrast) * draw.brightness * _mean_grey(image)
        return colour


def describe(config: AugmentConfig) -> str:
    """In one line, for a log."""
    parts = [name for name, on in (("flips", config.flip), ("quarter turns", config.turn)) if on]
    if config.scale != (1.0, 1.0):
        parts.append(f"scale {config.scale[0]:g} to {config.scale[1]:g}")
    if config.crop:
        parts.append(f"crop {config.crop} x {config.crop}")
    jitter = {name: getattr(config, name) for name in ("brightness", "contrast", "saturation", "hue")}
    parts += [f"{name} +-{amount:g}" for name, amount in jitter.items() if amount]
    return ", ".join(parts) or "none"


def _cut(item: np.ndarray, draw: Draw, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask of what is seen through a window of at most (height, width) on the zoomed item.

    Bilinear for the image, over the area of a pixel where it shrinks; nearest neighbour at the same pixel centres for
    the mask, so that no index appears that was not there.
    """
    full_height, full_width = item.shape[:2]
    scaled_height, scaled_width = (max(1, round(length * draw.zoom)) for length in (full_height, full_width))
    height, width = min(height, scaled_height), min(width, scaled_width)
    top = int(draw.row * (scaled_height - height + 1))
    left = int(draw.column * (scaled_width - width + 1))
    if (scaled_height, scaled_width) == (full_height, full_width):
        seen = item[top : top + height, left : left + width]
        return seen, seen[..., 3]
    box = (
        left * full_width / scaled_width,
        top * full_height / scaled_height,
        (left + width) * full_width / scaled_width,
        (top + height) * full_height / scaled_height,
    )
    pixels = np.ascontiguousarray(item)
    # RGBX: four bytes a pixel, as in the cache, so that nothing is copied; as RGBA the mask would weigh the colours.
    source = Image.frombuffer("RGBX", (full_width, full_height), pixels, "raw", "RGBX", 0, 1)
    image = np.asarray(source.resize((width, height), Image.Resampling.BILINEAR, box=box))
    rows = _centres(top, height, scaled_height, full_height)
    columns = _centres(left, width, scaled_width, full_width)
    return image, item[rows[:, None], columns, 3]


def _centres(first: int, count: int, scaled: int, length: int) -> np.ndarray:
    """Which of `length` source pixels hold the centres of the zoomed pixels first .. first + count - 1."""
    return (2 * np.arange(first, first + count) + 1) * length // (2 * scaled)


def _turn(pixels: np.ndarray, draw: Draw) -> np.ndarray:
    """Flips, then quarter turns counter-clockwise; a view."""
    if draw.upside_down:
        pixels = pixels[::-1]
    if draw.mirrored:
        pixels = pixels[:, ::-1]
    return np.rot90(pixels, draw.quarter_turns)


def _mean_grey(image: np.ndarray) -> float:
    """In [0, 1]. Channel by channel: numpy is twenty times slower along an inner axis of three bytes."""
    means = [image[..., channel].sum(dtype=np.uint64) / (image[..., channel].size * 255) for channel in range(3)]
    return float(GREY @ means)


def _saturation(factor: float) -> np.ndarray:
    """(3, 3): each pixel's distance from its own grey times `factor`."""
    return factor * np.eye(3) + (1 - factor) * np.tile(GREY, (3, 1))


def _hue(turns: float) -> np.ndarray:
    """(3, 3): a turn around the grey axis, in YIQ; brightness stays."""
    cosine, sine = math.cos(2 * math.pi * turns), math.sin(2 * math.pi * turns)
    turn = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    found: np.ndarray = np.linalg.inv(TO_YIQ) @ turn @ TO_YIQ
    return found
