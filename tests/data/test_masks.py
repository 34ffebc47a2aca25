"""Mask files of every format: the right value for every pixel, or a refusal that names the format."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from segwatch.data import masks
from segwatch.data.masks import MANY_COLOURS, Kind, MaskFormatError, describe_mask, mask_values, read_mask, reduce_mask
from segwatch.data.rasters import LIMIT_PIXELS, TooLargeError, scaled_size
from segwatch.data.resolved import COLOURS_END, TRANSPARENT, Reading, pack
from segwatch.errors import ConfigError

from .conftest import png

IDS = np.resize(np.array([0, 1, 7, 3, 255], dtype=np.uint8), (6, 9))
RED, GREEN = (200, 10, 20), (10, 200, 20)


def saved(path: Path, image: Image.Image | np.ndarray, **options: object) -> Path:
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def palette_image(indices: np.ndarray, colours: list[tuple[int, int, int]]) -> Image.Image:
    image = Image.fromarray(indices.astype(np.uint8), mode="L")
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([channel for colour in colours for channel in colour])
    return image


# --- ids


def test_8_bit_ids_are_read_as_they_are(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", IDS)
    np.testing.assert_array_equal(read_mask(path), IDS)
    facts = describe_mask(path)
    assert (facts.kind, facts.size, facts.pixels) == (Kind.IDS, (6, 9), 54)
    assert facts.values == {0: 11, 1: 11, 3: 11, 7: 11, 255: 10}


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_ids_keep_both_of_their_bytes(tmp_path: Path, name: str) -> None:
    wide = IDS.astype(np.uint16) * 257
    path = saved(tmp_path / name, Image.fromarray(wide))
    np.testing.assert_array_equal(read_mask(path), wide)
    facts = describe_mask(path)
    assert facts.kind is Kind.WIDE_IDS
    assert facts.values == {0: 11, 257: 11, 771: 11, 1799: 11, 65535: 10}


def test_32_bit_tiff_is_read_where_its_values_are_ids_and_refused_where_not(tmp_path: Path) -> None:
    np.testing.assert_array_equal(
        read_mask(saved(tmp_path / "a.tif", IDS.astype(np.int32) * 200)), IDS.astype(int) * 200
    )
    for value in (-1, 65536):
        path = saved(tmp_path / "b.tif", np.full((4, 4), value, dtype=np.int32))
        with pytest.raises(MaskFormatError, match=rf"b\.tif.*values from {value} to {value}"):
            read_mask(path)


@pytest.mark.parametrize("depth", [2, 4])
def test_grey_of_2_and_4_bits_is_not_spread_over_255(tmp_path: Path, depth: int) -> None:
    """Pillow shows an id 3 of 2 bits as 255, which would be no label."""
    row = bytes([0b00011011]) if depth == 2 else bytes([0x01, 0x23])
    path = png(tmp_path / "a.png", depth=depth, colour_type=0, rows=[row, row])
    np.testing.assert_array_equal(read_mask(path), [[0, 1, 2, 3]] * 2)
    assert describe_mask(path).values == {0: 2, 1: 2, 2: 2, 3: 2}


def test_one_bit_is_0_and_1(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(IDS > 1))
    np.testing.assert_array_equal(read_mask(path), IDS > 1)
    np.testing.assert_array_equal(read_mask(path, Reading.BINARY), IDS > 1)
    assert describe_mask(path).kind is Kind.BITS
    assert describe_mask(path).values == {0: 22, 1: 32}


def test_any_value_but_0_is_1_where_masks_are_black_and_white(tmp_path: Path) -> None:
    for image in (IDS, IDS.astype(np.uint16) * 256, np.stack([IDS] * 3, axis=2)):
        found = read_mask(saved(tmp_path / "a.png", Image.fromarray(image)), Reading.BINARY)
        np.testing.assert_array_equal(found, IDS > 0)


def test_a_reversed_palette_is_black_and_white_by_its_colours(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", palette_image(IDS > 1, [(255, 255, 255), (0, 0, 0)]))
    np.testing.assert_array_equal(read_mask(path, Reading.BINARY), IDS <= 1)


def test_three_equal_channels_are_read_as_one(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", np.stack([IDS] * 3, axis=2))
    np.testing.assert_array_equal(read_mask(path), IDS)
    assert describe_mask(path).kind is Kind.RGB
    assert describe_mask(path).colours == {
        pack((v, v, v)): n for v, n in ((0, 11), (1, 11), (3, 11), (7, 11), (255, 10))
    }


@pytest.mark.parametrize("changed", [1, 2])
def test_colours_are_refused_as_ids(tmp_path: Path, changed: int) -> None:
    pixels = np.stack([IDS] * 3, axis=2)
    pixels[2, 3, changed] += 1
    with pytest.raises(MaskFormatError, match=r"a\.png: holds colours, no ids"):
        read_mask(saved(tmp_path / "a.png", pixels))


def test_transparent_grey_is_no_label(tmp_path: Path) -> None:
    alpha = np.full_like(IDS, 255)
    alpha[0] = 0
    path = saved(tmp_path / "a.png", Image.fromarray(np.stack([IDS, alpha], axis=2), mode="LA"))
    expected = IDS.copy()
    expected[0] = 255
    np.testing.assert_array_equal(read_mask(path), expected)
    facts = describe_mask(path)
    assert (facts.kind, facts.clear, sum(facts.values.values())) == (Kind.GREY_ALPHA, 9, 45)
    np.testing.assert_array_equal(read_mask(path, Reading.BINARY)[0], 255)


# --- colours


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_become_one_number_each(tmp_path: Path, mode: str) -> None:
    pixels = np.zeros((2, 2, len(mode)), dtype=np.uint8)
    pixels[0, 0, :3], pixels[0, 1, :3] = RED, GREEN
    pixels[0, :, 3:] = 255
    path = saved(tmp_path / "a.png", pixels)
    black = TRANSPARENT if mode == "RGBA" else 0
    np.testing.assert_array_equal(
        mask_values(read_mask(path, Reading.COLOURS)), [[pack(RED), pack(GREEN)], [black] * 2]
    )
    facts = describe_mask(path)
    assert facts.kind == mode
    assert facts.colours == {pack(RED): 1, pack(GREEN): 1, black: 2}


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_palette_is_read_as_index_or_as_colour(tmp_path: Path, bits: int) -> None:
    indices = np.resize(np.array([0, 1], dtype=np.uint8), (4, 8))
    path = saved(tmp_path / "a.png", palette_image(indices, [RED, GREEN]), bits=bits)
    np.testing.assert_array_equal(read_mask(path), indices)
    values = mask_values(read_mask(path, Reading.COLOURS))
    np.testing.assert_array_equal(values, np.where(indices == 0, pack(RED), pack(GREEN)))
    facts = describe_mask(path)
    assert facts.kind is Kind.PALETTE
    assert facts.values == {0: 16, 1: 16}
    assert (facts.palette[0], facts.palette[1]) == (pack(RED), pack(GREEN))
    assert facts.colours == {pack(RED): 16, pack(GREEN): 16}


@pytest.mark.parametrize("transparency", [1, b"\xff\x00"])
def test_a_transparent_entry_of_a_palette_has_no_colour(tmp_path: Path, transparency: int | bytes) -> None:
    indices = np.resize(np.array([0, 1], dtype=np.uint8), (4, 8))
    path = saved(tmp_path / "a.png", palette_image(indices, [RED, GREEN]), transparency=transparency)
    assert describe_mask(path).colours == {pack(RED): 16, TRANSPARENT: 16}
    values = mask_values(read_mask(path, Reading.COLOURS))
    np.testing.assert_array_equal(values, np.where(indices == 0, pack(RED), TRANSPARENT))
    np.testing.assert_array_equal(read_mask(path), np.where(indices == 0, 0, 255))


def test_a_transparent_colour_has_no_colour(tmp_path: Path) -> None:
    pixels = np.zeros((2, 2, 3), dtype=np.uint8)
    pixels[0] = RED
    path = saved(tmp_path / "a.png", Image.fromarray(pixels), transparency=(0, 0, 0))
    assert describe_mask(path).colours == {pack(RED): 2, TRANSPARENT: 2}
    assert mask_values(read_mask(path, Reading.COLOURS)).tolist() == [[pack(RED)] * 2, [TRANSPARENT] * 2]


def test_grey_is_a_colour_as_well(tmp_path: Path) -> None:
    values = mask_values(read_mask(saved(tmp_path / "a.png", IDS), Reading.COLOURS))
    np.testing.assert_array_equal(values, IDS.astype(int) * 0x010101)


def test_16_bit_numbers_are_no_colours(tmp_path: Path) -> None:
    with pytest.raises(MaskFormatError, match="no colours"):
        read_mask(saved(tmp_path / "a.png", Image.fromarray(IDS.astype(np.uint16))), Reading.COLOURS)


def test_of_very_many_colours_the_frequent_and_the_wanted_are_told(tmp_path: Path) -> None:
    noise = np.arange(80 * 80, dtype=np.uint32).reshape(80, 80) + 1000
    noise[:10] = pack(RED)
    pixels = np.stack([noise >> 16, noise >> 8 & 255, noise & 255], axis=2).astype(np.uint8)
    facts = describe_mask(saved(tmp_path / "a.png", pixels), keep={7000, 5})
    assert facts.distinct == 70 * 80 + 1 > MANY_COLOURS
    assert facts.colours[pack(RED)] == 800
    assert facts.colours[7000] == 1
    assert 5 not in facts.colours
    assert len(facts.colours) in (64, 65)


@given(st.lists(st.integers(0, COLOURS_END - 1), min_size=1, max_size=40))
def test_every_colour_of_16_million_has_its_own_number(colours: list[int]) -> None:
    channels = [[colour >> 16, colour >> 8 & 255, colour & 255] for colour in colours]
    assert mask_values(np.array([channels], dtype=np.uint8)).tolist() == [colours]


# --- .npy


@pytest.mark.parametrize("dtype", ["uint8", "int64", "uint16", "bool"])
def test_an_array_of_numbers_is_read_as_ids(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "a.npy", IDS.astype(dtype))
    np.testing.assert_array_equal(read_mask(tmp_path / "a.npy"), IDS.astype(dtype))
    facts = describe_mask(tmp_path / "a.npy")
    assert facts.kind is Kind.ARRAY_IDS
    assert facts.values == ({0: 11, 1: 43} if dtype == "bool" else {0: 11, 1: 11, 3: 11, 7: 11, 255: 10})


def test_an_array_of_colours_is_read_by_colour(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[RED, GREEN]], dtype=np.uint8))
    assert mask_values(read_mask(tmp_path / "a.npy", Reading.COLOURS)).tolist() == [[pack(RED), pack(GREEN)]]
    assert describe_mask(tmp_path / "a.npy").colours == {pack(RED): 1, pack(GREEN): 1}


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((4, 4), dtype=np.float32), "float32, 4x4"),
        (np.zeros((4, 4, 2), dtype=np.uint8), "4x4x2"),
        (np.zeros((4, 4, 3), dtype=np.uint16), "uint16, 4x4x3"),
        (np.zeros(4, dtype=np.uint8), "uint8, 4"),
        (np.full((4, 4), -1), "values from -1 to -1"),
    ],
)
def test_an_array_that_is_no_mask_is_refused_by_its_shape(tmp_path: Path, array: np.ndarray, told: str) -> None:
    np.save(tmp_path / "a.npy", array)
    for read in (read_mask, describe_mask):
        with pytest.raises(MaskFormatError, match=told):
            read(tmp_path / "a.npy")


def test_a_pickle_in_an_array_is_never_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "sprung",)

    np.save(tmp_path / "a.npy", np.array([[Trap()]], dtype=object), allow_pickle=True)
    with pytest.raises(ConfigError, match=r"a\.npy: no array that can be read"):
        describe_mask(tmp_path / "a.npy")
    assert not (tmp_path / "sprung").exists()


def test_arrays_that_are_cut_archived_or_enormous_are_told(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", IDS)
    whole = (tmp_path / "a.npy").read_bytes()
    for content in (whole[:-5], whole[:40], b"", b"nonsense"):
        (tmp_path / "a.npy").write_bytes(content)
        with pytest.raises(ConfigError, match=r"a\.npy: no array that can be read") as caught:
            read_mask(tmp_path / "a.npy")
        assert "pickle" not in str(caught.value)
    np.savez(tmp_path / "a.npz", IDS)
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(ConfigError, match="an archive of arrays"):
        read_mask(tmp_path / "a.npy")
    (tmp_path / "a.npy").unlink()
    np.lib.format.open_memmap(tmp_path / "a.npy", mode="w+", dtype=np.uint8, shape=(1, LIMIT_PIXELS + 1)).flush()
    with pytest.raises(TooLargeError, match="more than"):
        read_mask(tmp_path / "a.npy")


# --- refused


def test_a_multi_picture_jpeg_of_a_camera_is_a_jpeg_as_well(tmp_path: Path) -> None:
    small = Image.new("RGB", (8, 8))
    path = saved(tmp_path / "a.png", Image.new("RGB", (16, 16)), format="MPO", save_all=True, append_images=[small])
    for read in (read_mask, describe_mask):
        with pytest.raises(MaskFormatError, match="a JPEG mask: JPEG is lossy"):
            read(path)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_jpeg_is_refused_by_name_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path / name, IDS, format="JPEG")
    for read in (read_mask, describe_mask):
        with pytest.raises(MaskFormatError, match=rf"{name}: a JPEG mask: JPEG is lossy"):
            read(path)


def test_a_tiff_that_holds_jpeg_is_refused_as_well(tmp_path: Path) -> None:
    with pytest.raises(MaskFormatError, match="JPEG is lossy"):
        read_mask(saved(tmp_path / "a.tif", np.zeros((16, 16, 3), dtype=np.uint8), compression="jpeg"))


def test_a_bmp_is_lossless_and_read(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_mask(saved(tmp_path / "a.bmp", np.stack([IDS] * 3, axis=2))), IDS)


def test_colours_of_16_bits_are_refused_instead_of_halved(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", depth=16, colour_type=2, rows=[bytes([1, 2, 3, 4, 5, 6])])
    with pytest.raises(MaskFormatError, match="16 bits per channel"):
        describe_mask(path)


@pytest.mark.parametrize(("mode", "words"), [("CMYK", "CMYK, the colours of ink"), ("F", "floating-point numbers")])
def test_pixels_that_are_neither_ids_nor_colours_are_refused_in_words(tmp_path: Path, mode: str, words: str) -> None:
    with pytest.raises(MaskFormatError, match=f"its pixels are {words}: neither ids nor colours"):
        describe_mask(saved(tmp_path / "a.tif", Image.new(mode, (4, 4))))


def test_a_tiff_whose_0_is_white_is_refused_since_its_ids_come_out_turned_round(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", IDS, tiffinfo={262: 0})
    with Image.open(path) as image:
        assert image.tag_v2[262] == 0
    with pytest.raises(MaskFormatError, match="0 is white"):
        read_mask(path)


def test_pages_of_one_size_are_refused_and_overviews_are_not(tmp_path: Path) -> None:
    twin, small = Image.fromarray(IDS), Image.fromarray(IDS[:3, :4])
    Image.fromarray(IDS).save(tmp_path / "a.tif", save_all=True, append_images=[twin])
    with pytest.raises(MaskFormatError, match="several pages"):
        read_mask(tmp_path / "a.tif")
    Image.fromarray(IDS).save(tmp_path / "a.tif", save_all=True, append_images=[small])
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif"), IDS)


@pytest.mark.parametrize("kind", ["L", "RGB", "P", "I;16"])
def test_a_file_cut_anywhere_is_told_and_never_half_counted(tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8)
    image = Image.fromarray(noise.astype(np.uint16)) if kind == "I;16" else Image.fromarray(noise).convert(kind)
    whole = saved(tmp_path / "a.png", image).read_bytes()
    for length in [*range(0, len(whole) - 24, max(1, len(whole) // 20)), *range(len(whole) - 24, len(whole))]:
        (tmp_path / "a.png").write_bytes(whole[:length])
        with pytest.raises(ConfigError, match=r"a\.png"):
            describe_mask(tmp_path / "a.png")


def test_what_follows_the_end_of_a_sound_png_does_not_matter(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", IDS)
    path.write_bytes(path.read_bytes() + b"left over by a tool")
    np.testing.assert_array_equal(read_mask(path), IDS)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "raw"])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_cut_tiff_is_told_before_libtiff_prints_about_it(
    tmp_path: Path, compression: str, capfd: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8)
    path = saved(tmp_path / "a.tif", noise, compression=compression)
    np.testing.assert_array_equal(read_mask(path), noise)
    whole = path.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:length])
        with pytest.raises(ConfigError, match=r"a\.tif"):
            describe_mask(path)
    assert capfd.readouterr().err == ""


# --- the real ones


def test_the_72_real_masks_read_by_colour_are_exactly_their_ids(shared: Path) -> None:
    root = shared / "data" / "dubai_aerial"
    lookup = np.full(COLOURS_END + 1, 255, dtype=np.uint8)
    for entry in json.loads((root / "classes.true.json").read_text())["classes"]:
        lookup[int(entry["colour"][1:], 16)] = entry["id"]
    paths = sorted((root / "masks").glob("*/*.png"))
    assert len(paths) == 72
    for path in paths:
        ids = read_mask(root / "masks_id" / path.parent.name / path.name)
        np.testing.assert_array_equal(lookup[mask_values(read_mask(path, Reading.COLOURS))], ids)


def test_reducing_first_and_mapping_then_is_the_same_as_the_other_way_round() -> None:
    pixels = np.random.default_rng(1).integers(0, 4, (37, 53, 3), dtype=np.uint8)
    np.testing.assert_array_equal(mask_values(reduce_mask(pixels, 9, 13)), reduce_mask(mask_values(pixels), 9, 13))


@given(st.sampled_from(["L", "P"]), st.integers(1, 70), st.integers(1, 70), st.floats(0.01, 1))
def test_a_mask_that_is_reduced_as_it_is_read_is_the_one_that_was_read_and_reduced(
    tmp_path_factory, mode: str, height: int, width: int, scale: float
) -> None:
    pixels = np.random.default_rng(height * 100 + width).integers(0, 251, (height, width), dtype=np.uint8)
    image = palette_image(pixels, [(index, 0, 0) for index in range(256)]) if mode == "P" else pixels
    path = saved(tmp_path_factory.mktemp("mask") / "a.png", image)
    size = scaled_size(height, width, scale)
    np.testing.assert_array_equal(read_mask(path, reduced_to=size), reduce_mask(pixels, *size))


@pytest.mark.parametrize("length", [*range(1, 90), 612, 2048, 2049, 2448, 20_000])
def test_pillow_is_asked_for_pixels_only_where_it_takes_those_at_the_centres(length: int) -> None:
    ruler = np.resize(np.arange(251, dtype=np.uint8), (1, length))
    image = Image.fromarray(ruler)
    for target in range(1, length + 1, max(1, length // 89)):
        if masks._same_in_pillow(length, target):
            nearest = np.asarray(image.resize((target, 1), Image.Resampling.NEAREST))
            np.testing.assert_array_equal(nearest, reduce_mask(ruler, 1, target))


def test_ids_of_a_byte_are_never_copied_whole_where_they_are_reduced(tmp_path: Path, monkeypatch) -> None:
    """The millions of pixels that nobody takes cost more than to decode those that are taken."""
    path = saved(tmp_path / "a.png", np.zeros((64, 80), np.uint8))
    seen: list[tuple[int, int]] = []
    plain = masks._plain
    monkeypatch.setattr(masks, "_plain", lambda image: (seen.append(image.size), plain(image))[1])
    read_mask(path, reduced_to=(16, 20))
    assert seen == [(20, 16)]
