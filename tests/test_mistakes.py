"""What segwatch says to a person's mistakes: what is wrong, where (file, key, line), how to mend it; never a traceback.

Each row of the tables in `mistakes/` is one slip, made anew in a directory of its own and told by the real command
line, in this process.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from segwatch.daemon import cli
from segwatch.errors import ConfigError

from .daemon.conftest import write_data
from .mistakes import of_commands, of_config, of_data
from .mistakes.table import CLOSING, CONFIG, RUN_TOML, Mistake

ROWS = (*of_config.MISTAKES, *of_data.MISTAKES, *of_commands.MISTAKES)
REMEDY = re.compile(r"^\s*-> \S|^Try 'segwatch.* -h' for help\.$", re.MULTILINE)
OF_PYTHON = re.compile(
    r"Traceback|\b\w+Error\b|\b\w+Exception\b|<class |pydantic|NoneType|\bRunConfig\b|PosixPath|/daemon/\w+\.py"
)
"""Words that mean something to who wrote segwatch, and nothing to who uses it."""
Told = tuple[int, str]
SEGWATCH = (sys.executable, "-c", "from segwatch.daemon.cli import main; main()")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory without a mistake: data, and a run.toml that fits it."""
    place = tmp_path_factory.mktemp("template")
    write_data(place)
    (place / "run.toml").write_text(RUN_TOML)
    return place


@pytest.fixture
def place(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Such a directory, to make a mistake in; commands run there."""
    made = shutil.copytree(template, tmp_path / "work")
    monkeypatch.chdir(made)
    monkeypatch.setenv("SEGWATCH_DEBUG", "")  # `--debug` sets it, and would for all tests that follow
    monkeypatch.delenv("SEGWATCH_NOBODY", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    yield made
    while CLOSING:
        CLOSING.pop()()


@pytest.fixture(scope="session")
def command() -> object:
    """The command line, built once: that takes longer than most of what is told here."""
    return typer.main.get_command(cli.app)


@pytest.fixture
def tell(command: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str], Told]:
    """A function that gives a command to segwatch: the exit code, and everything that was printed."""

    def call(line: str) -> Told:
        monkeypatch.setattr(typer.main, "get_command", lambda _app: command)
        monkeypatch.setattr(sys, "argv", ["segwatch", *shlex.split(line)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert isinstance(left.value.code, int)
        printed = capsys.readouterr()
        return left.value.code, printed.out + printed.err

    return call


def test_the_table_is_long_and_no_two_rows_are_called_the_same():
    assert len(ROWS) >= 150
    assert len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_mistake_is_told_with_its_place_and_its_remedy(row: Mistake, place: Path, tell: Callable[[str], Told]):
    row.make(place)
    code, words = tell(row.command)
    assert code == row.code, words
    assert not OF_PYTHON.search(words), words
    assert REMEDY.search(words), words
    flat = " ".join(words.split())
    for said in row.says:
        assert said in flat, words
    if row.at is not None:
        assert _place_of(place, *row.at) in flat, words
    if row.code == CONFIG and row.command == "run run.toml":
        assert not (place / "runs" / "run" / "run.lock.toml").exists()


def _place_of(place: Path, text: str, key: str) -> str:
    lines = (place / "run.toml").read_text().split("\n")
    first = text.rsplit("\n", maxsplit=1)[-1] if text not in lines else text
    (number,) = [number for number, line in enumerate(lines, start=1) if first in line]
    return f"line {number}, {key}"


def test_without_a_mistake_the_same_directory_is_taken(place: Path, tell: Callable[[str], Told]):
    code, words = tell("run run.toml --dry-run")
    assert code == 0, words


def test_debug_lets_the_traceback_through(place: Path, tell: Callable[[str], Told]):
    with pytest.raises(ConfigError):
        tell("--debug run none.toml")


def test_in_a_process_of_its_own_a_mistake_is_three_lines_and_no_traceback(place: Path):
    (place / "run.toml").write_text(RUN_TOML + "[trainr]\n")
    done = subprocess.run(
        [*SEGWATCH, "run", "run.toml"], cwd=place, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.splitlines() == [
        "segwatch: run.toml: 1 mistake:",
        "  line 17, trainr: unknown key; did you mean 'trainer'?",
        "  -> mend these lines; every setting is explained in docs/configuration.md",
    ]
