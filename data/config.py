"""The `[data]` and `[augment]` tables of run.toml. Knows nothing about what the files hold: `audit` finds that out."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from ..section import Section

SPLITS = ("train", "val", "test")
LAST_ID = 65535
"""What 16 bits hold."""
NO_LABEL = 255
"""In masks of ids, 255 says that nobody has said what is there. It is no class."""
SMALLEST_CROP = 32
"""Pixels. Half of it would leave one pixel at the bottom of the network, and BatchNorm no spread to divide by."""
HEX_COLOUR = r"^#[0-9A-Fa-f]{6}$"

ClassId = Annotated[int, Field(ge=0, le=LAST_ID)]
Share = Annotated[float, Field(gt=0, lt=1)]
Jitter = Annotated[float, Field(ge=0, le=1)]
Zoom = Annotated[float, Field(ge=0.1, le=10)]


def _not_empty(path: Any) -> Any:
    """As it is. Raises ValueError for `""`, which would silently be the directory that paths are relative to."""
    if path == "":
        raise ValueError('an empty path; the directory itself is "."')
    return path


class SplitConfig(Section):
    """The files of one split: a directory of images and one of masks, or a text file that lists them."""

    images: Path | None = None
    """Directory of the images (jpg, png, tif) with its sub-directories, relative to `data.root`; a `*` stands for any
    directory name. A `list` chooses from it, or from `data.images`."""
    masks: Path | None = None
    """Directory of the masks: one per image, of the same sub-directory and stem, or with one of `data.mask_suffixes`.
    `data.masks` without it."""
    list: Path | None = None
    """Text file that names the images of this split, one a line: a stem, a file of `images`, or `IMAGE MASK` from
    `data.root`. Relative to `data.root`."""

    @field_validator("images", "masks", "list", mode="before")
    @classmethod
    def _some_path(cls, path: Any) -> Any:
        return _not_empty(path)


class FractionsConfig(Section):
    """Shares of the images that become val and test; train is the rest. Sorted, seeded, and frozen with the run."""

    val: Share = 0.1
    """Share of the images."""
    test: Share = 0.1
    """Share of the images."""
    by: Literal["scene", "image"] = "scene"
    """`scene` keeps the images of one scene together (see `data.scene_pattern`); `image` draws each for itself."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Another number draws another split."""

    @model_validator(mode="after")
    def _something_to_train_on(self) -> Self:
        if self.val + self.test >= 1:
            raise ValueError(f"val {self.val:g} and test {self.test:g} leave nothing to train on")
        return self


