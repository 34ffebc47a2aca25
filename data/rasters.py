"""Decodes image files, or says what is wrong with one. Knows nothing about masks, classes, splits or caches.

Every decoder error becomes a ConfigError with the file's name: Pillow alone raises OSError, SyntaxError, ValueError or
struct.error depending on the format and on where the bytes are broken.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import ConfigError
from .directories import why_no_file

FORMATS = ("PNG", "JPEG", "TIFF")
LIMIT_PIXELS = 1 << 28
"""16384 x 16384: three bytes each are 0.8 GB. More is a broken header, or an orthophoto that wants tiling."""
EXIF_ORIENTATION = 0x0112
TURNING = range(2, 9)
"""Orientations that turn or mirror; 1 does not, and 0 and 9, which some cameras write, mean nothing."""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHUNK_FRAME = 12
"""Bytes of a PNG chunk beside its content: length, name, checksum."""
BIG_TIFF = 43
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
TIFF_PIECES = ((273, 279), (324, 325))
"""Tags: (offsets, byte counts) of strips, and of tiles."""
BITS_PER_SAMPLE, SAMPLES_PER_PIXEL = 258, 277
"""Tags of a TIFF."""
MOST_BANDS = 4
"""RGBA."""
SCAN, END_OF_IMAGE = 0xDA, b"\xff\xd9"
"""Of a JPEG: the marker behind which the pixels stand, and the one that ends them."""
TAIL = 4096
"""Bytes at the end of a JPEG that are looked at first."""
PIXELS_IN_WORDS = {
    "F": "floating-point numbers",
    "I": "whole numbers of 32 bits",
    "CMYK": "CMYK, the colours of ink",
    "YCbCr": "YCbCr, brightness and two differences of colour",
    "LAB": "Lab colours",
    "HSV": "HSV colours",
    "RGBX": "RGB and a fourth band",
    "RGBa": "RGB that its transparency is multiplied into",
    "La": "grey that its transparency is multiplied into",
}
"""Pillow's name of the pixels -> what a person calls them."""
RESTORE = "restore the file"
STORED_AS = "segwatch: stored as"
"""Key of `Image.info`. Asked for at once: looking for EXIF data decodes a PNG, and Pillow forgets it then."""

Image.MAX_IMAGE_PIXELS = None  # `_check_header` refuses instead: Pillow only warns of the first few too many


class TurnedError(ConfigError):
    """An image that viewers turn by its EXIF tag, and decoders do not."""


class TooLargeError(ConfigError):
    """More pixels than any file of a data set should have."""


class TooDeepError(ConfigError):
    """A sound image of more than 8 bits per channel: the data set wants converting, not this file leaving out."""


class TooManyBandsError(ConfigError):
    """A sound TIFF of more bands than RGBA, such as a multispectral one: likewise."""


