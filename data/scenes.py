"""Draws synthetic aerial scenes with exact masks, for the demo and the tests. Knows nothing about how they are used.

A village in fields, as messy as real data sets are: 26 ids of which eight have no name and ten names never occur, one
unnamed id on a few pixels, green fields over half of everything, and pools so rare that a network hardly learns them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .classes import ClassEntry, Colour

DIRT, ROAD, GREEN_FIELD, CROP_FIELD, ROOF, TREE, CAR, POOL, DRAIN = 0, 1, 2, 3, 4, 7, 10, 13, 20
NAMES = {
    DIRT: "dirt", ROAD: "paved_road", GREEN_FIELD: "green_field", CROP_FIELD: "crop_field", ROOF: "roof", 6: "river",
    TREE: "tree", 9: "container", CAR: "car", 11: "airstrip", POOL: "pool", 14: "bridge", 16: "solar_panel",
    17: "umbrella", 19: "car_park", 21: "truck", 22: "greenhouse", 24: "railway",
}  # fmt: skip
TABLE_COLOURS = {
    DIRT: (181, 152, 110), ROAD: (128, 64, 128), GREEN_FIELD: (107, 142, 35), CROP_FIELD: (220, 190, 80),
    ROOF: (170, 50, 45), TREE: (20, 80, 40), CAR: (20, 30, 190), POOL: (0, 190, 220), DRAIN: (60, 60, 60),
}  # fmt: skip
IDS = 26
UNIT_SIDE = 192
"""Pixels of the shorter side at which a unit is one pixel: other sizes show the same village, larger or smaller."""

SMALLEST_SIDE = 64

GROUND: dict[int, tuple[Colour, ...]] = {
    GREEN_FIELD: ((104, 132, 62), (92, 124, 58), (116, 140, 70)),
    CROP_FIELD: ((186, 166, 92), (174, 158, 84), (198, 176, 106)),
    DIRT: ((158, 128, 96), (146, 116, 88)),
}
ROOFS: tuple[Colour, ...] = ((168, 84, 62), (182, 98, 70), (142, 70, 58), (150, 86, 80))
CARS: tuple[Colour, ...] = ((226, 226, 230), (30, 32, 40), (180, 28, 30), (36, 70, 160), (198, 200, 204))
ASPHALT: Colour = (112, 112, 118)
TREES: tuple[Colour, ...] = ((38, 70, 36), (46, 80, 40), (34, 62, 40))
WATER: Colour = (64, 190, 214)

Point = tuple[float, float]


def write_scenes(directory: Path, *, counts: dict[str, int], size: tuple[int, int], seed: int) -> Path:
    """Write `images/{split}/*.jpg`, `masks/{split}/*.png` and `classes.toml` into `directory`, and return it.

    `counts` is the number of scenes by split and `size` their (height, width). The same arguments write the same
    pixels. The first scene of every split shows every class that occurs at all. Raises ValueError for a size too small
    to tell a car from a pool.
    """
    if min(size) < SMALLEST_SIDE:
        raise ValueError(f"scenes need at least {SMALLEST_SIDE} pixels a side, not {size}")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "classes.toml").write_text(_table_text(), encoding="utf-8")
    for position, (split, count) in enumerate(sorted(counts.items())):
        images, masks = directory / "images" / split, directory / "masks" / split
        images.mkdir(parents=True, exist_ok=True)
        masks.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            rng = np.random.default_rng((seed, position, number))
            image, mask = _complete_scene(rng, size) if number == 0 else draw_scene(rng, size)
            stem = f"{1658137000 + 100 * position + number // 5}.{number % 5 * 200_000_000 + 7_041_204:09d}"
            image.save(images / f"{stem}.jpg", quality=92)
            mask.save(masks / f"{stem}.png")
    return directory


def draw_scene(
    rng: np.random.Generator, size: tuple[int, int], *, complete: bool = False
) -> tuple[Image.Image, Image.Image]:
    """One scene of (height, width): RGB image and mask of ids (mode L). `complete` asks for a pool and a drain."""
    frame = _Frame.anywhere(rng, size)
    labels, ground = _fields(rng, frame, size)
    mask, picture = Image.fromarray(labels), Image.fromarray(ground)
    _paint(mask, picture, [*_roads(rng, frame), *_gardens(rng, frame, complete=complete)])
    standing = [*_trees(rng, frame), *_houses(rng, frame), *_cars(rng, frame)]
    sun = rng.uniform(0.6, 1.0) * math.tau
    _cast_shadows(picture, standing, (math.cos(sun), math.sin(sun)))
    _paint(mask, picture, standing)
    return _photographed(rng, picture), mask


def _complete_scene(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Image.Image, Image.Image]:
    """Draw until nothing hides the pool or the drain; one scene in two shows both."""
    while True:
        image, mask = draw_scene(rng, size, complete=True)
        if set(TABLE_COLOURS) <= {class_id for class_id, pixels in enumerate(mask.histogram()) if pixels}:
            return image, mask


def class_table() -> tuple[ClassEntry, ...]:
    """The 26 ids; the colours of those that never occur are greys."""
    return tuple(
        ClassEntry(class_id, NAMES.get(class_id, ""), TABLE_COLOURS.get(class_id, (9 * class_id,) * 3))
        for class_id in range(IDS)
    )


def _table_text() -> str:
    rows = (f'{entry.id} = {{ name = "{entry.name}", rgb = {list(entry.colour)} }}' for entry in class_table())
    return "\n".join(
        ["# The ids of the synthetic scenes. Not all have a name, and not all occur.", "[classes]", *rows, ""]
    )


@dataclass(frozen=True)
class _Shape:
    """A polygon in pixels. Without a label it only paints: a highlight, a lane marking."""

    points: list[Point]
    colour: Colour
    label: int | None = None
    height: float = 0.0
    """Length of its shadow in pixels."""


@dataclass(frozen=True)
class _Frame:
    """The village's own axes: s runs along the main street and t across, both in units."""

    centre: Point
    angle: float
    unit: float
    """Pixels."""
    reach: float
    """Units from the centre to beyond the farthest corner."""

    @classmethod
    def anywhere(cls, rng: np.random.Generator, size: tuple[int, int]) -> _Frame:
        height, width = size
        unit = min(size) / UNIT_SIDE
        centre = (width * rng.uniform(0.35, 0.65), height * rng.uniform(0.35, 0.65))
        return cls(centre, rng.uniform(0, math.tau), unit, 0.7 * math.hypot(height, width) / unit + 20)

    def at(self, s: float, t: float) -> Point:
        """The pixel (x, y) of a place."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return self.centre[0] + self.unit * (s * cos - t * sin), self.centre[1] + self.unit * (s * sin + t * cos)

    def rectangle(self, s: float, t: float, length: float, width: float) -> list[Point]:
        """Centred on (s, t), `length` along s."""
        half, side = length / 2, width / 2
        return [self.at(s + a * half, t + b * side) for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]

    def blob(self, rng: np.random.Generator, s: float, t: float, radius: float) -> list[Point]:
        """A ragged disc, such as a tree from above."""
        radii = radius * rng.uniform(0.8, 1.15, 11)
        turns = np.arange(11) * math.tau / 11
        return [self.at(s + r * math.cos(a), t + r * math.sin(a)) for r, a in zip(radii, turns, strict=True)]

    def places(self, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """(s, t) of every pixel, each (H, W): the inverse of `at`."""
        height, width = size
        y, x = np.mgrid[:height, :width].astype(np.float32)
        x, y = (x - self.centre[0]) / self.unit, (y - self.centre[1]) / self.unit
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return x * cos + y * sin, y * cos - x * sin


def _fields(rng: np.random.Generator, frame: _Frame, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """uint8 labels (H, W) and colours (H, W, 3) of parcels with their furrows."""
    s, t = frame.places(size)
    rows = np.cumsum(rng.uniform(35, 80, 2 + int(2 * frame.reach / 35))) - frame.reach - 40
    columns = np.cumsum(rng.uniform(45, 110, 2 + int(2 * frame.reach / 45))) - frame.reach - 40
    parcel = np.searchsorted(rows, t) * (len(columns) + 1) + np.searchsorted(columns, s)
    parcels = (len(rows) + 1) * (len(columns) + 1)
    kind = rng.choice([GREEN_FIELD, CROP_FIELD, DIRT], size=parcels, p=[0.78, 0.15, 0.07]).astype(np.uint8)
    tint = np.array([_pick(rng, GROUND[int(one)]) for one in kind], dtype=np.float32)
    furrow = rng.uniform(2.5, 5.0, parcels).astype(np.float32)[parcel]
    depth = np.where(kind == CROP_FIELD, 12.0, np.where(kind == GREEN_FIELD, 3.0, 0.0)).astype(np.float32)
    stripes = depth[parcel] * np.sin(math.tau * t / furrow)
    uneven = 9 * _cloud(rng, size, 6) + 6 * _cloud(rng, size, 24) + 5 * _cloud(rng, size, 96)
    colours = tint[parcel] + (stripes + uneven)[..., None]
    return kind[parcel], np.clip(colours, 0, 255).astype(np.uint8)


def _roads(rng: np.random.Generator, frame: _Frame) -> Iterator[_Shape]:
    reach = frame.reach
    track = rng.uniform(-70, 70)
    yield _Shape(frame.rectangle(track, 0, 7, 2 * reach), (170, 142, 108), DIRT)
    yield _Shape(frame.rectangle(track, 0, 1.6, 2 * reach), (134, 132, 84))  # grass between the wheel tracks
    yield _Shape(frame.rectangle(0, 0, 2 * reach, 17), (150, 146, 136), ROAD)
    yield _Shape(frame.rectangle(0, 0, 2 * reach, 14), ASPHALT, ROAD)
    for s in np.arange(-reach, reach, 12):
        yield _Shape(frame.rectangle(float(s), 0, 6, 0.9), (216, 216, 208))
    if rng.random() < 0.4:
        side = float(rng.choice([-1, 1]))
        yield _Shape(frame.rectangle(track + 95 * side, 0, 12, 2 * reach), (118, 117, 120), ROAD)


def _gardens(rng: np.random.Generator, frame: _Frame, *, complete: bool) -> Iterator[_Shape]:
    """What lies flat: drains in the road, drives to the houses, a pool here and there."""
    if complete or rng.random() < 0.3:
        yield _Shape(frame.rectangle(rng.uniform(-40, 40), 4.5, 2, 2), (52, 50, 50), DRAIN)
    pools = 1 if complete else int(rng.random() < 0.35)
    for _ in range(pools):
        s, t = rng.uniform(-50, 50), float(rng.choice([-1, 1])) * rng.uniform(48, 54)
        length, width = rng.uniform(9, 13), rng.uniform(6, 8)
        yield _Shape(frame.rectangle(s, t, length + 4, width + 4), (206, 200, 186), DIRT)
        yield _Shape(frame.rectangle(s, t, length, width), WATER, POOL)
        yield _Shape(frame.rectangle(s - length / 6, t, length / 3, width * 0.7), (96, 210, 226))


def _houses(rng: np.random.Generator, frame: _Frame) -> Iterator[_Shape]:
    for side in (-1, 1):
        s = -frame.reach + rng.uniform(0, 30)
        while s < frame.reach:
            if rng.random() < 0.45:
                length, width = rng.uniform(18, 30), rng.uniform(13, 18)
                yield from _house(
                    frame, s, side * (14 + width / 2 + rng.uniform(0, 7)), (length, width), _pick(rng, ROOFS)
                )
            s += rng.uniform(34, 52)


def _house(frame: _Frame, s: float, t: float, size: tuple[float, float], colour: Colour) -> Iterator[_Shape]:
    """A gable roof: one half in the light, one away from it, a ridge between them and a chimney."""
    length, width = size
    yield _Shape(frame.rectangle(s, t, length, width), colour, ROOF, height=7 * frame.unit)
    yield _Shape(frame.rectangle(s, t + width / 4, length, width / 2), _lighter(colour, 0.78))
    yield _Shape(frame.rectangle(s, t, length, 1), _lighter(colour, 1.25))
    yield _Shape(frame.rectangle(s + length / 4, t - width / 5, 2.2, 2.2), (88, 80, 78))


def _trees(rng: np.random.Generator, frame: _Frame) -> Iterator[_Shape]:
    inside = 0.62 * frame.reach
    for _ in range(rng.integers(3, 6)):
        s, t = rng.uniform(-inside, inside), float(rng.choice([-1, 1])) * rng.uniform(40, max(60, inside))
        along = rng.random() < 0.5  # a hedge, or a copse
        for number in range(rng.integers(5, 9)):
            if along:
                yield from _tree(rng, frame, s + 8.5 * number, t + rng.normal(0, 1))
            else:
                yield from _tree(rng, frame, s + rng.normal(0, 9), t + rng.normal(0, 9))


def _tree(rng: np.random.Generator, frame: _Frame, s: float, t: float) -> Iterator[_Shape]:
    radius, colour = rng.uniform(3.5, 6.5), _pick(rng, TREES)
    yield _Shape(frame.blob(rng, s, t, radius), colour, TREE, height=5 * frame.unit)
    yield _Shape(frame.blob(rng, s - 1, t - 1, 0.55 * radius), _lighter(colour, 1.3))


def _cars(rng: np.random.Generator, frame: _Frame) -> Iterator[_Shape]:
    for lane in (-3.8, 3.8):
        s = -frame.reach + rng.uniform(0, 40)
        while s < frame.reach:
            colour, length = _pick(rng, CARS), rng.uniform(9, 11)
            yield _Shape(frame.rectangle(s, lane, length, 5), colour, CAR, height=2 * frame.unit)
            yield _Shape(frame.rectangle(s + length / 8, lane, length / 2.2, 4), _lighter(colour, 0.45))
            yield _Shape(frame.rectangle(s, lane, length / 4, 3.6), _lighter(colour, 0.95))
            s += rng.uniform(16, 80)


def _paint(mask: Image.Image, picture: Image.Image, shapes: list[_Shape]) -> None:
    labels, colours = ImageDraw.Draw(mask), ImageDraw.Draw(picture)
    for shape in shapes:
        colours.polygon(shape.points, fill=shape.colour)
        if shape.label is not None:
            labels.polygon(shape.points, fill=shape.label)


def _cast_shadows(picture: Image.Image, shapes: list[_Shape], away: Point) -> None:
    """Darken and cool what lies behind each standing thing, seen from the sun."""
    shadow = Image.new("L", picture.size)
    draw = ImageDraw.Draw(shadow)
    for shape in shapes:
        steps = math.ceil(shape.height / 2)
        for step in range(1, steps + 1):
            shift = shape.height * step / steps
            draw.polygon([(x + shift * away[0], y + shift * away[1]) for x, y in shape.points], fill=150)
    picture.paste((34, 40, 52), mask=shadow)


def _photographed(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    """What a camera adds: light and white balance of the day, falling off to one side, soft optics, sensor noise."""
    soft = np.asarray(picture.filter(ImageFilter.GaussianBlur(0.55)), dtype=np.float32)
    height, width = soft.shape[:2]
    light = rng.uniform(0.82, 1.12) * rng.uniform(0.95, 1.05, 3)
    fall = 1 + rng.uniform(-0.1, 0.1) * np.linspace(-1, 1, width)[None, :] + 0.05 * _cloud(rng, (height, width), 3)
    noise = rng.normal(0, 4.0, (height, width, 1)) + rng.normal(0, 1.5, soft.shape)
    return Image.fromarray(np.clip(soft * light * fall[..., None] + noise, 0, 255).astype(np.uint8))


def _cloud(rng: np.random.Generator, size: tuple[int, int], cells: int) -> np.ndarray:
    """float32 (H, W), smooth and random, about -1 to 1, with this many bumps along a side."""
    coarse = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC))


def _pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    red, green, blue = (round(channel + rng.normal(0, 5)) for channel in colours[rng.integers(len(colours))])
    return red, green, blue


def _lighter(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, max(0, round(channel * factor))) for channel in colour)
    return red, green, blue
