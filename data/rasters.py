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

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import ConfigError

FORMATS = ("PNG", "JPEG", "TIFF")
LIMIT_PIXELS = 1 << 28
"""16384 x 16384: three bytes each are 0.8 GB. More is a broken header, or an orthophoto that wants tiling."""
EXIF_ORIENTATION = 0x0112
RESTORE = 'restore the file, or set data.on_bad_file = "skip"'
STORED_AS = "segwatch: stored as"
"""Key of `Image.info`. Asked for at once: looking for EXIF data decodes a PNG, and Pillow forgets it then."""

Image.MAX_IMAGE_PIXELS = LIMIT_PIXELS


class TurnedError(ConfigError):
    """An image that viewers turn by its EXIF tag, and decoders do not."""


class TooLargeError(ConfigError):
    """More pixels than any file of a data set should have."""


def check_image(path: Path, content: bytes | None = None) -> tuple[int, int]:
    """(height, width) of an image that can be decoded to its end: a header also stands before a cut file.

    A JPEG is decoded at an eighth of its size, which reads every byte at a third of the cost. `content` are the file's
    bytes where they have been read already. Raises ConfigError; TurnedError and TooLargeError are such.
    """
    with opened(path, content=content) as image:
        size = image.height, image.width
        image.draft(None, (image.width // 8, image.height // 8))
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
        raise ConfigError(
            f"an image of {image.mode} pixels, more than 8 bits per channel",
            where=path,
            remedy="convert it to 8 bits per channel, with one stretch for the whole data set",
        )


@contextmanager
def opened(path: Path, formats: tuple[str, ...] = FORMATS, content: bytes | None = None) -> Iterator[Image.Image]:
    """The file with its header checked, or `content` where somebody has read its bytes already. Raises ConfigError."""
    try:
        with Image.open(path if content is None else io.BytesIO(content), formats=formats) as image:
            image.info[STORED_AS] = _stored_as(image)
            _check_header(image, path)
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(path, str(error)) from error
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


def _check_header(image: Image.Image, path: Path) -> None:
    if image.width * image.height > LIMIT_PIXELS:
        raise _too_large(path, f"{image.width}x{image.height}")
    orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    if orientation != 1:
        raise TurnedError(
            f"EXIF orientation {orientation}: viewers turn this image, its mask would not line up",
            where=path,
            remedy="turn the pixels themselves and clear the tag, for example with `exiftran -ai` or `jpegtran`",
        )


def _too_large(path: Path, found: str) -> TooLargeError:
    return TooLargeError(
        f"more than {LIMIT_PIXELS} pixels ({found})", where=path, remedy="cut it into tiles; or the header is broken"
    )
