"""The real thing: the `segwatch` command, a real UNet, real files. Slow, so each run is asked several questions."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from segwatch.data.scenes import write_scenes

from ..watched import Watched

SEGWATCH = Path(sys.executable).with_name("segwatch")
RUN_TOML = """\
[data]
root = "{root}"
classes = "classes.toml"
scale = 0.5
[data.train]
images = "images/train"
masks = "masks/train"
[data.val]
images = "images/val"
masks = "masks/val"
[data.test]
images = "images/test"
masks = "masks/test"
[model]
base_channels = 4
[trainer]
epochs = {epochs}
batch_size = 4
lr = 3e-3
threads = 1
amp = "{amp}"
[watch]
scan_seconds = 0.3
hang_floor_seconds = {hang_floor}
[recovery]
backoff_seconds = 0.1
standby = {standby}
"""


def strict(text: str) -> Any:
    """JSON as the standard has it: NaN and Infinity are no words of it."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


class Site(Watched):
    """A working directory with a run.toml, and the command line in it."""

    deadline_seconds = 480.0

    def __init__(self, place: Path, root: Path) -> None:
        super().__init__(place)
        self.root = root

    def configure(self, *, epochs: int = 3, amp: str = "off", hang_floor: float = 60.0, standby: bool = False) -> None:
        text = RUN_TOML.format(
            root=self.root, epochs=epochs, amp=amp, hang_floor=hang_floor, standby=str(standby).lower()
        )
        (self.place / "run.toml").write_text(text)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return self.spawn([str(SEGWATCH), *arguments])

    def segwatch(self, *arguments: str) -> tuple[int, str]:
        return self.finish(self.start(*arguments))

    def specs(self) -> list[dict[str, Any]]:
        paths = sorted((self.run_dir / "attempts").glob("*/spec.json"))
        return [strict(path.read_text()) for path in paths]

    def journal(self, attempt: int) -> list[dict[str, Any]]:
        text = (self.run_dir / "attempts" / f"{attempt:03d}" / "journal.jsonl").read_text()
        return [strict(line) for line in text.splitlines()]


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("scenes")
    return write_scenes(directory, counts={"train": 16, "val": 4, "test": 4}, size=(96, 96), seed=1)


@pytest.fixture
def site(tmp_path: Path, scenes: Path) -> Iterator[Site]:
    site = Site(tmp_path, scenes)
    site.configure()
    yield site
    site.clean()
