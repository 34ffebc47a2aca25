"""Decodes image files, or says what is wrong with one. Knows nothing about masks, classes, splits or caches.

Every decoder error becomes a ConfigError with the file's name: Pillow alone raises OSError, SyntaxError, ValueError or
struct.error depending on the format and on where the bytes are broken.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import ConfigError

FORMATS = ("PNG", "JPEG", "TIFF")
LIMIT_PIXELS = 1 << 28
"""16384 x 16384: three bytes each are 0.8 GB. More is a broken header, or an orthophoto that wants tiling."""
EXIF_ORIENTATION = 0x0112
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHUNK_FRAME = 12
"""Bytes of a PNG chunk beside its content: length, name, checksum."""
BIG_TIFF = 43
TIFF_PIECES = ((273, 279), (324, 325))
"""Tags: (offsets, byte counts) of strips, and of tiles."""
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
    if image.mode.startswith("I") or image.mode == "F":  # conversion would clip 16 bits to 255: a white image
        raise TooDeepError(
            f"an image of {image.mode} pixels, more than 8 bits per channel",
            where=path,
            remedy="convert it to 8 bits per channel, with one stretch for the whole data set",
        )


@contextmanager
def opened(path: Path, formats: tuple[str, ...] = FORMATS, content: bytes | None = None) -> Iterator[Image.Image]:
    """The file with its header checked, or `content` where somebody has read its bytes already. Raises ConfigError."""
    try:
        with (
            path.open("rb") if content is None else io.BytesIO(content) as file,
            Image.open(file, formats=formats) as image,
        ):
            image.info[STORED_AS] = _stored_as(image)
            _check_header(image, file, path)
            yield image
    except UnidentifiedImageError as error:
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
    if _is_cut(image, file):
        raise ConfigError("cannot be decoded: cut short, its end is not there", where=path, remedy=RESTORE)
    orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    if orientation != 1:
        raise TurnedError(
            f"EXIF orientation {orientation}: viewers turn this image, its mask would not line up",
            where=path,
            remedy="turn the pixels themselves and clear the tag, for example with `exiftran -ai` or `jpegtran`",
        )


# --- cut files


def _is_cut(image: Image.Image, file: IO[bytes]) -> bool:
    """Whether the file ends before its own structure does: found without decoding, and before libtiff prints of it."""
    if image.format not in {"PNG", "TIFF"}:
        return False
    before, size = file.tell(), file.seek(0, io.SEEK_END)
    try:
        if image.format == "PNG":
            return not _has_end(file, size)
        return _directory_end(file) > size or _strips_end(image) > size
    finally:
        file.seek(before)


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
    file.seek(0)
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = struct.unpack_from(f"{order}H", head, 2)[0] == BIG_TIFF
    (at,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", head, 8 if big else 4)
    file.seek(at)
    (entries,) = struct.unpack(f"{order}{'Q' if big else 'H'}", file.read(8 if big else 2))
    return int(at + (16 + 20 * entries if big else 6 + 12 * entries))


def _strips_end(image: Image.Image) -> int:
    """Where the last strip or tile of a TIFF ends that libtiff decodes."""
    tags = {} if image.info.get("compression") == "raw" else getattr(image, "tag_v2", {})
    for offsets, counts in TIFF_PIECES:
        if offsets in tags and counts in tags:
            return max(int(offset + count) for offset, count in zip(tags[offsets], tags[counts], strict=False))
    return 0
