"""Somebody else's hands: on the run directory, in names and messages, in files of any size and kind."""

from __future__ import annotations

import ast
import json
import os
import stat
import time
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from segwatch.checkpoints.manifest import Manifest, read_manifest
from segwatch.daemon.config import load_config
from segwatch.daemon.journal import JournalReader
from segwatch.daemon.screen import Terminal
from segwatch.data.classes import load_class_table
from segwatch.data.rasters import check_image
from segwatch.errors import ConfigError, CorruptCheckpointError
from segwatch.trainer.contract import Phase

from ..test_layers import MODULES, name
from .matrix import fault

EVIL = "evil\x1b[2J\x1b]0;owned\x07\nGAVE UP: forged\r\x9b31m\u202e"
"""Clears a screen, names a window, forges a line, writes over one, colours it, and turns its letters round."""


def controls(text: str) -> set[str]:
    return {letter for letter in text if not letter.isprintable() and letter != "\n"}


# --- the run directory ---------------------------------------------------------------------------------------------


@pytest.fixture
def any_umask():
    before = os.umask(0)
    yield
    os.umask(before)


open_directory = fault(
    "run-directory-open",
    area="Security",
    fault="run directory that others can write to",
    promise="P2",
    provoked="mode 0777, 0775 and 0702, and a umask of 0",
)


@open_directory
def test_a_run_directory_that_others_can_write_to_is_refused_until_it_is_closed(daemon, provoked, nothing_else_broke):
    daemon.run_dir.mkdir(parents=True)
    for mode in (0o777, 0o775, 0o702):
        daemon.run_dir.chmod(mode)
        code, output = daemon.run()
        provoked()
        assert code == 78, output
        assert f"others can write to this run directory (mode {mode:04o})" in output
        assert f"chmod go-w {daemon.run_dir}" in output
        assert list(daemon.run_dir.iterdir()) == []
    daemon.run_dir.chmod(0o755)
    daemon.configure(epochs=1)
    assert daemon.run()[0] == 0
    nothing_else_broke(daemon)


@open_directory
def test_a_run_directory_is_its_owners_alone_whatever_the_umask(daemon, any_umask, provoked, nothing_else_broke):
    provoked()
    daemon.configure(epochs=1)
    assert daemon.run()[0] == 0
    assert stat.S_IMODE(daemon.run_dir.stat().st_mode) == 0o700
    nothing_else_broke(daemon)


# --- names and messages --------------------------------------------------------------------------------------------

evil_names = fault(
    "control-characters",
    area="Security",
    fault="control characters, escape sequences and line breaks in names and messages",
    promise="P7",
    provoked="in class names, in file names, in what the evaluator says",
)


@evil_names
def test_no_name_reaches_a_terminal_or_a_report_with_its_control_characters(daemon, provoked, nothing_else_broke):
    table = json.loads((daemon.place / "classes.json").read_text())
    table["classes"][0]["name"] = EVIL
    (daemon.place / "classes.json").write_text(json.dumps(table))
    for kind in ("images", "masks"):
        (daemon.place / f"{kind}_test" / "one_test.png").rename(daemon.place / f"{kind}_test" / f"{EVIL}.png")
    provoked(2)
    code, output = daemon.run()
    assert code == 0, output
    shown = {
        path: (daemon.run_dir / path).read_text() for path in ("alerts.log", "results.csv", "report.md", "audit.md")
    }
    for where, text in {"the terminal": output, **shown}.items():
        assert controls(text) == set(), where
        forged = [line for line in text.splitlines() if line.startswith(("GAVE UP", "- GAVE UP"))]
        assert forged == [], text
    assert "evil" in shown["report.md"]
    nothing_else_broke(daemon)


@evil_names
def test_a_reason_to_give_up_is_told_without_its_control_characters(daemon, provoked):
    daemon.scenario(unable=EVIL)
    provoked()
    code, output = daemon.run()
    assert code == 78
    for text in (output, daemon.alerts_log(), (daemon.run_dir / "report.md").read_text()):
        assert controls(text) == set()
        assert "forged" in text
        assert "\nGAVE UP: forged" not in text


@evil_names
def test_an_error_names_a_file_in_one_line_without_control_characters(tmp_path, provoked):
    provoked()
    error = ConfigError("cannot be decoded", where=tmp_path / f"{EVIL}.png", remedy="restore it\nor not")
    assert controls(str(error)) == set()
    assert len(str(error).splitlines()) == 3


@evil_names
def test_a_terminal_keeps_its_colours_and_prints_none_of_a_name(tmp_path, provoked):
    provoked()
    with (tmp_path / "out").open("w") as file:
        terminal = Terminal(file=file, force_terminal=True, color_system="standard", width=200)
        terminal.print("[bold red]real[/] ", EVIL, "\a", highlight=False)
    shown = (tmp_path / "out").read_text()
    assert shown.count("\x1b[") == 2, "red begins and ends"
    assert controls(shown) == {"\x1b"}


# --- what is decoded -----------------------------------------------------------------------------------------------

