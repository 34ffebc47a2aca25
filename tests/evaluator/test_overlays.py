"""The pictures: which images, which colours, and that they come out whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from segwatch.data.resolved import ResolvedClass
from segwatch.evaluator import confusion_picture
from segwatch.evaluator.metrics import confusion, score
from segwatch.evaluator.overlays import (
    IGNORED,
    IMAGES,
    MARGIN,
    WIDTH,
    WRONG,
    Shown,
    chosen,
    draw,
    errors_of,
    palette_of,
    truth_of,
    write,
    wrong_share,
)
from segwatch.evaluator.report import picture_path

CLASSES = tuple(
    ResolvedClass(id=3 * index, name=f"class {index}", colour=(10 * index, 200 - index, 90), pixels={})
    for index in range(3)
)


def shown(height: int = 20, width: int = 30, *, name: str = "site/1658137057.641204937.jpg") -> Shown:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (height, width, 4)).astype(np.uint8)
    pixels[..., 3] = random.choice([0, 1, 2, 255], (height, width))
    return Shown(name, pixels, random.integers(0, 3, (height, width)).astype(np.uint8))


@given(st.integers(0, 10_000))
def test_the_images_are_few_distinct_in_order_and_spread_over_the_split(count: int) -> None:
    picked = chosen(count)
    assert len(picked) == min(count, IMAGES)
    assert list(picked) == sorted(set(picked))
    assert all(0 <= index < count for index in picked)
    if count >= 2 * IMAGES:
        assert picked[0] < count / 4 < 3 * count / 4 <= picked[-1]


def test_wrong_pixels_are_marked_ignored_ones_are_striped_and_right_ones_are_dark() -> None:
    pixels = np.full((1, 3, 4), 200, dtype=np.uint8)
    pixels[0, :, 3] = (1, 1, 255)
    picture = errors_of(Shown("a", pixels, np.array([[1, 0, 0]], dtype=np.uint8)))
    assert tuple(picture[0, 1]) == WRONG
    assert tuple(picture[0, 2]) in IGNORED
    assert picture[0, 0].max() < 128
    assert len(set(picture[0, 0].tolist())) == 1


def test_the_share_of_wrong_pixels_leaves_ignored_ones_out() -> None:
    pixels = np.zeros((1, 4, 4), dtype=np.uint8)
    pixels[0, :, 3] = (1, 1, 0, 255)
    assert wrong_share(Shown("a", pixels, np.array([[1, 0, 0, 0]], dtype=np.uint8))) == pytest.approx(1 / 3)
    pixels[..., 3] = 255
    assert wrong_share(Shown("a", pixels, np.zeros((1, 4), dtype=np.uint8))) is None


def test_each_class_has_its_colour_and_ignored_truth_has_stripes_that_no_class_has() -> None:
    pixels = np.full((12, 12, 4), 255, dtype=np.uint8)
    pixels[0, :3, 3] = (0, 1, 2)
    picture = truth_of(Shown("a", pixels, pixels[..., 3]), palette_of(CLASSES))
    assert [tuple(picture[0, index]) for index in range(3)] == [entry.colour for entry in CLASSES]
    assert {tuple(pixel) for row in picture[1:] for pixel in row} == set(IGNORED)


@pytest.mark.parametrize(("height", "width"), [(20, 30), (300, 20), (7, 900), (1, 1), (1200, 1600)])
def test_a_sheet_has_one_width_whatever_the_images_are(height: int, width: int) -> None:
    entry = shown(height, width)
    scores = score(confusion(entry.pixels[..., 3], entry.prediction, 3))
    sheet = draw([entry, shown()], CLASSES, scores, title="attempt 1, epoch 3, test")
    assert sheet.mode == "RGB"
    assert sheet.width == WIDTH
    assert 100 < sheet.height < 1200


def test_twenty_six_classes_with_long_names_and_no_score_still_make_a_sheet() -> None:
    classes = tuple(
        ResolvedClass(id=index, name="transparent roof of a very long name " * 3, colour=(index, 0, 0), pixels={})
        for index in range(26)
    )
    empty = score(np.zeros((26, 26), dtype=np.int64))
    assert draw([shown(name="x" * 500)], classes, empty, title="t").width == WIDTH


def test_the_sheet_shows_the_truth_in_the_colour_of_its_class() -> None:
    pixels = np.zeros((10, 10, 4), dtype=np.uint8)
    pixels[..., 3] = 1
    entry = Shown("a", pixels, np.full((10, 10), 2, dtype=np.uint8))
    scores = score(confusion(pixels[..., 3], entry.prediction, 3))
    colours = {colour for _, colour in draw([entry], CLASSES, scores, title="t").getcolors(1 << 20) or []}
    assert {CLASSES[1].colour, CLASSES[2].colour, WRONG} <= colours


def test_a_picture_is_written_whole_and_again(tmp_path: Path) -> None:
    path = picture_path(tmp_path, 1, 3)
    assert path.relative_to(tmp_path).as_posix() == "evaluations/overlays/attempt001_epoch3.png"
    scores = score(np.diag([1, 1, 1]))
    for _ in range(2):
        write(path, draw([shown()], CLASSES, scores, title="t"))
    assert [entry.name for entry in path.parent.iterdir()] == ["attempt001_epoch3.png"]
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == "PNG"


# --- the confusion matrix as a picture --------------------------------------------------------------------------------


def cell_of(picture: Image.Image, row: int, column: int) -> tuple[int, ...]:
    """The colour in a cell's corner, where no number stands."""
    cell = confusion_picture.CELL
    left, top = MARGIN + confusion_picture.NAMES, confusion_picture.HEAD + confusion_picture.NAMES
    pixel = picture.getpixel((left + column * cell + 3, top + row * cell + 3))
    assert isinstance(pixel, tuple)
    return pixel


def test_rows_are_truth_right_is_blue_wrong_is_red_and_a_class_without_truth_is_grey() -> None:
    matrix = np.array([[90, 10, 0], [0, 1, 99], [0, 0, 0]])
    picture = confusion_picture.draw(matrix, ("a", "b", "c"), title="t")
    right, wrong, nothing = cell_of(picture, 0, 0), cell_of(picture, 1, 2), cell_of(picture, 0, 2)
    assert right[2] > right[0] + 100, "0.9 of class a is right"
    assert wrong[0] > wrong[1] + 150, "0.99 of class b is taken for c"
    assert max(nothing) - min(nothing) < 10
    assert cell_of(picture, 2, 1) == confusion_picture.EMPTY
    assert cell_of(picture, 2, 1) != cell_of(picture, 1, 0)


def test_a_hundred_classes_and_a_long_name_fit() -> None:
    picture = confusion_picture.draw(np.eye(100, dtype=np.int64), ["x" * 90] * 100, title="t")
    assert max(picture.size) < 2000
