"""Looks into one training file for what no step can digest, and draws it. Knows nothing about networks or replays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data.cache import PixelCache, decode_pair
from ..data.resolved import IGNORE_INDEX, ResolvedData
from ..durable import write_atomic
from ..errors import ConfigError

VALUES_NAMED = 6
PANEL = 480
"""Width of the image and of its mask, in pixels of the picture."""
MARGIN = 16
LINE = 22
PAPER, INK, FAINT = (250, 250, 248), (32, 33, 36), (110, 113, 118)
MARK = (255, 0, 200)
"""Of the bad values: no table of aerial classes has it."""
IGNORED = (205, 205, 205)


@dataclass(frozen=True)
class Looked:
    """What one file holds."""

    what: str
    bad: np.ndarray
    """bool (H, W): the pixels whose value is no class."""
    cached_only: bool = False
    """The files are sound: only their entry in the pixel cache is not."""

    @property
    def is_bad(self) -> bool:
        return bool(self.bad.any())


def look(cache: PixelCache, data: ResolvedData, index: int, *, drilled: bool = False) -> Looked:
    """The pixels of training image `index` as training reads them, in words. `drilled`: a drill may have been there."""
    item = cache.item(index)
    labels = item[..., 3]
    classes = len(data.classes)
    bad = (labels >= classes) & (labels != IGNORE_INDEX)
    if bad.any():
        values, counts = np.unique(labels[bad], return_counts=True)
        named = ", ".join(
            f"{value} ({count} pixels, {count / labels.size:.1%})"
            for value, count in zip(values[:VALUES_NAMED].tolist(), counts[:VALUES_NAMED].tolist(), strict=True)
        )
        more = f" and {len(values) - VALUES_NAMED} more values" if len(values) > VALUES_NAMED else ""
        words = (
            f"its mask holds {named}{more}, which is no class: the {classes} classes are trained as "
            f"0 to {classes - 1}, and {IGNORE_INDEX} is ignored"
        )
        fresh = _in_the_files(data, cache, index)
        if isinstance(fresh, str):
            return Looked(f"{words}. The file cannot be read any more: {fresh}", bad)
        if np.array_equal(fresh, item):
            return Looked(f"{words}. So it stands in the file", bad)
        if drilled:
            return Looked(f"{words}. A drill has put it there, as if it stood in the file", bad)
        spoilt = "The file itself reads otherwise: its entry in the pixel cache was changed after it was made"
        return Looked(f"{words}. {spoilt}", bad, cached_only=True)
    if (labels == IGNORE_INDEX).all():
        return Looked("every pixel of its mask is ignored: nothing can be learnt from it", bad)
    return Looked("nothing can be seen in the file itself: its pixels are sound and its mask holds classes only", bad)


def draw(cache: PixelCache, data: ResolvedData, index: int, looked: Looked, path: Path) -> None:
    """A PNG: the image, and its mask with the bad values marked. Raises OSError when the disk refuses."""
    item = cache.item(index)
    palette = np.full((256, 3), IGNORED, dtype=np.uint8)
    for number, entry in enumerate(data.classes):
        palette[number] = entry.colour
    mask = palette[item[..., 3]]
    mask[looked.bad] = MARK
    panels = [_panel(np.ascontiguousarray(item[..., :3])), _panel(mask)]
    height = panels[0].height
    sheet = Image.new("RGB", (2 * PANEL + 3 * MARGIN, height + 2 * MARGIN + 3 * LINE), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    pen.text((MARGIN, MARGIN), cache.name(index), fill=INK, font=font)
    headings = ("image", f"mask {cache.pair(index).mask}")
    for number, (panel, heading) in enumerate(zip(panels, headings, strict=True)):
        left = MARGIN + number * (PANEL + MARGIN)
        pen.text((left, MARGIN + LINE), heading, fill=FAINT, font=font)
        sheet.paste(panel, (left, MARGIN + 2 * LINE))
    foot = MARGIN + 2 * LINE + height + 6
    if looked.is_bad:
        pen.rectangle((MARGIN, foot, MARGIN + 14, foot + 14), fill=MARK)
        pen.text((MARGIN + 22, foot - 1), f"no class: {int(looked.bad.sum())} pixels", fill=INK, font=font)
    else:
        pen.text((MARGIN, foot - 1), "no value stands out", fill=INK, font=font)
    write_atomic(path, lambda file: sheet.save(file, "PNG"))


def _panel(pixels: np.ndarray) -> Image.Image:
    """PANEL wide; no colour appears that was not there, so that a single bad pixel stays a sharp square."""
    picture = Image.fromarray(pixels)
    return picture.resize((PANEL, max(1, PANEL * picture.height // picture.width)), Image.Resampling.NEAREST)


def _in_the_files(data: ResolvedData, cache: PixelCache, index: int) -> np.ndarray | str:
    """What its entry in the cache would be, were it made now; why not, where it cannot be."""
    try:
        return decode_pair(data.root, cache.pair(index), data.scale, data.lookup, data.reading)
    except ConfigError as error:
        return error.what
