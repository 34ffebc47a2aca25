"""What a process that predicts or exports is asked, and what it answers. No torch.

The task is a file, named on its command line; answers leave as JSON lines on its standard output. It does that one task
and leaves; at the end of its input, at once: whoever asked is gone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from ..section import Record
from .config import USUAL_BATCH
from .report import Ready, Request, Working

Format = Literal["safetensors", "onnx"]


class Target(Record):
    """One image, and where what is predicted of it goes."""

    image: Path
    stem: Path
    """Of what is written, without `_ids.png` and the like."""

    @property
    def ids(self) -> Path:
        """PNG: the class id of each pixel, as the class table numbers them."""
        return self._named("ids")

    @property
    def colour(self) -> Path:
        """PNG: each pixel in the colour of its class."""
        return self._named("colour")

    @property
    def overlay(self) -> Path:
        """PNG: the image with the classes over it and their legend; for looking at."""
        return self._named("overlay")

    @property
    def files(self) -> tuple[Path, Path, Path]:
        return self.ids, self.colour, self.overlay

    def _named(self, what: str) -> Path:
        return self.stem.with_name(f"{self.stem.name}_{what}.png")


class Source(Record):
    """Which weights of which run, and where the network runs."""

    run_dir: Path
    """Absolute."""
    data_lock: str = "run.lock.toml"
    checkpoint: Request
    """Its splits are nobody's concern here."""
    device: str = "auto"
    threads: int = 0
    """0 takes half the cores."""


class PredictTask(Record):
    source: Source
    targets: tuple[Target, ...]
    batch_size: int = USUAL_BATCH
    """Windows of one image per forward pass."""
    window: int | None = None
    """Side of the sliding window after scaling; 0 takes every image whole, `None` all but the largest."""
    overlap: float = 0.25
    flips: bool = False
    """Average over the image and its mirror images."""
    scaled: bool = False
    """Leave the prediction at the size that the network sees, instead of the image's own."""


class ExportTask(Record):
    source: Source
    format: Format
    output: Path
    """Absolute; taken over what lies there."""
    about: dict[str, str] = Field(default_factory=dict)
    """What else the file should say of itself."""


class Cannot(Record):
    """The task cannot be done, or not to its end."""

    kind: Literal["cannot"] = "cannot"
    what: str
    where: str | None = None
    remedy: str | None = None
    exit_code: int


class Predicted(Record):
    """Its files lie there."""

    kind: Literal["predicted"] = "predicted"
    image: str
    height: int
    width: int
    """Of the prediction."""
    pixels: tuple[int, ...]
    """Of each class, in ascending id."""
    window: int
    """0 where the image went through whole."""
    seconds: float


class Spoiled(Record):
    """An image that cannot be predicted. The others are."""

    kind: Literal["spoiled"] = "spoiled"
    image: str
    reason: str


class Exported(Record):
    kind: Literal["exported"] = "exported"
    size: int
    """Bytes."""
    sha256: str
    parity: str
    """What was compared with what, and how they differ, in words."""
    largest_difference: float
    """Between logits, or between tensors; 0 where they are equal bit for bit."""


TaskAnswer = Annotated[Ready | Working | Cannot | Predicted | Spoiled | Exported, Field(discriminator="kind")]
TASK_ANSWER: TypeAdapter[TaskAnswer] = TypeAdapter(TaskAnswer)
