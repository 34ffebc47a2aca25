"""Draws audit.png: a few training images beside their masks, and what share each class has. Pillow only.

Who looks at it sees whether masks lie on their images and whether the names fit what is there, which no count can tell.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path, PurePath
from typing import IO

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..durable import write_atomic
from .audit import AuditReport
from .cache import decode_pair
from .colours import as_percent
from .config import SPLITS
from .rasters import FORMATS
from .resolved import IGNORE_INDEX, Pair, ResolvedData

PAIRS = 4
WIDTH = 1280
MARGIN = 24
GAP = 8
CELL = (WIDTH - 2 * MARGIN - 3 * GAP) // 4
CELL_HEIGHT = 260
BAR_HEIGHT = 26
LINE = 24
PAPER = (250, 250, 248)
INK = (32, 33, 36)
FAINT = (110, 113, 118)
STRIPES = ((205, 205, 205), (150, 150, 150))
"""Of ignored pixels: two greys, since a plain colour might be that of a class."""
STRIPE = 4

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw_audit(report: AuditReport) -> Image.Image:
    """The picture of an audit whose classes are settled. Raises ConfigError for a file that is gone meanwhile."""
    data = report.resolved
    assert data is not None
    strips = [_head(report), *_sheet(data), _bars(data), _legend(report, data)]
    picture = Image.new("RGB", (WIDTH, sum(strip.height for strip in strips) + MARGIN), PAPER)
    top = 0
    for strip in strips:
        picture.paste(strip, (0, top))
        top += strip.height
    return picture


def write_picture(path: Path, picture: Image.Image) -> None:
    """Whole or not at all. Raises OSError."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=False)

    def write(file: IO[bytes]) -> None:
        file.write(buffer.getvalue())

    write_atomic(path, write)