def check_image(path: Path, content: bytes | None = None) -> tuple[int, int]:
    """(height, width) of an image that can be decoded to its end: a header also stands before a cut file.

    A JPEG is decoded to grey, at an eighth of its size, which reads every byte at half of the cost. `content` are the
    file's bytes where they have been read already. Raises ConfigError; TurnedError and TooLargeError are such.
    """
    with opened(path, content=content) as image:
        size = image.height, image.width
        image.draft("L", (image.width // 8, image.height // 8))
        _refuse_deep(image, path)
        image.load()
        return size


def scaled_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """(height, width) after scaling: rounded down, never 0."""
    return max(1, int(scale * height)), max(1, int(scale * width))


def read_image(path: Path, scale: float = 1.0) -> np.ndarray:
    """uint8 (H, W, 3), RGB, reduced by `scale`. Raises ConfigError.

    A JPEG is decoded straight to the nearest 1/2, 1/4 or 1/8 that is not below the target (libjpeg scales inside its
    inverse DCT); what is left is averaged over whole blocks and then resampled bicubically. The box counts the last
    block only as far as it is filled, so that image and mask stay aligned to a fraction of a pixel.
    """
    with opened(path) as image:
        height, width = scaled_size(image.height, image.width, scale)
        drafted = image.draft(None, (width, height)) if scale < 1 else None
        box = drafted[1] if drafted else (0, 0, *image.size)
        image.load()
        colour = _as_rgb(image, path)
        if colour.size != (width, height) or tuple(box) != (0, 0, width, height):
            colour = colour.resize((width, height), Image.Resampling.BICUBIC, box=box, reducing_gap=1.0)
        return np.asarray(colour)


def _as_rgb(image: Image.Image, path: Path) -> Image.Image:
    _refuse_deep(image, path)
    return image if image.mode == "RGB" else image.convert("RGB")


def _refuse_deep(image: Image.Image, path: Path) -> None:
    """Conversion would clip 16 bits of grey to 255, a white image, and drop the lower half of a colour."""
    depth = _bits_of(image)
    if image.mode.startswith("I") or image.mode == "F" or depth > 8:
        held = PIXELS_IN_WORDS.get(image.mode) or f"{depth} bits"
        raise TooDeepError(
            f"an image of {held}, more than 8 bits per channel",
            where=path,
            remedy="convert it to 8 bits per channel, with one stretch for the whole data set",
        )


def _bits_of(image: Image.Image) -> int:
    """Per channel, as they stand in the file; 8 where nothing says otherwise."""
    named = re.search(r";(\d+)", image.info[STORED_AS])
    tagged = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, ())
    return int(max([int(named[1]) if named else 8, *(tagged if isinstance(tagged, tuple) else (tagged,))]))


@contextmanager
def opened(path: Path, formats: tuple[str, ...] = FORMATS, content: bytes | None = None) -> Iterator[Image.Image]:
    """The file with its header checked, or `content` where somebody has read its bytes already. Raises ConfigError."""
    if content is None and (why := why_no_file(path)):
        raise ConfigError(why, where=path, remedy="restore it, or leave its pair out")
    try:
        with (
            path.open("rb") if content is None else io.BytesIO(content) as file,
            Image.open(file, formats=formats) as image,
        ):
            image.info[STORED_AS] = _stored_as(image)
            _check_header(image, file, path)
            yield image
    except UnidentifiedImageError as error:
        with path.open("rb") if content is None else io.BytesIO(content) as file:
            _refuse_bands(_bands_of(file), path)
        raise ConfigError(f"cannot be decoded: no {' or '.join(formats)} file", where=path, remedy=RESTORE) from error
    except FileNotFoundError as error:
        raise ConfigError("the file is not there", where=path, remedy="restore it, or leave its pair out") from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, struct.error, zlib.error) as error:
        raise ConfigError(f"cannot be decoded: {error}", where=path, remedy=RESTORE) from error


def _stored_as(image: Image.Image) -> str:
    """Pillow's name for the pixels in the file, which the mode alone does not tell: 4-bit grey is "L;4"."""
    tiles = getattr(image, "tile", [])
    arguments = tiles[0][3] if tiles else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return str(first or "")


def _check_header(image: Image.Image, file: IO[bytes], path: Path) -> None:
    if image.width * image.height > LIMIT_PIXELS:
        raise TooLargeError(
            f"more than {LIMIT_PIXELS} pixels ({image.width}x{image.height})",
            where=path,
            remedy="cut it into tiles; or the header is broken",
        )
    _refuse_bands(getattr(image, "tag_v2", {}).get(SAMPLES_PER_PIXEL, 1), path)
    if _is_cut(image, file):
        raise ConfigError("cannot be decoded: cut short, its end is not there", where=path, remedy=RESTORE)
    orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    if orientation in TURNING:
        raise TurnedError(
            f"EXIF orientation {orientation}: viewers turn this image, its mask would not line up",
            where=path,
            remedy="turn the pixels themselves and clear the tag, for example with `exiftran -ai` or `jpegtran`",
        )


