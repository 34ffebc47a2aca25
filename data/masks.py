"""Decodes mask files of every format that occurs, or says what is wrong with one. Knows nothing about class tables.

What a pixel means for the whole data set, its `Reading`, is settled in `formats` and handed in. Four steps lead to
training indices: `read_mask` decodes, `reduce_mask` scales, `mask_values` makes one number of each pixel, and
`ResolvedData.lookup` turns that into the index.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import ConfigError
from .config import LAST_ID, NO_LABEL
from .directories import why_no_file
from .rasters import LIMIT_PIXELS, PIXELS_IN_WORDS, STORED_AS, TooLargeError, opened
from .resolved import TRANSPARENT, Reading, pack

FORMATS = ("PNG", "TIFF", "BMP", "JPEG")
"""JPEG is opened only to be refused by its name."""
COLOURS_KEPT = 64
"""Of a file with more than MANY_COLOURS: the most frequent ones."""
MANY_COLOURS = 4096
"""No class table is that long: a file with more colours was smoothed, or is no mask."""
WIDEST_BYTE = 255
STEPS_OF_GREY = {"L;2": 85, "L;4": 17}
"""Pillow spreads 2-bit and 4-bit grey over 0 to 255, as viewers do: an id 3 of 2 bits arrives as 255."""
DEPTHS = {"L;2": 2, "L;4": 4, "L": 8, "1": 1}
"""Bits of a grey value, where they are not 16."""
AS_IDS = "save the mask as PNG: one value per pixel, the class id, 255 for no label; or the colours of the class table"
LOSSLESS = "export the masks again as PNG, from the source: what JPEG did to the edges cannot be undone"


class MaskFormatError(ConfigError):
    """A sound file whose pixels mean nothing as they are: the data set wants converting, not this file leaving out."""


class Kind(StrEnum):
    """What a mask file holds, whatever it may mean."""

    IDS = "8-bit grey"
    WIDE_IDS = "16-bit grey"
    GREY_ALPHA = "grey with transparency"
    BITS = "1-bit"
    PALETTE = "palette"
    RGB = "RGB"
    RGBA = "RGBA"
    ARRAY_IDS = "npy of numbers"
    ARRAY_COLOURS = "npy of colours"


IN_COLOUR = frozenset({Kind.RGB, Kind.RGBA, Kind.ARRAY_COLOURS})


@dataclass(frozen=True)
class MaskFacts:
    """What one mask file holds, before anybody says what it means."""

    kind: Kind
    size: tuple[int, int]
    """(height, width)."""
    values: dict[int, int] = field(default_factory=dict)
    """Pixels by value: grey value, number, or index into the palette. Empty for colours."""
    clear: int = 0
    """Transparent pixels of grey, which `values` leaves out."""
    step: int = 1
    """From one grey to the next, as a viewer shows them: 85 of 2 bits, 17 of 4. `values` are counted without it."""
    colours: dict[int, int] = field(default_factory=dict)
    """Pixels by colour, 0xRRGGBB or TRANSPARENT. Empty where there is no colour but grey."""
    palette: dict[int, int] = field(default_factory=dict)
    """Index -> colour, of the whole palette, whether an index occurs or not."""
    distinct: int = 0
    """How many colours there are; `colours` holds fewer when that is more than MANY_COLOURS."""

    @property
    def pixels(self) -> int:
        return self.size[0] * self.size[1]


# --- pixels


def read_mask(path: Path, reading: Reading = Reading.IDS, *, reduced_to: tuple[int, int] | None = None) -> np.ndarray:
    """The whole mask at full size: `mask_values` of it are what `ResolvedData.lookup` takes. Raises ConfigError.

    IDS and BINARY: uint8 or uint16 (H, W); a transparent pixel is 255, no label. COLOURS: uint8 (H, W, 3 or 4).
    With `reduced_to`, a (height, width), it is `reduce_mask` of that. Raises MaskFormatError for a file that cannot be
    read this way.
    """
    if path.suffix.lower() == ".npy":
        mask = _array_as(_load_array(path), reading, path)
    else:
        with _opened_mask(path) as image:
            mask = _pixels(_reduced_early(image, reading, reduced_to), reading, path)
    return mask if reduced_to is None or mask.shape[:2] == reduced_to else reduce_mask(mask, *reduced_to)


def _pixels(image: Image.Image, reading: Reading, path: Path) -> np.ndarray:
    match reading:
        case Reading.COLOURS:
            return _as_colours(image, path)
        case Reading.BINARY:
            return _binary(_as_colours(image, path) if image.mode == "P" else _as_is(image, path))
        case Reading.IDS if image.mode == "P":
            return _seen_indices(image, path)
        case Reading.IDS:
            return _one_channel(_as_is(image, path), path)


def _reduced_early(image: Image.Image, reading: Reading, size: tuple[int, int] | None) -> Image.Image:
    """The image with the pixels that `reduce_mask` would take, where Pillow takes just these, and a byte each.

    Nothing then copies the millions of others into an array.
    """
    plain = image.mode == "P" or (image.mode == "L" and "transparency" not in image.info)
    if size is None or reading is not Reading.IDS or not plain or size == (image.height, image.width):
        return image
    if not (_same_in_pillow(image.height, size[0]) and _same_in_pillow(image.width, size[1])):
        return image
    return image.resize((size[1], size[0]), Image.Resampling.NEAREST)


def _same_in_pillow(length: int, target: int) -> bool:
    """Whether the sums of a float by which Pillow finds its centres end in the same pixels as `_centres`.

    They may only differ where a centre lies on the edge of two pixels, (2i + 1) * length = 2 * target * n; and there
    they do not if nothing is rounded: with a step of whole halves.
    """
    if 2 * length % target == 0:
        return True
    edges = (2 * np.arange(target, dtype=np.int64) + 1) * length % (2 * target)
    return bool(edges.all())


def reduce_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Nearest neighbour at pixel centres: (H, W, ...) -> (height, width, ...). No value appears that was not there."""
    rows = _centres(mask.shape[0], height)
    columns = _centres(mask.shape[1], width)
    reduced: np.ndarray = mask[rows][:, columns]
    return reduced


