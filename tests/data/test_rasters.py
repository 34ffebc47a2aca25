"""Image files: what the network would see otherwise than it stands in the file is refused, and told in words."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from segwatch.data.masks import describe_mask, read_mask
from segwatch.data.rasters import TooDeepError, TooManyBandsError, TurnedError, check_image, read_image
from segwatch.errors import ConfigError

from .conftest import png

NOISE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def tiff(path: Path, bands: int, bits: int, *, extra: tuple[int, ...] = ()) -> Path:
    """A TIFF written by hand, 8 x 4 pixels of zeros: Pillow writes neither many bands nor deep colours."""
    data = bytes(8 * 4 * bands * bits // 8)
    entries: list[tuple[int, tuple[int, ...]]] = [
        (256, (8,)), (257, (4,)), (258, (bits,) * bands), (259, (1,)), (262, (2 if bands > 2 else 1,)),
        (273, (8,)), (277, (bands,)), (278, (4,)), (279, (len(data),)), (284, (1,)),
    ]  # fmt: skip
    if extra:
        entries.append((338, extra))
    directory, beyond = struct.pack("<H", len(entries)), b""
    for tag, values in entries:
        packed = struct.pack(f"<{len(values)}H", *values)
        if len(packed) > 4:
            at = 8 + len(data) + len(beyond)
            beyond += packed
            packed = struct.pack("<I", at)
        directory += struct.pack("<HHI", tag, 3, len(values)) + packed.ljust(4, b"\0")
    header = b"II*\0" + struct.pack("<I", 8 + len(data) + len(beyond))
    path.write_bytes(header + data + beyond + directory + bytes(4))
    return path


def jpeg(**options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(NOISE).save(file, "JPEG", quality=95, **options)
    return file.getvalue()


def deep_images(place: Path) -> list[Path]:
    row = bytes(range(48))
    return [
        png(place / "rgb.png", depth=16, colour_type=2, rows=[row] * 4),
        png(place / "rgba.png", depth=16, colour_type=6, rows=[row] * 4),
        png(place / "grey_alpha.png", depth=16, colour_type=4, rows=[row] * 4),
        png(place / "grey.png", depth=16, colour_type=0, rows=[row] * 4),
        tiff(place / "rgb.tif", 3, 16),
        tiff(place / "rgba.tif", 4, 16, extra=(2,)),
        tiff(place / "four.tif", 4, 16, extra=(0,)),
    ]


def test_more_than_8_bits_are_refused_in_any_number_of_channels_instead_of_halved(tmp_path: Path) -> None:
    for path in deep_images(tmp_path):
        for read in (check_image, read_image):
            with pytest.raises(TooDeepError, match="an image of 16 bits, more than 8 bits per channel"):
                read(path)


def test_numbers_that_are_no_bytes_are_refused_in_words(tmp_path: Path) -> None:
    Image.new("F", (4, 4)).save(tmp_path / "a.tif")
    with pytest.raises(TooDeepError, match="an image of floating-point numbers, more than 8 bits"):
        check_image(tmp_path / "a.tif")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize(("bands", "bits"), [(5, 8), (6, 8), (7, 8), (13, 8), (5, 16), (13, 16)])
def test_more_bands_than_rgba_are_refused_by_their_number(tmp_path: Path, bands: int, bits: int) -> None:
    """Of 5 and 6 bands Pillow shows the first ones; of 7 it says that it is no TIFF."""
    path = tiff(tmp_path / "a.tif", bands, bits, extra=(0,) * (bands - 3))
    for content in (None, path.read_bytes()):
        with pytest.raises(TooManyBandsError, match=f"{bands} bands; an image has three"):
            check_image(path, content)
    with pytest.raises(TooManyBandsError, match=f"{bands} bands"):
        describe_mask(path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_file_that_is_no_picture_is_told_as_such(tmp_path: Path) -> None:
    for content in (b"", b"II*", b"II*\0\x10\0\0\0" + b"\xff" * 40, b"nonsense of some length"):
        (tmp_path / "a.tif").write_bytes(content)
        with pytest.raises(ConfigError, match="no PNG or JPEG or TIFF file"):
            check_image(tmp_path / "a.tif")


# --- JPEG


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_goes_on_in_zeros_is_cut_although_it_decodes(tmp_path: Path, progressive: bool) -> None:
    """As an interrupted copy into a file of the full size leaves it; a preview in the header has an end of its own."""
    preview = Image.Exif()
    whole = jpeg(progressive=progressive, exif=preview)
    segment = b"\xff\xe2" + struct.pack(">H", 2 + len(jpeg())) + jpeg()
    for content in (whole, whole[:2] + segment + whole[2:]):
        for share in (2, 3):
            cut = content[: len(content) - len(whole) // share]
            (tmp_path / "a.jpg").write_bytes(cut.ljust(len(content), b"\0"))
            if not progressive:
                with Image.open(tmp_path / "a.jpg") as image:
                    image.load()  # Pillow has nothing against it
            for read in (check_image, read_image):
                with pytest.raises(ConfigError, match="cut short"):
                    read(tmp_path / "a.jpg")


@pytest.mark.parametrize("left", [b"", bytes(3), bytes(100_000), b"SEFT trailer", b"\xff" + b"film" * 5000, jpeg()])
def test_what_a_camera_leaves_behind_the_end_of_a_jpeg_does_not_matter(tmp_path: Path, left: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg() + left)
    assert check_image(tmp_path / "a.jpg") == (60, 80)
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), np.asarray(Image.open(io.BytesIO(jpeg()))))


def test_the_first_picture_of_several_is_the_image(tmp_path: Path) -> None:
    first, second = Image.fromarray(NOISE), Image.new("RGB", (16, 16))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    assert check_image(tmp_path / "a.jpg") == (60, 80)


@pytest.mark.parametrize("orientation", range(10))
def test_only_orientations_that_turn_are_refused(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "a.jpg").write_bytes(jpeg(exif=exif))
    if 2 <= orientation <= 8:
        with pytest.raises(TurnedError, match=f"EXIF orientation {orientation}"):
            check_image(tmp_path / "a.jpg")
    else:
        assert check_image(tmp_path / "a.jpg") == (60, 80)


# --- no files


def test_what_is_no_file_is_told_and_never_waited_for(tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe.npy")
    for read in (check_image, read_image, read_mask):
        with pytest.raises(ConfigError, match=r"link\.png: a link that leads to no file"):
            read(tmp_path / "link.png")
        with pytest.raises(ConfigError, match=r"pipe\.png: no file but a pipe"):
            read(tmp_path / "pipe.png")
    with pytest.raises(ConfigError, match=r"pipe\.npy: no file but a pipe"):
        read_mask(tmp_path / "pipe.npy")
