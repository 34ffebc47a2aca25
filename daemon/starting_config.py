"""The run.toml that `segwatch init` writes: careful defaults, each with its reason. PURE: what was found in, text out.

Knows nothing about how a folder is searched or what its masks hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import tomli_w

from ..data.config import SPLITS
from ..data.layouts import Layout
from ..data.scan import SMALLEST_SIDE

FEW_IMAGES = 30
"""Below, a tenth is too few to score on."""
SCALES = ((1600, 0.25), (900, 0.5), (0, 1.0))
"""From so many pixels of the longer side on."""
ROOM_ABOVE_SMALLEST = 2
"""Times the least side that an image must have after scaling."""


@dataclass(frozen=True)
class Start:
    """Everything that was found out, and the choices that follow from it."""

    layout: Layout
    root: str
    """Of the data, relative to run.toml."""
    classes: str
    """The class table, relative to the root."""
    table_remark: str
    """Where it comes from, in a few words."""
    scale: float
    largest: tuple[int, int]
    """(height, width) of the largest image that was looked at, before scaling."""
    by: str = "scene"
    mask_format: str = "auto"
    skip: int = 0
    """Files that cannot be used and are left out."""
    trained: Sequence[str] = field(default_factory=tuple)
    """The classes in words: `0 water`."""

    def data(self) -> dict[str, Any]:
        """The `[data]` table."""
        table: dict[str, Any] = {"root": self.root, "classes": self.classes, "scale": self.scale}
        if self.mask_format != "auto":
            table["mask_format"] = self.mask_format
        if self.skip:
            table["on_bad_file"] = "skip"
        if self.layout.mask_suffixes:
            table["mask_suffixes"] = list(self.layout.mask_suffixes)
        if self.layout.everything is not None:
            images, masks = self.layout.everything
            share = 0.1 if self.layout.total >= FEW_IMAGES else 0.2
            split = {"val": share, "test": share, "by": self.by, "seed": 0}
            return {**table, "images": str(images), "masks": str(masks), "split": split}
        return {**table, **{name: _places(self.layout.splits, name) for name in SPLITS}}


def lacking_split(layout: Layout) -> str | None:
    """Of val and test, the one that the folder has not, where it has splits of its own."""
    return next((name for name in SPLITS if layout.splits and name not in layout.splits), None)


def fitting_scale(sizes: Sequence[tuple[int, int]]) -> float:
    """For images of these (height, width): the long side comes to 400 to 900 pixels, and none becomes too small."""
    longest = median(max(size) for size in sizes)
    scale = next(scale for least, scale in SCALES if longest >= least)
    smallest = min(min(size) for size in sizes)
    while scale < 1 and smallest * scale < ROOM_ABOVE_SMALLEST * SMALLEST_SIDE:
        scale *= 2
    return scale


def run_toml(start: Start) -> str:
    """Commented TOML; it says what was found and why each setting is what it is."""
    data = start.data()
    lines = [
        "# Written by `segwatch init`. Paths are relative to this file (root) and to root (the others).",
        "# Every setting there is: docs/configuration.md",
        "",
        "[data]",
        _line("root", data["root"]),
        _line("classes", data["classes"], start.table_remark),
        'use = "named-and-present"              # of the table: ' + ", ".join(start.trained)
        if start.trained
        else 'use = "named-and-present"',
        _line("scale", data["scale"], _scale_remark(start)),
        *_choices(data, start),
        *_where(data, start),
        "",
        "[trainer]",
        "epochs = 100                           # may be raised later: the run goes on",
        "batch_size = 1                         # `segwatch doctor` says what fits; accumulate = 4 does for more",
        "lr = 5e-5                              # 1e-4 and more is a known road to NaN at batch 1",
        'optimizer = "adamw"',
        'amp = "off"                            # fp16 overflows at 65504; once a run is healthy, try "bf16"',
        "clip_grad_norm = 1.0",
        "",
        "# Only to see it all once, in a minute and on any machine? epochs = 3 and half the scale or less above, and:",
        "# [model]",
        "# base_channels = 8                    # 64 is the UNet of the papers, with 31 million parameters",
        "",
        "# Rare classes in the audit? Then:",
        "# [loss]",
        '# class_weights = "median-frequency"',
        "",
        "# [augment]",
        "# flip = true                          # safe for images from above",
        "# turn = true",
        "",
        "# [alerts]",
        '# notify = ["env:SLACK_URL"]           # an apprise address in that environment variable; never the address',
        "",
    ]
    return "\n".join(lines)


def _choices(data: Mapping[str, Any], start: Start) -> list[str]:
    lines = []
    if "mask_format" in data:
        lines.append(_line("mask_format", data["mask_format"], "0 is id 0, any other value is id 1"))
    if "mask_suffixes" in data:
        lines.append(_line("mask_suffixes", data["mask_suffixes"]))
    if "on_bad_file" in data:
        lines.append(_line("on_bad_file", "skip", f"{start.skip} images cannot be used; every report counts them"))
    return lines


def _where(data: Mapping[str, Any], start: Start) -> list[str]:
    if "split" in data:
        split = data["split"]
        drawn = f'{{ val = {split["val"]}, test = {split["test"]}, by = "{split["by"]}", seed = 0 }}'
        reason = (
            "# Drawn whole scenes at a time: neighbouring frames in train and in test would flatter every score."
            if split["by"] == "scene"
            else "# The names tell no scenes apart, so each image is drawn for itself; frames of one flight then\n"
            "# flatter the scores. Where you know better: scene_pattern, or directories for train, val and test."
        )
        return [_line("images", data["images"]), _line("masks", data["masks"]), reason, f"split = {drawn}"]
    lines: list[str] = []
    for name in SPLITS:
        lines += ["", *_lacking(name, start.layout), f"[data.{name}]"]
        lines += [_line(key, value) for key, value in data[name].items()]
    return lines


def _lacking(name: str, layout: Layout) -> list[str]:
    if name != lacking_split(layout):
        return []
    other = "val" if name == "test" else "test"
    return [
        f"# There is no {name} of its own: {other} serves as both. The best epoch is then chosen on the images",
        "# that it is scored on, which flatters it a little. To publish a figure, set images of their own apart.",
    ]


def _places(splits: Mapping[str, tuple[Path, Path]], name: str) -> dict[str, str]:
    other = {"val": "test", "test": "val"}.get(name, name)
    images, masks = splits[name] if name in splits else splits[other]
    return {"images": str(images), "masks": str(masks)}


def _scale_remark(start: Start) -> str:
    height, width = start.largest
    if start.scale == 1:
        return f"the images are small: {width}x{height} at most"
    scaled = f"{int(width * start.scale)}x{int(height * start.scale)}"
    return f"{width}x{height} becomes {scaled}; larger shows finer things and takes more memory"


def _line(key: str, value: Any, remark: str = "") -> str:
    """One setting as TOML, with a remark in its own column."""
    written = f"{key} = {_as_toml(value)}"
    return f"{written:<38} # {remark}" if remark else written


def _as_toml(value: Any) -> str:
    """On one line, also a list."""
    if isinstance(value, list):
        return f"[{', '.join(map(_as_toml, value))}]"
    return tomli_w.dumps({"it": value}).strip().removeprefix("it = ")