def mask_values(mask: np.ndarray) -> np.ndarray:
    """(H, W) of what `ResolvedData.lookup` takes: ids as they are, colours as uint32 0xRRGGBB or TRANSPARENT."""
    if mask.ndim == 2:
        return mask
    values = mask[..., 0].astype(np.uint32)
    for channel in (1, 2):
        values <<= 8
        values |= mask[..., channel]
    if mask.shape[2] == 4:
        values[mask[..., 3] == 0] = TRANSPARENT
    return values


def _centres(length: int, target: int) -> np.ndarray:
    # Whole numbers only: (2i + 1) * length / (2 * target), rounded down, never drifts with the length.
    return (2 * np.arange(target, dtype=np.int64) + 1) * length // (2 * target)


@contextmanager
def _opened_mask(path: Path, content: bytes | None = None) -> Iterator[Image.Image]:
    """A mask in a mode that says what its pixels are; nothing is decoded yet."""
    with opened(path, FORMATS, content) as image:
        if image.format in {"JPEG", "MPO"} or image.info.get("compression") == "jpeg":
            raise MaskFormatError("a JPEG mask: JPEG is lossy and invents values at edges", where=path, remedy=LOSSLESS)
        if image.mode not in {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "I", "I;16", "I;16B", "I;16L"}:
            held = PIXELS_IN_WORDS.get(image.mode, image.mode)
            raise MaskFormatError(f"its pixels are {held}: neither ids nor colours", where=path, remedy=AS_IDS)
        stored = image.info[STORED_AS]
        if ";16" in stored and not image.mode.startswith("I"):  # Pillow would drop the lower half without a word
            raise MaskFormatError("colours of 16 bits per channel", where=path, remedy=AS_IDS)
        if image.format == "TIFF" and image.mode in {"1", "L"} and stored.rstrip("R").endswith("I"):
            raise MaskFormatError(
                "a TIFF in which 0 is white: ids would come out turned round", where=path, remedy=AS_IDS
            )
        _refuse_pages(image, path)
        yield image


def _refuse_pages(image: Image.Image, path: Path) -> None:
    """Several pages of one size are several masks; smaller ones are the overviews of a large picture."""
    if getattr(image, "n_frames", 1) == 1:
        return
    size = image.size
    image.seek(1)
    twin = image.size == size
    image.seek(0)
    if twin:
        raise MaskFormatError("several pages: nobody can say which one is the mask", where=path, remedy=AS_IDS)


