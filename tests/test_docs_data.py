"""docs/data.md is true: tables load, settings serve the files they name, Python runs, commands print what it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from segwatch.daemon.config import parse_config
from segwatch.data.audit import audit
from segwatch.data.classes import load_class_table
from segwatch.data.config import DataConfig, SplitConfig

from .conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "data.md").read_text()
BLOCKS: list[tuple[str, str]] = re.findall(r"```(\w+)\n(.*?)```", PAGE, flags=re.DOTALL)


def blocks(language: str, title: str = "") -> list[str]:
    return [text for kind, text in BLOCKS if kind == language and text.startswith(title)]


def test_every_block_is_of_a_kind_that_is_tried_below() -> None:
    tried = [
        *blocks("toml", "# run.toml"),
        *blocks("toml", "# classes.toml"),
        *blocks("json"),
        *blocks("python", "# cmap.py"),
        *blocks("python", "# make_tiny.py"),
        *blocks("python", "# weights.py"),
        *blocks("python", "# frozen.py"),
        *blocks("console"),
    ]
    assert len(tried) == len(BLOCKS) > 12


COLOURS = {0: (226, 169, 41), 1: (132, 41, 246), 13: (20, 90, 30), 17: (90, 20, 60), 25: (7, 8, 9)}


def write_what_it_names(place: Path, config: DataConfig) -> None:
    """Twelve pairs of six flights where `config` looks for them, masks as it reads them, and its lists."""
    rows = [f'{key} = {{ name = "class {key}", rgb = {list(rgb)} }}' for key, rgb in COLOURS.items()]
    (place / "classes.toml").write_text("\n".join(["[classes]", *rows]))
    names = [f"flight{number // 2}/photo_{number % 2}" for number in range(12)]
    for number, name in enumerate(names):
        table = config.table(("train", "val", "test")[number // 2 % 3]) or SplitConfig()
        ids = np.random.default_rng(number).choice([*COLOURS], (40, 36)).repeat(4, 0).repeat(4, 1)
        pixels = np.array([COLOURS.get(value, (0, 0, 0)) for value in range(26)])[ids].astype(np.uint8)
        shown = pixels if config.mask_format == "colours" else ids.astype(np.uint8)
        for directory, file in ((table.images or config.images, pixels), (table.masks or config.masks, shown)):
            assert directory is not None
            path = place / directory / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(file).save(path)
        if table.list is not None:
            with (place / table.list).open("a") as listed:
                listed.write(f"{name}\n")


@pytest.mark.parametrize("text", blocks("toml", "# run.toml")[1:])
def test_a_run_toml_serves_the_files_that_it_names(tmp_path: Path, text: str) -> None:
    """The first one is that of the tiny data."""
    config = parse_config(text.encode(), tmp_path / "run.toml").data
    write_what_it_names(tmp_path, config)
    report = audit(config, tmp_path)
    assert not report.errors
    assert report.resolved is not None
    assert sum(report.images.values()) == 12
    assert all(report.images.values())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.toml", blocks("toml", "# classes.toml")[0]),
        ("classes.json", blocks("json")[0]),
        ("cmap.py", blocks("python", "# cmap.py")[0]),
    ],
)
def test_a_class_table_loads(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    table = load_class_table(tmp_path / name)
    assert len(table.entries) == (4 if name == "classes.toml" else 2)
    assert table.entries[0].colour_given


def test_the_weights_are_those_of_the_page(tmp_path: Path) -> None:
    python(blocks("python", "# weights.py")[0], tmp_path)


def test_what_becomes_of_changed_files_is_as_the_page_says(tmp_path: Path) -> None:
    python(blocks("python", "# frozen.py")[0], tmp_path)


def test_the_audit_of_the_tiny_data_prints_what_the_page_shows(tmp_path: Path) -> None:
    python(blocks("python", "# make_tiny.py")[0], tmp_path)
    (tmp_path / "run.toml").write_text(blocks("toml", "# run.toml")[0])
    (console,) = blocks("console")
    command, *promised = console.splitlines()
    program, *arguments = command.removeprefix("$ ").split()
    assert program == "segwatch"
    done = subprocess.run(
        [Path(sys.executable).with_name("segwatch"), *arguments],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "110"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = iter([" ".join(line.split()) for line in done.stdout.splitlines()])
    for line in promised:
        start = " ".join(line.split()).removesuffix("…").rstrip()
        assert any(found.startswith(start) for found in printed), (
            f"not printed, or not in this order: {line}\n{done.stdout}"
        )


def test_what_the_page_says_of_settings_exists() -> None:
    for setting in ("mask_format", "mask_suffixes", "on_bad_file", "scene_pattern", "class_weight_limit"):
        assert f"`{setting}`" in (REPOSITORY / "docs" / "configuration.md").read_text()
        assert setting in PAGE


def python(text: str, place: Path) -> None:
    done = subprocess.run([sys.executable, "-c", text], cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
