"""Draws what a network saw on a few images: image, truth, prediction and errors side by side. Pillow only.

Knows nothing about networks: it is handed pixels and predictions, and always of the same images, so that the pictures
of two epochs can be compared.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath
from typing import IO

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data.resolved import IGNORE_INDEX, ResolvedClass
from ..durable import write_atomic
from .metrics import Scores

IMAGES = 4
WIDTH = 1280
MARGIN = 24
GAP = 8
CELL_WIDTH = (WIDTH - 2 * MARGIN - 3 * GAP) // 4
CELL_HEIGHT = 290
HEADINGS = ("image", "truth", "prediction", "errors")

PAPER = (250, 250, 248)
INK = (32, 33, 36)
FAINT = (110, 113, 118)
WRONG = (255, 45, 85)
IGNORED = ((205, 205, 205), (150, 150, 150))
"""Two greys in stripes: a plain colour might be that of a class."""
STRIPE = 3
"""Width of a stripe, in pixels of the mask."""


@dataclass(frozen=True)
class Shown:
    """One image of the picture."""

    name: str
    pixels: np.ndarray
    """uint8 (H, W, 4): R, G, B and the true training index, 255 = ignored."""
    prediction: np.ndarray
    """uint8 (H, W), training indices."""


def chosen(count: int) -> tuple[int, ...]:
    """The images of a split of `count` that are drawn: at most IMAGES, spread evenly, the same ones every epoch."""
    if count <= IMAGES:
        return tuple(range(count))
    return tuple((2 * place + 1) * count // (2 * IMAGES) for place in range(IMAGES))


def draw(shown: Sequence[Shown], classes: Sequence[ResolvedClass], scores: Scores, *, title: str) -> Image.Image:
    """An RGB picture WIDTH pixels wide: title, a row per image, and the classes with their IoU."""
    palette = palette_of(classes)
    rows = [_row(entry, palette) for entry in shown]
    legend = _legend(classes, scores)
    head = _head(title, scores)
    height = head.height + sum(row.height for row in rows) + legend.height
    sheet = Image.new("RGB", (WIDTH, height), PAPER)
    top = 0
    for part in (head, *rows, legend):
        sheet.paste(part, (0, top))
        top += part.height
    return sheet


def write(path: Path, picture: Image.Image) -> None:
    """As a PNG that appears whole; its directory is made. Raises OSError when the disk refuses."""
    encoded = io.BytesIO()
    picture.save(encoded, "PNG", compress_level=1)  # half the time of the default, and a tenth more bytes
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, lambda file: _write_all(file, encoded.getvalue()))


def palette_of(classes: Sequence[ResolvedClass]) -> np.ndarray:
    """uint8 (256, 3): training index -> colour; grey for what is no class."""
    palette = np.full((256, 3), IGNORED[0], dtype=np.uint8)
    for index, entry in enumerate(classes):
        palette[index] = entry.colour
    return palette


def truth_of(shown: Shown, palette: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3): the classes in their colours, ignored pixels striped."""
    truth = shown.pixels[..., 3]
    return _striped(palette[truth], truth == IGNORE_INDEX)


def errors_of(shown: Shown) -> np.ndarray:
    """uint8 (H, W, 3): the image darkened to grey, wrong pixels in WRONG, ignored ones striped."""
    truth = shown.pixels[..., 3]
    brightness = shown.pixels[..., :3].mean(axis=2) * 0.45 + 12
    picture = np.repeat(brightness.astype(np.uint8)[..., None], 3, axis=2)
    picture[shown.prediction != truth] = WRONG
    return _striped(picture, truth == IGNORE_INDEX)


def wrong_share(shown: Shown) -> float | None:
    """Wrong pixels as a share of the counted ones; `None` where every pixel is ignored."""
    counted = shown.pixels[..., 3] != IGNORE_INDEX
    wrong = (shown.prediction != shown.pixels[..., 3]) & counted
    return int(wrong.sum()) / int(counted.sum()) if counted.any() else None


def _head(title: str, scores: Scores) -> Image.Image:
    head = Image.new("RGB", (WIDTH, 92), PAPER)
    pen = ImageDraw.Draw(head)
    pen.text((MARGIN, 16), title, INK, font(26))
    figures = f"mIoU {_percent(scores.miou)}   pixel accuracy {_percent(scores.pixel_accuracy)}"
    pen.text((WIDTH - MARGIN, 16), figures, INK, font(26), anchor="ra")
    for column, heading in enumerate(HEADINGS):
        pen.text((_left(column), 64), heading, FAINT, font(18))
    return head


def _row(shown: Shown, palette: np.ndarray) -> Image.Image:
    cells = (
        (shown.pixels[..., :3], Image.Resampling.BICUBIC),
        (truth_of(shown, palette), Image.Resampling.NEAREST),
        (palette[shown.prediction], Image.Resampling.NEAREST),
        (errors_of(shown), Image.Resampling.NEAREST),
    )
    width, height = _fitted(shown.pixels.shape[1], shown.pixels.shape[0])
    row = Image.new("RGB", (WIDTH, height + 32), PAPER)
    for column, (pixels, resampling) in enumerate(cells):
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        row.paste(picture.resize((width, height), resampling), (_left(column), 0))
    pen = ImageDraw.Draw(row)
    pen.text((MARGIN, height + 4), shortened(PurePath(shown.name).name, font(15), CELL_WIDTH), FAINT, font(15))
    pen.text((_left(3), height + 4), f"{_percent(wrong_share(shown))} of the pixels wrong", FAINT, font(15))
    return row


def _legend(classes: Sequence[ResolvedClass], scores: Scores) -> Image.Image:
    entries = [
        (entry.colour, entry.name, f"IoU {_percent(score.iou)}")
        for entry, score in zip(classes, scores.per_class, strict=True)
    ]
    entries += [(WRONG, "wrong", ""), (IGNORED[0], "ignored", "")]
    columns = 4
    column_width = (WIDTH - 2 * MARGIN) // columns
    legend = Image.new("RGB", (WIDTH, 30 * -(-len(entries) // columns) + 44), PAPER)
    pen = ImageDraw.Draw(legend)
    pen.line((MARGIN, 10, WIDTH - MARGIN, 10), (222, 222, 218), 1)
    for place, (colour, name, iou) in enumerate(entries):
        left, top = MARGIN + place % columns * column_width, 24 + place // columns * 30
        pen.rectangle((left, top, left + 20, top + 20), colour, INK)
        if colour is IGNORED[0]:
            pen.line((left + 3, top + 17, left + 17, top + 3), IGNORED[1], 6)
        text = shortened(name, font(17), column_width - 130)
        pen.text((left + 30, top), text, INK, font(17))
        pen.text((left + 38 + font(17).getlength(text), top), iou, FAINT, font(17))
    return legend


def _striped(picture: np.ndarray, where: np.ndarray) -> np.ndarray:
    rows, columns = where.nonzero()
    picture[rows, columns] = np.array(IGNORED, dtype=np.uint8)[(rows + columns) // STRIPE % 2]
    return picture


def _left(column: int) -> int:
    return MARGIN + column * (CELL_WIDTH + GAP)


def _fitted(width: int, height: int) -> tuple[int, int]:
    """The largest size of these proportions in a cell."""
    factor = min(CELL_WIDTH / width, CELL_HEIGHT / height)
    return max(1, round(width * factor)), max(1, round(height * factor))


def shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: int) -> str:
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "...") > room:
        text = text[:-1]
    return text + "..."


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f} %"


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _write_all(file: IO[bytes], payload: bytes) -> None:
    file.write(payload)
