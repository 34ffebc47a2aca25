"""What the audit counts of a mask is what training reads of it, of every kind of file and at every depth."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from segwatch.data.colours import shown_colours
from segwatch.data.formats import count
from segwatch.data.masks import MaskFormatError, describe_mask, mask_values, read_mask
from segwatch.data.resolved import TRANSPARENT, Reading

from .conftest import png
from .test_masks import palette_image, saved


def grey_png(path: Path, values: np.ndarray, depth: int, clear: int | None = None) -> Path:
    """Grey of 1 to 16 bits; `values` (H, W), the width a multiple of 8; `clear` is declared transparent."""
    bits = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(*values.shape, 2), axis=2)[..., 16 - depth :]
    rows = [np.packbits(row.ravel()).tobytes() for row in bits]
    chunks = None if clear is None else {b"tRNS": struct.pack(">H", clear)}
    return png(path, depth=depth, colour_type=0, rows=rows, chunks=chunks)


def masks_of_every_kind(place: Path, seed: int) -> dict[str, Path]:
    """By what they are: random pixels, with few values, 0 and the highest among them."""
    random = np.random.default_rng(seed)

    def pixels(highest: int, *channels: int) -> np.ndarray:
        drawn: np.ndarray = random.integers(0, highest, 4, endpoint=True)
        return np.asarray(random.choice(np.array([0, highest, *drawn]), (6, 16, *channels)))

    found: dict[str, Path] = {}
    for depth in (1, 2, 4, 8, 16):
        values = pixels((1 << depth) - 1)
        for clear in (None, 0, (1 << depth) - 1, int(values[0, 0])):
            name = f"grey of {depth} bits, clear {clear}"
            found[name] = grey_png(place / f"{len(found)}.png", values, depth, clear)
    for mode in ("LA", "RGB", "RGBA"):
        found[mode] = saved(place / f"{mode}.png", Image.fromarray(pixels(255, len(mode)).astype(np.uint8), mode=mode))
    few = Image.fromarray(pixels(255, 3).astype(np.uint8) // 200 * 255)
    found["RGB, one colour clear"] = saved(place / "clear.png", few, transparency=(0, 0, 0))
    found["RGB of greys"] = saved(place / "greys.png", np.stack([pixels(255).astype(np.uint8)] * 3, axis=2))
    for bits in (1, 2, 4, 8):
        colours = [tuple(int(channel) for channel in random.integers(0, 256, 3)) for _ in range(1 << bits)]
        image = palette_image(pixels((1 << bits) - 1), colours)
        found[f"palette of {bits} bits"] = saved(place / f"p{bits}.png", image, bits=bits)
        found[f"palette of {bits} bits, 0 clear"] = saved(place / f"pc{bits}.png", image, bits=bits, transparency=0)
    found["TIFF of 8 bits"] = saved(place / "a8.tif", pixels(255).astype(np.uint8))
    found["TIFF of 16 bits"] = saved(place / "a16.tif", pixels(65535).astype(np.uint16))
    found["TIFF of 1 bit"] = saved(place / "a1.tif", Image.fromarray(pixels(1) > 0))
    found["BMP"] = saved(place / "a.bmp", pixels(255, 3).astype(np.uint8))
    for name, array in (
        ("npy of 8 bits", pixels(255).astype(np.uint8)),
        ("npy of 16 bits", pixels(65535).astype(np.uint16)),
        ("npy of colours", pixels(255, 3).astype(np.uint8)),
        ("npy of colours with alpha", pixels(255, 4).astype(np.uint8)),
    ):
        np.save(place / f"{name}.npy", array)
        found[name] = place / f"{name}.npy"
    return found


@pytest.mark.parametrize("seed", range(3))
def test_the_audit_counts_of_every_kind_what_training_reads(tmp_path: Path, seed: int) -> None:
    """Under each reading: two truths about one file would let a wrong table pass the audit."""
    tried = 0
    for what, path in masks_of_every_kind(tmp_path, seed).items():
        facts = describe_mask(path)
        for reading in Reading:
            try:
                read = mask_values(read_mask(path, reading))
            except MaskFormatError:
                continue  # the judge of formats refuses it as well
            counts = count(facts, reading, {})
            told = {**(counts.unknown if reading is Reading.COLOURS else counts.ids)}
            if counts.transparent:
                told[TRANSPARENT] = counts.transparent
            values, pixels = np.unique(read, return_counts=True)
            assert told == dict(zip(values.tolist(), pixels.tolist(), strict=True)), f"{what}, read as {reading}"
            assert counts.rest == 0
            tried += 1
    assert tried > 90


@pytest.mark.parametrize(("depth", "values"), [(1, [0, 1]), (2, [0, 1, 2, 3]), (4, [0, 3, 6, 15]), (8, [0, 3, 6, 15])])
def test_grey_of_few_bits_has_the_colour_that_viewers_show(tmp_path: Path, depth: int, values: list[int]) -> None:
    path = grey_png(tmp_path / "a.png", np.resize(np.array(values), (2, 8)), depth)
    widest = (1 << depth) - 1
    shown = {value * 255 // widest * 0x010101 for value in values}
    assert {*shown_colours(describe_mask(path))} == shown
    assert {*mask_values(read_mask(path, Reading.COLOURS)).ravel().tolist()} == shown
    with Image.open(path) as image:
        assert {*mask_values(np.asarray(image.convert("RGB"))).ravel().tolist()} == shown


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_grey_that_a_png_declares_transparent_is_no_label_at_any_depth(tmp_path: Path, depth: int) -> None:
    values = np.resize(np.array([0, 1]), (2, 8))
    path = grey_png(tmp_path / "a.png", values, depth, clear=1)
    np.testing.assert_array_equal(read_mask(path), np.where(values == 1, 255, 0))
    np.testing.assert_array_equal(read_mask(path, Reading.BINARY), np.where(values == 1, 255, 0))
    assert (describe_mask(path).values, describe_mask(path).clear) == ({0: 8}, 8)
    if depth < 16:
        colours = mask_values(read_mask(path, Reading.COLOURS))
        np.testing.assert_array_equal(colours, np.where(values == 1, TRANSPARENT, 0))
