"""docs/quickstart.md is true: on a folder of scenes its commands print what it shows, and its demo is the demo."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from segwatch.daemon import cli, demo, device_checks
from segwatch.daemon.device_checks import DeviceFacts
from segwatch.data.layouts import find_layout
from segwatch.data.scenes import write_scenes
from typer.testing import CliRunner

from .conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "quickstart.md").read_text()
CONSOLE: list[str] = re.findall(r"```console\n(.*?)```", PAGE, flags=re.DOTALL)
NO_GPU = DeviceFacts(python="python3", torch="2.13.0+cpu")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.setattr(device_checks, "ask", lambda: NO_GPU)
    return write_scenes(tmp_path / "tiles", counts={"train": 16, "val": 4, "test": 4}, size=(96, 96), seed=1)


def squeezed(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def shows(line: str, found: str) -> bool:
    """Whether `found` has the pieces of `line` between its dots, from its beginning on."""
    pieces = [piece.strip() for piece in line.split("…")]
    pattern = ".*".join(re.escape(piece) for piece in pieces)
    return re.match(pattern if "…" in line else f"{pattern}$", found) is not None


def test_its_screens_are_what_a_folder_of_scenes_gives_one_command_after_the_other(folder):
    assert len(CONSOLE) == 4
    for block in CONSOLE:
        command, *promised = squeezed(block)
        arguments = command.removeprefix("$ segwatch ").split()
        done = CliRunner().invoke(cli.app, arguments, prog_name="segwatch")
        assert done.exit_code == 0, done.output
        printed = iter(squeezed(done.output))
        for line in filter(lambda line: line != "…", promised):
            assert any(shows(line, found) for found in printed), (
                f"{command}: not printed, or not in this order: {line}\n{done.output}"
            )


def test_each_command_that_init_prints_is_the_next_one_of_the_page(folder):
    done = CliRunner().invoke(cli.app, ["init", "tiles"], prog_name="segwatch")
    told = re.findall(r"^  (segwatch .*)$", done.output, flags=re.MULTILINE)
    assert told == [f"segwatch {verb} tiles/run.toml" for verb in ("doctor", "audit")]
    assert all(f"$ {command}\n" in PAGE for command in told)


LAYOUTS = re.findall(r"^(tiles/\S+)\s+(tiles/\S+)", PAGE, flags=re.MULTILINE)


def test_it_shows_three_kinds_of_folders():
    assert len(LAYOUTS) == 3


@pytest.mark.parametrize(("image", "mask"), LAYOUTS)
def test_each_folder_that_it_shows_is_found_by_its_names(tmp_path, image, mask):
    splits = ("train", "val", "test") if "/train/" in image else ("train",)
    for path, letter, split in itertools.product((image, mask), "abcdef", splits):
        file = tmp_path / path.replace("/train/", f"/{split}/").replace("/a.", f"/{letter}.").replace(
            "/a_", f"/{letter}_"
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert find_layout(tmp_path / "tiles").total == 6 * len(splits)


def test_the_demo_that_it_describes_is_the_demo():
    assert f"It makes {sum(demo.COUNTS.values())} small aerial scenes" in PAGE
    assert f"at step {demo.DRILL.step} makes the loss NaN" in PAGE
    assert f"[DRILL {demo.DRILL}]" in PAGE
    epochs = re.search(r"^epochs = (\d+)", demo.RUN_TOML, flags=re.MULTILINE)
    assert epochs is not None
    assert f"for {epochs[1]} epochs" in PAGE
    assert f"finished: {epochs[1]} epochs trained, every one scored" in PAGE
