"""The `[data]` table of run.toml. Knows nothing about what the files hold: `audit` finds that out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ..section import Section

SPLITS = ("train", "val", "test")


class SplitConfig(Section):
    images: Path
    """Directory of the images (jpg, png, tif), relative to `data.root`."""
    masks: Path
    """Directory of the masks, one per image, of the same stem."""


class DataConfig(Section):
    root: Path = Path()
    """Where the data lies; relative to run.toml."""
    classes: Path
    """The class table, .toml or .json: id, name, colour. Relative to `root`."""
    use: Literal["named-and-present"] | list[Annotated[int, Field(ge=0, le=254)]] = "named-and-present"
    """The ids to train and score. Every other id becomes the ignore index, never class 0."""
    scale: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Side length after / before: images are reduced by area (then bicubic), masks by nearest neighbour."""
    on_bad_file: Literal["error", "skip"] = "error"
    """What to do with files that cannot be used: stop and list them all, or leave them out and count them."""
    train: SplitConfig
    val: SplitConfig
    test: SplitConfig

    def split(self, name: str) -> SplitConfig:
        """The table `[data.<name>]`, where name is one of SPLITS."""
        assert name in SPLITS
        found: SplitConfig = getattr(self, name)
        return found