foreign_images = fault(
    "foreign-image-format",
    area="Security",
    fault="image of a format that no data set of ours uses",
    promise="P2",
    provoked="GIF, BMP, WebP, PPM, TGA, PCX, EPS and PSD under the name of a PNG",
)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(%pipe%touch canary) (w) file\n"


@foreign_images
@pytest.mark.parametrize("kind", ["GIF", "BMP", "WEBP", "PPM", "TGA", "PCX", "EPS", "PSD"])
def test_pillow_is_asked_for_the_formats_in_use_and_no_other(tmp_path, kind, provoked):
    path = tmp_path / "mask.png"
    if kind in ("EPS", "PSD"):
        path.write_bytes(EPS if kind == "EPS" else b"8BPS\0\1" + bytes(6) + b"\0\3" + bytes(60))
    else:
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path, format=kind)
    provoked()
    with pytest.raises(ConfigError, match="no PNG or JPEG or TIFF file"):
        check_image(path)


@foreign_images
def test_a_run_does_not_begin_over_an_image_of_another_format(daemon, provoked):
    path = daemon.place / "images" / "one.png"
    Image.open(path).save(path, format="GIF")
    provoked()
    code, output = daemon.run()
    assert code == 78
    assert "no PNG or JPEG or TIFF file" in output
    assert not daemon.run_dir.exists()


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_whoever_opens_an_image_says_which_formats(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Image.open":
            assert "formats" in [keyword.arg for keyword in node.keywords], f"{name(path)}:{node.lineno}"


# --- what is read --------------------------------------------------------------------------------------------------

HUGE = 64 << 30
too_large = fault(
    "file-too-large",
    area="Security",
    fault="file that is larger than any of its kind",
    promise="P2",
    provoked="a sparse run.toml, class table and manifest of 64 GiB; a journal line of 200 MB",
)


def sparse(path, size: int = HUGE) -> None:
    with path.open("wb") as file:
        file.truncate(size)


@pytest.fixture
def little_memory():
    """Fails when more than 64 MB were taken at once."""
    tracemalloc.start()
    yield
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64e6, f"{peak / 1e6:.0f} MB"


@too_large
@pytest.mark.parametrize(
    ("file", "read"),
    [
        ("run.toml", load_config),
        ("classes.json", load_class_table),
        ("classes.toml", load_class_table),
        ("classes.py", load_class_table),
        ("checkpoint_epoch1.json", read_manifest),
    ],
)
def test_a_file_is_refused_by_its_size_before_it_is_in_memory(tmp_path, file, read, provoked, little_memory):
    sparse(tmp_path / file)
    provoked()
    with pytest.raises((ConfigError, CorruptCheckpointError), match="large"):
        read(tmp_path / file)


@too_large
def test_a_journal_line_without_end_is_passed_over_and_the_next_one_read(tmp_path, provoked, little_memory):
    path = tmp_path / "journal.jsonl"
    line = Phase(time=time.time(), phase="training")
    reader = JournalReader(path)
    sparse(path, 200_000_000)
    provoked()
    assert reader.read() == [], "it may still get its end"
    with path.open("a") as file:
        file.write("\n" + line.model_dump_json() + "\n")
    assert [entry for _ in range(3) for entry in reader.read()] == [line]


@too_large
def test_a_huge_manifest_is_set_aside_while_training_goes_on(daemon, provoked, nothing_else_broke):
    daemon.scenario(step_seconds=0.1)
    running = daemon.start()
    daemon.until(lambda history: len(history.epochs) == 1)
    sparse(daemon.run_dir / "checkpoints" / "checkpoint_epoch99.json")
    provoked()
    code, output = daemon.finish(running)
    assert code == 0, output
    assert [epoch for _, epoch in daemon.scored_epochs()] == [1, 2, 3]
    assert (daemon.run_dir / "checkpoints" / "quarantine" / "unknown" / "checkpoint_epoch99.json").exists()
    nothing_else_broke(daemon)


# --- where links lead ----------------------------------------------------------------------------------------------


@fault(
    "checkpoint-link",
    area="Security",
    fault="checkpoint that is a link out of the run directory",
    promise="P2",
    provoked="a symbolic link to a well-formed manifest elsewhere, while the run trains",
)
def test_a_checkpoint_behind_a_link_is_never_taken_for_one_of_ours(daemon, provoked, nothing_else_broke):
    daemon.scenario(step_seconds=0.1)
    running = daemon.start()
    daemon.until(lambda history: len(history.epochs) == 1)
    directory, elsewhere = daemon.run_dir / "checkpoints", daemon.place / "elsewhere"
    elsewhere.mkdir()
    manifest = Manifest.model_validate_json((directory / "checkpoint_epoch1.json").read_bytes())
    foreign = elsewhere / "checkpoint_epoch99.json"
    foreign.write_text(manifest.model_copy(update={"epoch": 99, "step": 999}).model_dump_json())
    (directory / foreign.name).symlink_to(foreign)
    provoked()
    code, output = daemon.finish(running)
    assert code == 0, output
    assert [epoch for _, epoch in daemon.scored_epochs()] == [1, 2, 3]
    assert not (directory / foreign.name).exists()
    assert foreign.exists(), "what the link leads to is not ours to move"
    nothing_else_broke(daemon)