def chosen(pairs: Sequence[Pair]) -> list[Pair]:
    """At most PAIRS of them, spread evenly, the same ones every time."""
    count = min(PAIRS, len(pairs))
    return [pairs[(2 * place + 1) * len(pairs) // (2 * count)] for place in range(count)]


# --- strips


def _strip(height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    strip = Image.new("RGB", (WIDTH, height), PAPER)
    return strip, ImageDraw.Draw(strip)


def _head(report: AuditReport) -> Image.Image:
    strip, draw = _strip(76)
    counts = ", ".join(f"{report.images[name]} {name}" for name in SPLITS)
    draw.text((MARGIN, 16), f"{report.root.name}: {counts} images", fill=INK, font=_font(22))
    statement = _shortened(report.statement, _font(14), WIDTH - 2 * MARGIN)
    draw.text((MARGIN, 48), statement, fill=FAINT, font=_font(14))
    return strip


def _sheet(data: ResolvedData) -> list[Image.Image]:
    """Rows of two images, each beside its mask."""
    lookup = data.lookup
    shown = [(pair, _decoded(data, pair, lookup)) for pair in chosen(data.splits["train"])]
    return [_row(shown[place : place + 2], data) for place in range(0, len(shown), 2)]


def _decoded(data: ResolvedData, pair: Pair, lookup: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 4), not much larger than its cell."""
    with Image.open(data.root / pair.image, formats=FORMATS) as image:
        scale = min(1.0, max(CELL / image.width, CELL_HEIGHT / image.height))
    return decode_pair(data.root, pair, scale, lookup, data.reading)


def _row(shown: Sequence[tuple[Pair, np.ndarray]], data: ResolvedData) -> Image.Image:
    strip, draw = _strip(CELL_HEIGHT + LINE + GAP)
    palette = np.full((256, 3), STRIPES[0], dtype=np.uint8)
    for index, entry in enumerate(data.classes):
        palette[index] = entry.colour
    for place, (pair, pixels) in enumerate(shown):
        height, width = pixels.shape[:2]
        factor = min(CELL / width, CELL_HEIGHT / height)
        size = max(1, round(width * factor)), max(1, round(height * factor))
        truth = Image.fromarray(_painted(pixels[..., 3], palette))
        left = MARGIN + 2 * place * (CELL + GAP)
        strip.paste(Image.fromarray(pixels[..., :3]).resize(size, Image.Resampling.BICUBIC), (left, LINE))
        strip.paste(truth.resize(size, Image.Resampling.NEAREST), (left + size[0] + GAP // 2, LINE))
        name = _shortened(PurePath(pair.image).name, _font(13), 2 * CELL)
        draw.text((left, 4), name, fill=FAINT, font=_font(13))
    return strip


def _painted(indices: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3): each class in its colour, ignored pixels striped."""
    painted = palette[indices]
    height, width = indices.shape
    rows, columns = np.arange(height)[:, None], np.arange(width)
    dark = (indices == IGNORE_INDEX) & ((rows + columns) // STRIPE % 2 == 1)
    painted[dark] = STRIPES[1]
    return np.ascontiguousarray(painted)


def _bars(data: ResolvedData) -> Image.Image:
    """One bar per split, of all its counted pixels."""
    strip, draw = _strip(2 * GAP + LINE + len(SPLITS) * (BAR_HEIGHT + GAP))
    draw.text((MARGIN, GAP), "share of the counted pixels", fill=INK, font=_font(16))
    left, room = MARGIN + 56, WIDTH - 2 * MARGIN - 56
    for line, name in enumerate(SPLITS):
        top = GAP + LINE + GAP // 2 + line * (BAR_HEIGHT + GAP)
        draw.text((MARGIN, top + 5), name, fill=INK, font=_font(14))
        at = 0.0
        for index, entry in enumerate(data.classes):
            end = at + room * (data.share(index, name) or 0.0)
            if round(end) > round(at):
                draw.rectangle((left + round(at), top, left + round(end) - 1, top + BAR_HEIGHT), fill=entry.colour)
            at = end
        draw.rectangle((left, top, left + room - 1, top + BAR_HEIGHT), outline=FAINT)
    return strip


def _legend(report: AuditReport, data: ResolvedData) -> Image.Image:
    """Every class with its figures, in two columns."""
    weights = report.class_weights["median-frequency"]
    lines = [
        (entry.colour, f"{entry.id} {entry.name}", [data.share(index, name) for name in SPLITS], weights[index])
        for index, entry in enumerate(data.classes)
    ]
    rows = -(-(len(lines) + 1) // 2)
    strip, draw = _strip(2 * GAP + (rows + 1) * LINE)
    for column in range(2):
        _legend_head(draw, _column(column))
    for place, (colour, name, shares, weight) in enumerate(lines):
        left, top = _column(place // rows), GAP + (place % rows + 1) * LINE
        draw.rectangle((left, top + 3, left + 22, top + 17), fill=colour, outline=FAINT)
        draw.text((left + 32, top + 2), _shortened(name, _font(14), 220), fill=INK, font=_font(14))
        told = [*("-" if not value else as_percent(value) for value in shares), f"{weight:.2f}"]
        _figures(draw, left, top, told)
    left, top = _column(len(lines) // rows), GAP + (len(lines) % rows + 1) * LINE
    ignored = Image.fromarray(_painted(np.full((15, 23), IGNORE_INDEX), np.full((256, 3), STRIPES[0], np.uint8)))
    strip.paste(ignored, (left, top + 3))
    draw.text((left + 32, top + 2), "ignored (of all pixels)", fill=INK, font=_font(14))
    shares = [report.ignored_share[name] for name in SPLITS]
    _figures(draw, left, top, ["-" if not value else as_percent(value) for value in shares])
    return strip


def _legend_head(draw: ImageDraw.ImageDraw, left: int) -> None:
    _figures(draw, left, GAP, [*SPLITS, "weight"], FAINT)


def _figures(
    draw: ImageDraw.ImageDraw, left: int, top: int, told: Sequence[str], colour: tuple[int, int, int] = INK
) -> None:
    for place, text in enumerate(told):
        draw.text((left + 340 + 82 * place, top + 2), text, fill=colour, font=_font(14), anchor="ra")


def _column(number: int) -> int:
    return MARGIN + number * (WIDTH - 2 * MARGIN + 2 * GAP) // 2


def _shortened(text: str, font: Font, room: int) -> str:
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(f"{text}…") > room:
        text = text[:-1]
    return f"{text}…"


@cache
def _font(size: int) -> Font:
    return ImageFont.load_default(size)
