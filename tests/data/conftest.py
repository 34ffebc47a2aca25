"""Small data sets on disk, made anew for each test."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from segwatch.data.audit import AuditReport, require
from segwatch.data.audit_view import render
from segwatch.data.config import SPLITS, DataConfig, SplitConfig
from segwatch.errors import ConfigError

TABLE = """
[classes]
0 = { name = "water", rgb = [226, 169, 41] }
1 = { name = "land", rgb = [132, 41, 246] }
2 = { name = "", rgb = [1, 2, 3] }
3 = { name = "bridge", rgb = [4, 5, 6] }
"""


def png(
    path: Path, *, depth: int, colour_type: int, rows: list[bytes], chunks: dict[bytes, bytes] | None = None
) -> Path:
    """A PNG written by hand: Pillow does not write 2-bit and 4-bit grey, nor 16-bit colours."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour_type]
    width = len(rows[0]) * 8 // depth // channels
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour_type, 0, 0, 0)
    extra = b"".join(chunk(name, content) for name, content in (chunks or {}).items())
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    return path


class DataSet:
    """A directory with images, masks and a class table that a test changes file by file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.table(TABLE)

    def table(self, text: str, name: str = "classes.toml") -> None:
        (self.root / name).write_text(text)

    def image(self, split: str, stem: str, size: tuple[int, int] = (40, 48), suffix: str = ".jpg") -> Path:
        height, width = size
        pixels = np.full((height, width, 3), 90, dtype=np.uint8)
        return self._save(self.root / "images" / split / f"{stem}{suffix}", Image.fromarray(pixels))

    def mask(self, split: str, stem: str, ids: np.ndarray | Image.Image) -> Path:
        image = ids if isinstance(ids, Image.Image) else Image.fromarray(ids)
        return self._save(self.root / "masks" / split / f"{stem}.png", image)

    def pair(self, split: str, stem: str, ids: list[int], size: tuple[int, int] = (40, 48)) -> None:
        """A mask that holds these ids in equal shares, as nearly as the size allows, and its image."""
        self.image(split, stem, size)
        self.mask(split, stem, np.resize(np.array(ids, dtype=np.uint8), size))

    def splits(self, ids: list[int]) -> DataSet:
        for split in SPLITS:
            self.pair(split, "a", ids)
        return self

    def config(self, **settings: object) -> DataConfig:
        splits = {name: SplitConfig(images=Path("images", name), masks=Path("masks", name)) for name in SPLITS}
        return DataConfig.model_validate({"classes": "classes.toml", "scale": 1.0, **splits, **settings})

    @staticmethod
    def _save(path: Path, image: Image.Image) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        return path


@pytest.fixture
def dataset(tmp_path: Path) -> DataSet:
    root = tmp_path / "data"
    root.mkdir()
    return DataSet(root)


@pytest.fixture
def tiles(shared: Path) -> Callable[..., DataConfig]:
    """The configuration of the real aerial tiles; settings may be overridden."""

    def config(**settings: object) -> DataConfig:
        masks = settings.pop("masks", "masks_id")
        splits = {name: SplitConfig(images=Path("images", name), masks=Path(str(masks), name)) for name in SPLITS}
        return DataConfig.model_validate(
            {
                "root": shared / "data" / "dubai_aerial",
                "classes": "classes.true.json",
                "scale": 0.125,
                **splits,
                **settings,
            }
        )

    return config


def refusal(report: AuditReport) -> str:
    assert report.resolved is None
    with pytest.raises(ConfigError) as caught:
        require(report)
    assert caught.value.exit_code == 78
    assert caught.value.remedy
    return str(caught.value)


def warned(report: AuditReport) -> str:
    return "\n".join(problem.what for problem in report.warnings)


def shown(report: AuditReport, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    render(report, console, again="segwatch audit my.toml")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()