class DataConfig(Section):
    root: Path = Path()
    """Where the data lies; relative to run.toml."""
    classes: Path
    """The class table: .toml, .json, or a .py file with a dictionary (never executed). Relative to `root`."""
    use: Literal["named-and-present"] | list[ClassId] = "named-and-present"
    """The ids to train and score. Every other id becomes the ignore index, never class 0."""
    merge: dict[ClassId, list[ClassId]] = {}
    """Ids that are joined: `{ 1 = [1, 17] }` trains the pixels of 1 and of 17 as class 1."""
    ignore: list[ClassId | Annotated[str, Field(pattern=HEX_COLOUR)]] = []
    """Ids, or colours such as "#000000", that are left out on purpose: they neither train nor count, and no warning
    speaks of them."""
    mask_format: Literal["auto", "ids", "colours", "binary"] = "auto"
    """How mask pixels are read: as ids, as colours of the class table, or 0/255 as the ids 0 and 1. `auto` recognises
    it and says so, and stops where two readings are possible."""
    images: Path | None = None
    """Directory of all images, for `split` or for lists; a `*` stands for any directory name."""
    masks: Path | None = None
    """Directory of all masks, as `images`."""
    mask_suffixes: Annotated[list[str], Field(min_length=1)] = ["", "_mask", "_label"]
    """What a mask's stem may have behind its image's."""
    scene_pattern: str | None = None
    """Regular expression found in an image's path; its first group (or the whole match) names the scene it belongs to.
    Without it: its directory below `images`, else its name without the number at the end, else, where names are only
    numbers, the run of time stamps without a gap of ten steps. `".+"` says that every image stands alone."""
    scale: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Side length after / before: images are reduced by area (then bicubic), masks by nearest neighbour."""
    on_bad_file: Literal["error", "skip"] = "error"
    """What to do with files that cannot be used: stop and list them all, or leave them out and count them."""
    split: FractionsConfig | None = None
    """Draw the splits, as `{ val = 0.1, test = 0.1, by = "scene" }`, instead of naming them below."""
    train: SplitConfig | None = None
    val: SplitConfig | None = None
    test: SplitConfig | None = None

    @model_validator(mode="after")
    def _one_way_to_split(self, info: ValidationInfo) -> Self:
        needed = (info.context or {}).get("needed_splits", SPLITS)
        mistakes = split_mistakes(self.model_dump(exclude_none=True), needed)
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self

    @field_validator("root", "classes", "images", "masks", mode="before")
    @classmethod
    def _some_path(cls, path: Any) -> Any:
        return _not_empty(path)

    @field_validator("scene_pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"no regular expression: {error} (it is {pattern!r})") from error
        return pattern

    def table(self, name: str) -> SplitConfig | None:
        """The table `[data.<name>]`, where name is one of SPLITS; `None` where `split` draws it, or nobody names it."""
        assert name in SPLITS
        found: SplitConfig | None = getattr(self, name)
        return found


def split_mistakes(data: Mapping[str, Any], needed: Collection[str] = SPLITS) -> list[str]:
    """What is wrong with the way in which `[data]` names its splits; `data` is that table as run.toml has it.

    `needed` are the splits that it must name: scoring asks for less than training.
    """
    named = [name for name in SPLITS if name in data]
    if "split" in data:
        twice = [f"split draws the splits, and [data.{name}] names one: keep one of the two" for name in named[:1]]
        lacking = "images" not in data or "masks" not in data
        return [*twice, *(["split needs data.images and data.masks: the directories to draw from"] if lacking else [])]
    mistakes: list[str] = []
    missing = ", ".join(f"[data.{name}]" for name in needed if name not in named)
    if missing:
        mistakes.append(f"{missing} missing; or draw the splits: split = {{ val = 0.1, test = 0.1 }}")
    for name in named:
        table = data[name]
        if not isinstance(table, Mapping) or "list" in table:
            continue
        if "images" not in table:  # all of data.images in one split would leave nothing to the others
            mistakes.append(f"[data.{name}] names no images: a directory `images`, or a `list`")
        if "masks" not in table and "masks" not in data:
            mistakes.append(f"[data.{name}] has no masks: a directory, here or as data.masks")
    return mistakes


class AugmentConfig(Section):
    """Random changes of the training images, mask and image alike. All off by default. Val and test are never changed.

    Drawn from (seed, epoch, image), so that a resumed run repeats them.
    """

    flip: bool = False
    """Mirror left-right and top-bottom, each half of the time. Safe for images from above."""
    turn: bool = False
    """Turn by 0, 90, 180 or 270 degrees."""
    scale: tuple[Zoom, Zoom] = (1.0, 1.0)
    """Zoom by a factor between these two, half as likely as double; what is too large is cut out at random, what is
    missing is padded (ignored)."""
    crop: Annotated[int, Field(ge=0)] = 0
    """Cut out a square of so many pixels at random, after scaling; 0 keeps the image's own size."""
    brightness: Jitter = 0.0
    """Factor between 1 - this and 1 + this."""
    contrast: Jitter = 0.0
    """Factor between 1 - this and 1 + this, around the image's mean grey."""
    saturation: Jitter = 0.0
    """Factor between 1 - this and 1 + this, around each pixel's grey."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Turn of the colour circle, at most this share of it either way."""

    @field_validator("scale")
    @classmethod
    def _low_before_high(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if scale[0] > scale[1]:
            raise ValueError(f"from {scale[0]:g} to {scale[1]:g}: the smaller one comes first")
        return scale

    @field_validator("crop")
    @classmethod
    def _crop_of_some_size(cls, crop: int) -> int:
        if 0 < crop < SMALLEST_CROP:
            raise ValueError(f"{crop} pixels: the network halves them four times, so {SMALLEST_CROP} is the least")
        return crop