def _plain(image: Image.Image) -> Image.Image:
    """Decoded to its end, with transparency as a channel of its own; a palette stays one."""
    if image.mode == "PA":
        return image.convert("RGBA")
    if "transparency" in image.info and image.mode == "RGB":
        return image.convert("RGBA")
    image.load()
    return image


def _as_is(image: Image.Image, path: Path) -> np.ndarray:
    """The numbers of the file: uint8 or uint16 (H, W), or (H, W, 2) where grey is transparent; uint8 (H, W, 3 or 4);
    indices of a palette.
    """
    clear, step = _clear_grey(image), _step_of(image)
    pixels: np.ndarray = np.asarray(_plain(image))
    if step > 1:
        pixels = pixels // np.uint8(step)
    if pixels.dtype != np.uint8:
        pixels = _narrow(pixels, path)
    return pixels if clear is None else np.stack([pixels, pixels != clear], axis=2)


def _step_of(image: Image.Image) -> int:
    return STEPS_OF_GREY.get(_stored(image), 1)


def _stored(image: Image.Image) -> str:
    return str(image.info[STORED_AS]).rstrip("R")


def _clear_grey(image: Image.Image) -> int | None:
    """The grey value that a PNG declares transparent, as it stands in the file: Pillow compares it with spread ones."""
    clear = image.info.get("transparency")
    if not isinstance(clear, int) or image.mode == "P":
        return None
    return clear & (1 << DEPTHS.get(_stored(image), 16)) - 1


def _seen_indices(image: Image.Image, path: Path) -> np.ndarray:
    """uint8 (H, W): indices of a palette; those of transparent entries are no label."""
    indices = _as_is(image, path)
    clear = [index for index, colour in _palette_of(image).items() if colour == TRANSPARENT]
    if not clear:
        return indices
    shown = np.arange(256, dtype=np.uint8)
    shown[clear] = NO_LABEL
    seen: np.ndarray = shown[indices]
    return seen


def _narrow(pixels: np.ndarray, path: Path) -> np.ndarray:
    """uint8 or uint16 of whole numbers of any width."""
    if pixels.size and not 0 <= pixels.min() <= pixels.max() <= LAST_ID:
        raise MaskFormatError(
            f"values from {pixels.min()} to {pixels.max()}; ids are 0 to {LAST_ID}", where=path, remedy=AS_IDS
        )
    narrow = np.dtype(np.uint8) if pixels.dtype.itemsize == 1 else np.dtype(np.uint16)
    found: np.ndarray = pixels.astype(narrow, copy=False)
    return found


def _as_colours(image: Image.Image, path: Path) -> np.ndarray:
    """uint8 (H, W, 3 or 4); grey counts as a colour."""
    if image.mode.startswith("I"):
        raise MaskFormatError("numbers of 16 bits or more, no colours", where=path, remedy='set mask_format = "ids"')
    if _clear_grey(image) is not None:
        seen = _as_is(image, path)[..., 1:]
        return np.concatenate([np.asarray(image.convert("L"))[..., None]] * 3 + [seen], axis=2)
    clear = image.mode in {"LA", "PA", "RGBA"} or "transparency" in image.info
    wanted = "RGBA" if clear else "RGB"
    return np.asarray(image if image.mode == wanted else image.convert(wanted))


def _binary(mask: np.ndarray) -> np.ndarray:
    """uint8 (H, W): 1 for whatever is not black, 255 for transparent pixels."""
    held: np.ndarray = mask != 0
    if held.ndim == 2:
        return held.astype(np.uint8, copy=False)
    channels = mask.shape[2] - (mask.shape[2] in (2, 4))
    bright: np.ndarray = np.any(held[..., :channels], axis=2)
    return _without_label(bright.astype(np.uint8, copy=False), mask)


def _one_channel(mask: np.ndarray, path: Path) -> np.ndarray:
    """(H, W) of a mask that says each value once, or three times over."""
    if mask.ndim == 2:
        return mask
    if mask.shape[2] > 2 and not (
        np.array_equal(mask[..., 0], mask[..., 1]) and np.array_equal(mask[..., 0], mask[..., 2])
    ):
        raise MaskFormatError(
            "holds colours, no ids", where=path, remedy='set mask_format = "colours", with a class table of colours'
        )
    return _without_label(mask[..., 0].copy(), mask)


