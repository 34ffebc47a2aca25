"""Draws one prediction for a person: the image with its classes over it, and a legend of those that occur. Pillow only.

Knows nothing about networks or truth; `overlays` draws a prediction beside its truth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ..data.resolved import ResolvedClass
from .overlays import FAINT, INK, PAPER, font, palette_of, shortened

LONGEST = 2048
"""Pixels along the longer side of a picture: a larger one is no easier to look at."""
SHORTEST = 480
"""A smaller image is enlarged, in whole pixels."""
OPACITY = 0.5
MARGIN = 12
LINE = 28
COLUMN = 270
LEAST_PERCENT = 0.1
"""What is less did occur all the same."""


def blend(pixels: np.ndarray, prediction: np.ndarray, classes: Sequence[ResolvedClass]) -> Image.Image:
    """uint8 (h, w, 3) of the image, at any size of its proportions, and uint8 (H, W) training indices -> RGB.

    The legend below names the classes by their share of the pixels of `prediction`, largest first.
    """
    enlarged = max(1, -(-SHORTEST // max(pixels.shape[:2])))
    size = (pixels.shape[1] * enlarged, pixels.shape[0] * enlarged)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)
    classes_over = Image.fromarray(palette_of(classes)[_resized(prediction, size)])
    picture = Image.blend(image, classes_over, OPACITY)
    legend = _legend(np.bincount(prediction.ravel(), minlength=len(classes)), classes, max(picture.width, SHORTEST))
    sheet = Image.new("RGB", (legend.width, picture.height + legend.height), PAPER)
    sheet.paste(picture, (0, 0))
    sheet.paste(legend, (0, picture.height))
    return sheet


def factor(height: int, width: int) -> float:
    """By which an image of this size is reduced for its picture."""
    return min(1.0, LONGEST / max(height, width))


def _resized(prediction: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """No class is made up between two others: the nearest pixel is taken."""
    return np.asarray(Image.fromarray(prediction).resize(size, Image.Resampling.NEAREST))


def _legend(pixels: np.ndarray, classes: Sequence[ResolvedClass], width: int) -> Image.Image:
    present = [index for index in np.argsort(-pixels, kind="stable") if pixels[index]]
    columns = max(1, (width - 2 * MARGIN) // COLUMN)
    step = (width - 2 * MARGIN) // columns
    legend = Image.new("RGB", (width, 2 * MARGIN + LINE * -(-len(present) // columns)), PAPER)
    pen = ImageDraw.Draw(legend)
    for place, index in enumerate(present):
        left, top = MARGIN + place % columns * step, MARGIN + place // columns * LINE
        percent = 100 * pixels[index] / pixels.sum()
        share = f"{percent:.1f} %" if percent >= LEAST_PERCENT else f"< {LEAST_PERCENT} %"
        name = shortened(f"{classes[index].id} {classes[index].name}", font(15), step - 100)
        pen.rectangle((left, top, left + 18, top + 18), classes[index].colour, INK)
        pen.text((left + 26, top), name, INK, font(15))
        pen.text((left + 34 + font(15).getlength(name), top), share, FAINT, font(15))
    return legend
