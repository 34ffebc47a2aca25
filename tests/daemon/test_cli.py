"""The command line as other programs meet it: exit codes, words instead of tracebacks, and a quick --help."""

from __future__ import annotations

import errno
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import typer
from segwatch.daemon import cli
from segwatch.daemon.config import load_config
from segwatch.daemon.freezing import create
from segwatch.daemon.rundir import RunDir
from segwatch.daemon.store import Store
from segwatch.data.resolved import ResolvedClass, ResolvedData
from typer.testing import CliRunner

COMMANDS = (
    *("init", "doctor", "run", "demo", "audit", "evaluate", "status", "alerts", "ack", "silence", "why", "replay"),
    *("best", "stop", "predict", "export", "notify", "systemd", "list", "compare", "report"),
)
SEGWATCH = (sys.executable, "-c", "from segwatch.daemon.cli import main; main()")
TOML = """\
[data]
classes = "classes.json"
[data.train]
images = "images"
masks = "masks"
[data.val]
images = "images"
masks = "masks"
[data.test]
images = "images"
masks = "masks"
"""


def segwatch(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SEGWATCH, *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=60)


def help_of(*arguments: str) -> str:
    result = CliRunner().invoke(cli.app, [*arguments, "--help"], prog_name="segwatch")
    assert result.exit_code == 0, result.output
    return result.output


