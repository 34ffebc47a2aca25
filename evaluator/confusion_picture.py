"""Draws a confusion matrix: which class is taken for which. Pillow only; knows nothing about networks or images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from .overlays import FAINT, INK, MARGIN, PAPER, WRONG, font, shortened

CELL = 46
NAMES = 170
"""Room for the names, beside the rows and above the columns."""
HEAD = 64
FOOT = 40
RIGHT = (0, 114, 178)
NUMBERED_LIMIT = 40
"""Classes up to which each cell has its number; the cells of more are smaller."""
SMALL_CELL = 14
EMPTY = (232, 232, 230)
"""The row of a class that the truth does not hold."""


def draw(confusion: np.ndarray, names: Sequence[str], *, title: str) -> Image.Image:
    """An RGB picture of an integer matrix (C, C), rows = truth: each row as shares of the pixels of its class.

    A pixel of the diagonal is right, and blue; the others are mistakes, and red.
    """
    numbered = len(names) <= NUMBERED_LIMIT
    cell = CELL if numbered else SMALL_CELL
    side = cell * len(names)
    left, top = MARGIN + NAMES, HEAD + NAMES
    picture = Image.new("RGB", (max(left + side + MARGIN, 640), top + side + FOOT), PAPER)
    pen = ImageDraw.Draw(picture)
    pen.text((MARGIN, 16), title, INK, font(24))
    support = confusion.sum(axis=1)
    for row, name in enumerate(names):
        for column in range(len(names)):
            share = float(confusion[row, column] / support[row]) if support[row] else None
            place = (left + column * cell, top + row * cell)
            _cell(pen, place, cell, share, right=row == column, numbered=numbered)
        _row_name(pen, name, left, top + row * cell, cell)
        picture.paste(_column_name(name, cell), (left + row * cell, HEAD))
    pen.text((MARGIN, top + side + 10), "rows: truth; columns: prediction; % of the row's pixels", FAINT, font(15))
    return picture


def _cell(
    pen: ImageDraw.ImageDraw, place: tuple[int, int], cell: int, share: float | None, *, right: bool, numbered: bool
) -> None:
    x, y = place
    colour = EMPTY if share is None else _mixed(RIGHT if right else WRONG, share)
    pen.rectangle((x, y, x + cell - 2, y + cell - 2), colour)
    if numbered and share is not None and share >= 0.005:
        ink = PAPER if share > 0.55 else INK
        pen.text((x + cell // 2 - 1, y + cell // 2 - 1), f"{100 * share:.0f}", ink, font(16), anchor="mm")


def _mixed(colour: tuple[int, int, int], share: float) -> tuple[int, int, int]:
    """From nearly white to `colour`. By the root: a mistake of 2 % should be seen."""
    weight = share**0.5
    red, green, blue = (round(244 + (part - 244) * weight) for part in colour)
    return red, green, blue


def _row_name(pen: ImageDraw.ImageDraw, name: str, left: int, y: int, cell: int) -> None:
    letters = font(min(16, cell))
    pen.text((left - 8, y + cell // 2 - 1), shortened(name, letters, NAMES - 12), INK, letters, anchor="rm")


def _column_name(name: str, cell: int) -> Image.Image:
    """From the bottom up."""
    strip = Image.new("RGB", (NAMES, cell), PAPER)
    letters = font(min(16, cell))
    text = shortened(name, letters, NAMES - 12)
    ImageDraw.Draw(strip).text((8, cell // 2 - 1), text, INK, letters, anchor="lm")
    return strip.transpose(Image.Transpose.ROTATE_90)