def _refuse_bands(bands: int, path: Path) -> None:
    if bands > MOST_BANDS:
        raise TooManyBandsError(
            f"{bands} bands; an image has three, or four with transparency",
            where=path,
            remedy="export the three bands that the network is to see as RGB of 8 bits, and likewise for each file",
        )


def _bands_of(file: IO[bytes]) -> int:
    """Of a TIFF that Pillow has no name for; 1 for whatever is none."""
    if file.read(4) not in TIFF_SIGNATURES:
        return 1
    try:
        order, big, _, entries = _directory(file)
        width = 20 if big else 12
        for _, entry in zip(range(entries), iter(lambda: file.read(width), b""), strict=False):
            if struct.unpack_from(f"{order}H", entry)[0] == SAMPLES_PER_PIXEL:
                return int(struct.unpack_from(f"{order}H", entry, 12 if big else 8)[0])
    except (OSError, OverflowError, struct.error):
        pass  # no directory to read it from
    return 1


# --- cut files


def _is_cut(image: Image.Image, file: IO[bytes]) -> bool:
    """Whether the file ends before its own structure does: found without decoding, and before libtiff prints of it."""
    before, size = file.tell(), file.seek(0, io.SEEK_END)
    try:
        match image.format:
            case "PNG":
                return not _has_end(file, size)
            case "TIFF":
                return _directory_end(file) > size or _strips_end(image) > size
            case "JPEG" | "MPO":
                return not _has_picture_end(file, size)
            case _:
                return False
    finally:
        file.seek(before)


def _has_picture_end(file: IO[bytes], size: int) -> bool:
    """Whether the pixels of a JPEG have an end: a copy that was broken off goes on in zeros, which decode to grey.

    What a camera leaves behind the end, a second picture or a film, is its own affair.
    """
    file.seek(max(0, size - TAIL))
    if file.read().rstrip(b"\0").endswith(END_OF_IMAGE):
        return True
    file.seek(0)
    content = file.read()
    return content.find(END_OF_IMAGE, _scan_start(content)) >= 0


def _scan_start(content: bytes) -> int:
    """Where the pixels of a JPEG begin: a preview in its header has an end of its own."""
    at = 2
    while at + 4 <= len(content) and content[at] == END_OF_IMAGE[0] and content[at + 1] != SCAN:
        # Any number of 0xFF may stand before a marker.
        at += 1 if content[at + 1] == END_OF_IMAGE[0] else 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return at


def _has_end(file: IO[bytes], size: int) -> bool:
    """Whether the chunks of a PNG go on to a whole IEND; Pillow is content with the last row of pixels."""
    at = len(PNG_SIGNATURE)
    while at + CHUNK_FRAME <= size:
        file.seek(at)
        length, name = struct.unpack(">I4s", file.read(8))
        at += CHUNK_FRAME + length
        if name == b"IEND":
            return bool(at <= size)
    return False


def _directory_end(file: IO[bytes]) -> int:
    """Where the first directory of a TIFF ends; libtiff would tell of a cut one on standard error."""
    _, big, at, entries = _directory(file)
    return at + (16 + 20 * entries if big else 6 + 12 * entries)


def _directory(file: IO[bytes]) -> tuple[str, bool, int, int]:
    """(byte order, whether it is a BigTIFF, where the first directory begins, its entries); the first entry is next."""
    file.seek(0)
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = struct.unpack_from(f"{order}H", head, 2)[0] == BIG_TIFF
    (at,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", head, 8 if big else 4)
    file.seek(at)
    (entries,) = struct.unpack(f"{order}{'Q' if big else 'H'}", file.read(8 if big else 2))
    return order, big, int(at), int(entries)


def _strips_end(image: Image.Image) -> int:
    """Where the last strip or tile of a TIFF ends that libtiff decodes."""
    tags = {} if image.info.get("compression") == "raw" else getattr(image, "tag_v2", {})
    for offsets, counts in TIFF_PIECES:
        if offsets in tags and counts in tags:
            return max(int(offset + count) for offset, count in zip(tags[offsets], tags[counts], strict=False))
    return 0