def _without_label(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    if mask.shape[2] in (2, 4):
        values[mask[..., -1] == 0] = NO_LABEL
    return values


# --- .npy


def _load_array(path: Path) -> np.ndarray:
    """The array of an .npy file, never unpickled, refused by its header before its pixels are read."""
    if why := why_no_file(path):
        raise ConfigError(why, where=path, remedy="restore it, or leave its pair out")
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(mapped, np.memmap):
            raise ValueError("an archive of arrays")  # noqa: TRY004 - becomes a ConfigError below, as all that is no array
        _check_array(mapped, path)
        return np.array(mapped)
    except FileNotFoundError as error:
        raise ConfigError("the file is not there", where=path, remedy="restore it, or leave its pair out") from error
    except (OSError, ValueError, OverflowError, EOFError) as error:
        raise ConfigError(
            f"no array that can be read: {_why_no_array(error)}",
            where=path,
            remedy="write it with numpy.save, as whole numbers",
        ) from error


def _why_no_array(error: Exception) -> str:
    """Without numpy's advice: to allow pickles would run whatever the file says."""
    if "Object arrays" in str(error):
        return "it holds objects, no numbers"
    return "its header is cut short or is none of numpy's" if "pickle" in str(error) else str(error)


def _check_array(array: np.ndarray, path: Path) -> None:
    shape = "x".join(map(str, array.shape))
    ids = array.ndim == 2 and array.dtype.kind in "biu"
    colours = array.ndim == 3 and array.shape[2] in (3, 4) and array.dtype == np.uint8
    if not ids and not colours:
        raise MaskFormatError(
            f"an array of {array.dtype}, {shape}",
            where=path,
            remedy="save (height, width) whole numbers, or (height, width, 3 or 4) colours of uint8",
        )
    if array.shape[0] * array.shape[1] > LIMIT_PIXELS:
        raise TooLargeError(f"more than {LIMIT_PIXELS} pixels ({shape})", where=path, remedy="cut it into tiles")
    if not array.size:
        raise ConfigError("an array without a pixel", where=path, remedy="write the mask again")


def _array_as(array: np.ndarray, reading: Reading, path: Path) -> np.ndarray:
    mask = _narrow(array, path) if array.dtype != np.uint8 else array
    match reading:
        case Reading.COLOURS:
            if mask.ndim == 3:
                return mask
            if mask.max() > WIDEST_BYTE:
                raise MaskFormatError("numbers above 255, no colours", where=path, remedy='set mask_format = "ids"')
            return np.repeat(mask.astype(np.uint8, copy=False)[..., None], 3, axis=2)
        case Reading.BINARY:
            return _binary(mask)
        case Reading.IDS:
            return _one_channel(mask, path)


# --- facts


def describe_mask(path: Path, keep: Collection[int] = (), content: bytes | None = None) -> MaskFacts:
    """What the file holds, decoded to its end. Raises ConfigError.

    Of a file with very many colours the most frequent ones are told, and those in `keep`. `content` are the file's
    bytes where they have been read already; an .npy file is looked at where it lies.
    """
    if path.suffix.lower() == ".npy":
        array = _load_array(path)
        if array.ndim == 3:
            return _facts_of_colours(Kind.ARRAY_COLOURS, _size(array), _count_many(array), keep)
        ids = array if array.dtype == np.uint8 else _narrow(array, path)
        return MaskFacts(Kind.ARRAY_IDS, _size(array), values=_counted(ids))
    with _opened_mask(path, content) as image:
        return _facts_of(image, path, keep)


def _facts_of(image: Image.Image, path: Path, keep: Collection[int]) -> MaskFacts:
    """Counted by Pillow where it can: several times as fast as numpy, and other threads run meanwhile."""
    size = image.height, image.width
    clear, step = _clear_grey(image) is not None, _step_of(image)
    match image.mode:
        case "P":
            return _facts_of_palette(image)
        case "1":
            if clear:
                return _facts_of_grey_alpha(_as_is(image, path), Kind.BITS)
            image.load()
            return MaskFacts(Kind.BITS, size, values={int(value > 0): n for value, n in _occurring(image.histogram())})
        case "L" if not clear:
            image.load()
            values = {value // step: n for value, n in _occurring(image.histogram())}
            return MaskFacts(Kind.IDS, size, values=values, step=step)
        case "L" | "LA":
            return _facts_of_grey_alpha(_as_is(image, path), Kind.GREY_ALPHA, step)
        case "RGB" | "RGBA" | "PA":
            plain = _plain(image)
            few = plain.getcolors(MANY_COLOURS)
            counts = _count_many(np.asarray(plain)) if few is None else _merged(few)
            return _facts_of_colours(Kind.RGB if plain.mode == "RGB" else Kind.RGBA, size, counts, keep)
        case _ if clear:
            return _facts_of_grey_alpha(_as_is(image, path), Kind.WIDE_IDS)
        case _:
            return MaskFacts(Kind.WIDE_IDS, size, values=_counted(_as_is(image, path)))


def _facts_of_grey_alpha(pixels: np.ndarray, kind: Kind, step: int = 1) -> MaskFacts:
    seen = pixels[pixels[..., 1] != 0][:, :1]
    clear = pixels.shape[0] * pixels.shape[1] - len(seen)
    return MaskFacts(kind, _size(pixels), values=_counted(seen) if len(seen) else {}, clear=clear, step=step)


def _occurring(histogram: list[int]) -> list[tuple[int, int]]:
    return [(value, count) for value, count in enumerate(histogram) if count]


def _counted(values: np.ndarray) -> dict[int, int]:
    """Pixels by value, of uint8 or uint16. Pillow counts bytes several times as fast as numpy counts anything."""
    if values.dtype == np.uint8 or values.max() <= WIDEST_BYTE:
        values = values.astype(np.uint8, copy=False)
        return dict(_occurring(Image.fromarray(values).histogram()))
    found = np.bincount(values.ravel())
    return {int(value): int(found[value]) for value in np.flatnonzero(found)}


def _facts_of_palette(image: Image.Image) -> MaskFacts:
    image.load()
    counts = dict(_occurring(image.histogram()))
    palette = _palette_of(image)
    by_colour: dict[int, int] = {}
    for index, count in counts.items():
        by_colour[palette[index]] = by_colour.get(palette[index], 0) + count
    return MaskFacts(
        Kind.PALETTE,
        (image.height, image.width),
        values=counts,
        colours=by_colour,
        palette=palette,
        distinct=len(by_colour),
    )


def _palette_of(image: Image.Image) -> dict[int, int]:
    """Index -> colour, as `_as_colours` would show it: all indices are painted once and converted."""
    strip = Image.frombytes("P", (256, 1), bytes(range(256)))
    palette = image.palette
    assert palette is not None
    strip.putpalette(palette.tobytes(), palette.mode)
    strip.info = dict(image.info)
    values = mask_values(_as_colours(strip, Path()))
    return dict(enumerate(values[0].tolist()))


def _facts_of_colours(kind: Kind, size: tuple[int, int], counts: dict[int, int], keep: Collection[int]) -> MaskFacts:
    distinct = len(counts)
    if distinct > MANY_COLOURS:
        frequent = sorted(counts, key=lambda colour: (-counts[colour], colour))[:COLOURS_KEPT]
        counts = {colour: counts[colour] for colour in {*frequent, *(set(keep) & counts.keys())}}
    return MaskFacts(kind, size, colours=counts, distinct=distinct)


def _merged(counts: Iterable[tuple[int, Any]]) -> dict[int, int]:
    """Pixels by colour of what Pillow counted: (pixels, (red, green, blue) or (red, green, blue, alpha))."""
    by_colour: dict[int, int] = {}
    for pixels, (red, green, blue, *alpha) in counts:
        colour = TRANSPARENT if alpha == [0] else pack((red, green, blue))
        by_colour[colour] = by_colour.get(colour, 0) + pixels
    return by_colour


def _count_many(pixels: np.ndarray) -> dict[int, int]:
    """Pixels by colour, however many colours there are, of uint8 (H, W, 3 or 4)."""
    values = mask_values(pixels).ravel()
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))  # of runs: far fewer than pixels
    found, run = np.unique(values[starts], return_inverse=True)
    counts = np.bincount(run, weights=np.diff(np.append(starts, values.size))).astype(np.int64)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _size(pixels: np.ndarray) -> tuple[int, int]:
    return int(pixels.shape[0]), int(pixels.shape[1])
