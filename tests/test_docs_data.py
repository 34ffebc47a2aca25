"""docs/data.md is true: tables load, settings are accepted, Python runs, the console prints what the page shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from segwatch.daemon.config import parse_config
from segwatch.data.classes import load_class_table

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


@pytest.mark.parametrize("text", blocks("toml", "# run.toml"))
def test_a_run_toml_is_accepted(text: str) -> None:
    parse_config(text.encode(), Path("docs/data.md"))


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