def explained(done: subprocess.CompletedProcess[str], code: int) -> str:
    """An error in words: on standard error, with nothing of Python in it."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("segwatch: ")
    return done.stderr


@pytest.fixture
def run_dir(tmp_path, a_run) -> Path:
    """A run of one scored epoch, as a daemon leaves it."""
    (tmp_path / "run.toml").write_text(TOML)
    run = RunDir(tmp_path / "runs" / "one")
    classes = (ResolvedClass(id=0, name="field", colour=(0, 0, 0), pixels={"train": 9}),)
    data = ResolvedData(root=tmp_path, scale=0.25, classes=classes, splits={"train": (), "val": (), "test": ()})
    create(run, tmp_path / "run.toml", load_config(tmp_path / "run.toml"), data)
    story = a_run()
    story.begins()
    story.trains(1, 0.5)
    store = Store(run.path)
    for _, event in story.told:
        store.append(event)
    store.close()
    return run.path


# --- help ----------------------------------------------------------------------------------------------------------


def test_the_commands_are_those_that_are_promised():
    group = typer.main.get_command(cli.app)
    assert set(group.commands) == set(COMMANDS)


def test_help_names_every_command_and_the_exit_codes():
    text = help_of()
    for word in (*COMMANDS, "75", "78", "130"):
        assert word in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_each_of_its_options(command):
    text = help_of(command)
    assert len(text.splitlines()) > 5
    for parameter in typer.main.get_command(cli.app).commands[command].params:
        assert parameter.help, f"{command}: {parameter.name}"


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("run", ("--name", "--runs-dir", "--drill", "--retry", "--dry-run", "--log-format")),
        ("audit", ("--output", "--json")),
        ("status", ("--runs-dir", "--watch", "--json")),
        ("alerts", ("--runs-dir", "--follow", "--since", "--severity", "--json")),
        ("ack", ("--runs-dir",)),
        ("silence", ("--runs-dir", "--for")),
        ("best", ("--runs-dir", "--json")),
        ("stop", ("--runs-dir",)),
        ("list", ("--runs-dir", "--json")),
        ("compare", ("--runs-dir", "--json")),
        ("systemd", ("--name", "--runs-dir", "--system")),
        (
            "predict",
            ("--run", "--output", "--by", "--epoch", "--checkpoint", "--flips", "--window", "--overwrite", "--json"),
        ),
        ("export", ("--format", "--output", "--by", "--epoch", "--checkpoint", "--overwrite", "--json")),
    ],
)
def test_the_options_are_those_that_are_promised(command, options):
    parameters = typer.main.get_command(cli.app).commands[command].params
    assert set(options) <= {option for parameter in parameters for option in parameter.opts}


def test_without_a_command_the_help_is_shown(tmp_path):
    done = segwatch(cwd=tmp_path)
    assert done.returncode in {0, 2}
    assert "alerts" in done.stdout + done.stderr


@pytest.mark.alone
def test_help_answers_at_once(tmp_path):
    """Under 0.4 s; on a busy machine four times what importing typer alone costs there."""

    def median(*command: str) -> float:
        taken = []
        for _ in range(5):
            began = time.perf_counter()
            subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
            taken.append(time.perf_counter() - began)
        return statistics.median(taken)

    typer_alone = median(sys.executable, "-c", "import typer")
    assert median(*SEGWATCH, "--help") < max(0.4, 4 * typer_alone)


# --- exit codes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drill", ["nan-loss", "nan-loss@0", "nan-loss@x", "flood@3", "nan-loss@-1", "@3", ""])
def test_a_drill_that_cannot_be_made_is_a_mistake_of_usage_that_lists_the_kinds(tmp_path, drill):
    (tmp_path / "run.toml").write_text(TOML)
    result = CliRunner().invoke(cli.app, ["run", str(tmp_path / "run.toml"), "--drill", drill], prog_name="segwatch")
    assert result.exit_code == 2
    assert "poison-batchnorm" in " ".join(result.output.split())
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", ["run", "audit"])
def test_a_wrong_configuration_ends_with_78_and_names_file_and_key(tmp_path, command):
    (tmp_path / "run.toml").write_text(TOML + "[trainer]\nlr = -1\nbatchsize = 2")
    words = explained(segwatch(command, "run.toml", cwd=tmp_path), 78)
    for word in ("run.toml", "trainer.lr", "trainer.batchsize", "'batch_size'"):
        assert word in words
    assert not (tmp_path / "runs").exists()


def test_a_configuration_that_is_not_there_ends_with_78(tmp_path):
    assert "none.toml: cannot be read" in explained(segwatch("run", "none.toml", cwd=tmp_path), 78)
    assert "run.toml: cannot be read" in explained(segwatch("run", cwd=tmp_path), 78), "it is looked for here"


def test_debug_shows_the_traceback(tmp_path):
    done = segwatch("--debug", "run", "none.toml", cwd=tmp_path)
    assert "Traceback" in done.stderr


@pytest.fixture
def broken(monkeypatch, tmp_path):
    """The command line with a `status` that raises what nobody has thought of; tracebacks go where it returns."""

    def command(*_arguments, **_options):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(cli.cli_alerts, "status", command)
    monkeypatch.setattr(sys, "argv", ["segwatch", "status"])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_mistake_of_ours_is_a_line_that_names_the_file_of_its_traceback(broken, monkeypatch, capsys):
    monkeypatch.delenv("SEGWATCH_DEBUG", raising=False)
    with pytest.raises(SystemExit, match="70"):
        cli.main()
    told = capsys.readouterr().err
    (kept,) = broken.glob("segwatch-*-traceback.txt")
    assert told.startswith("segwatch: this is a mistake of segwatch itself: ZeroDivisionError: division by zero")
    assert str(kept) in told
    assert "--debug" in told
    assert "Traceback" not in told
    assert "Traceback" in kept.read_text()


@pytest.mark.parametrize("how", ["--debug", "no room for a file"])
def test_its_traceback_is_printed_for_debug_and_where_it_cannot_be_kept(broken, how, monkeypatch, capsys):
    monkeypatch.setenv("SEGWATCH_DEBUG", "1" if how == "--debug" else "")
    monkeypatch.setattr(tempfile, "tempdir", str(broken / "none"))
    with pytest.raises(SystemExit, match="70"):
        cli.main()
    assert "Traceback" in capsys.readouterr().err


def test_a_file_that_only_its_owner_may_read_is_a_mistake_that_names_it(broken, monkeypatch, capsys):
    def command(*_arguments, **_options):
        raise PermissionError(errno.EACCES, "Permission denied", "runs/one/glance.json")

    monkeypatch.delenv("SEGWATCH_DEBUG", raising=False)
    monkeypatch.setattr(cli.cli_alerts, "status", command)
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert "runs/one/glance.json: cannot be read or written: Permission denied" in capsys.readouterr().err
    assert list(broken.iterdir()) == []


def test_a_terminal_that_lacks_a_letter_gets_another_one(tmp_path, run_dir):
    run_dir.rename(run_dir.with_name("été"))
    done = subprocess.run(
        [*SEGWATCH, "status"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"runs/?t?" in done.stdout


@pytest.mark.parametrize("command", ["status", "alerts", "best", "stop"])
def test_where_no_run_is_a_question_ends_with_2_and_how_to_begin_one(tmp_path, command):
    assert "segwatch run" in explained(segwatch(command, cwd=tmp_path), 2)


def test_a_run_of_another_name_ends_with_2_and_the_list(tmp_path, run_dir):
    assert "runs here: one" in explained(segwatch("status", "two", cwd=tmp_path), 2)


@pytest.mark.parametrize("arguments", [("walk",), ("status", "--jsonn"), ("run", "a", "b")])
def test_what_is_no_command_is_a_mistake_of_usage(tmp_path, arguments):
    done = segwatch(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


# --- answers -------------------------------------------------------------------------------------------------------


def strict(text: str) -> object:
    def fail(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=fail)


def test_status_best_and_alerts_answer_in_strict_json_about_the_newest_run(tmp_path, run_dir):
    status = strict(segwatch("status", "--json", cwd=tmp_path).stdout)
    assert (status["state"], status["attempt"], status["worker_pid"]) == ("interrupted", 1, None)
    assert strict(segwatch("best", "--json", cwd=tmp_path).stdout)["by_test"]["miou"] == 0.5
    assert strict(segwatch("alerts", "--json", cwd=tmp_path).stdout) == []


def test_status_answers_the_same_for_a_name_and_a_directory_and_writes_nothing(tmp_path, run_dir):
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*") if path.is_file()}
    by_name = segwatch("status", "one", "--json", cwd=tmp_path)
    by_path = segwatch("status", str(run_dir), "--json", cwd=tmp_path)
    assert by_name.returncode == by_path.returncode == 0
    assert by_name.stdout == by_path.stdout
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*") if path.is_file()} == before


def test_stopping_a_run_that_does_not_run_says_so_and_is_no_error(tmp_path, run_dir):
    done = segwatch("stop", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "nothing runs here\n")
