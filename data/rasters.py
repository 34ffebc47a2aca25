"""Decodes image and mask files, or says what is wrong with one. Knows nothing about classes, splits or caches.

Every decoder error becomes a ConfigError with the file's name: Pillow alone raises OSError, SyntaxError, ValueError or
struct.error depending on the format and on where the bytes are broken.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import ConfigError

FORMATS = ("PNG", "JPEG", "TIFF")
LIMIT_PIXELS = 1 << 28
"""16384 x 16384: three bytes each are 0.8 GB. More is a broken header, or an orthophoto that wants tiling."""
EXIF_ORIENTATION = 0x0112
AS_IDS = (
    "save the mask as 8-bit greyscale (mode L) whose pixel values are the class ids, 255 for no label; "
    "a palette's order can differ from file to file, so segwatch does not guess"
)

Image.MAX_IMAGE_PIXELS = LIMIT_PIXELS


class MaskFormatError(ConfigError):
    """A sound file whose pixels are no class ids: the whole data set wants converting, not this file leaving out."""


def check_image(path: Path) -> tuple[int, int]:
    """(height, width) of an image that can be decoded to its end: a header also stands before a cut file.

    A JPEG is decoded at an eighth of its size, which reads every byte at a third of the cost. Raises ConfigError.
    """
    with _opened(path) as image:
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
    with _opened(path) as image:
        height, width = scaled_size(image.height, image.width, scale)
        drafted = image.draft(None, (width, height)) if scale < 1 else None
        box = drafted[1] if drafted else (0, 0, *image.size)
        image.load()
        colour = _as_rgb(image, path)
        if colour.size != (width, height) or tuple(box) != (0, 0, width, height):
            colour = colour.resize((width, height), Image.Resampling.BICUBIC, box=box, reducing_gap=1.0)
        return np.asarray(colour)


def read_mask(path: Path) -> np.ndarray:
    """uint8 (H, W): the class ids as the file has them, at full size. Raises ConfigError, MaskFormatError."""
    with _opened(path) as image:
        if image.mode not in ("L", "I", "I;16", "I;16B", "I;16L"):
            raise _not_ids(image.mode, path)
        image.load()
        ids: np.ndarray = np.asarray(image)
    if ids.dtype != np.uint8 and not 0 <= ids.min() <= ids.max() <= 255:
        raise MaskFormatError(
            f"a mask of {image.mode} pixels with values from {ids.min()} to {ids.max()}; class ids end at 254",
            where=path,
            remedy=AS_IDS,
        )
    narrow: np.ndarray = ids.astype(np.uint8, copy=False)
    return narrow


def reduce_mask(ids: np.ndarray, height: int, width: int) -> np.ndarray:
    """Nearest neighbour at pixel centres: (H, W) -> (height, width). No id appears that was not there."""
    rows = _centres(ids.shape[0], height)
    columns = _centres(ids.shape[1], width)
    reduced: np.ndarray = ids[rows][:, columns]
    return reduced


def _centres(length: int, target: int) -> np.ndarray:
    # Whole numbers only: (2i + 1) * length / (2 * target), rounded down, never drifts with the length.
    return (2 * np.arange(target, dtype=np.int64) + 1) * length // (2 * target)


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


def _not_ids(mode: str, path: Path) -> MaskFormatError:
    pixels = {"1": "black and white", "P": "indices of its palette"}.get(mode, "colours")
    return MaskFormatError(f"mode {mode}: {pixels}, not class ids", where=path, remedy=AS_IDS)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path, formats=FORMATS) as image:
            _check_header(image, path)
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(path, str(error)) from error
    except FileNotFoundError as error:
        raise ConfigError("the file is not there", where=path, remedy="restore it, or leave its pair out") from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, struct.error, zlib.error) as error:
        raise ConfigError(
            f"cannot be decoded: {error}", where=path, remedy='restore the file, or set data.on_bad_file = "skip"'
        ) from error


def _check_header(image: Image.Image, path: Path) -> None:
    if image.width * image.height > LIMIT_PIXELS:
        raise _too_large(path, f"{image.width}x{image.height}")
    orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    if orientation != 1:
        raise ConfigError(
            f"EXIF orientation {orientation}: viewers turn this image, its mask would not line up",
            where=path,
            remedy="turn the pixels themselves and clear the tag, for example with `exiftran -ai` or `jpegtran`",
        )


def _too_large(path: Path, found: str) -> ConfigError:
    return ConfigError(
        f"more than {LIMIT_PIXELS} pixels ({found})", where=path, remedy="cut it into tiles; or the header is broken"
    )
