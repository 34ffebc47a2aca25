"""What keeps a run alive and within reach: the systemd unit, the hint, completion, and a test message."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from segwatch.daemon import cli, lifeline, systemd
from segwatch.errors import ConfigError, UsageError
from typer.testing import CliRunner

from ..faults.endpoints import Endpoint
from .conftest import CONFIG

AWKWARD = 'a 100% $HOME "tiles"'


@pytest.fixture
def source(tmp_path) -> Path:
    """A run.toml in a directory whose name tries everything that a unit could take for its own."""
    path = tmp_path / AWKWARD / "run.toml"
    path.parent.mkdir()
    path.write_text(CONFIG.format(epochs=1, amp="off", extra=""))
    return path


def settings(unit: str) -> dict[str, str]:
    lines = [line for line in unit.splitlines() if "=" in line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


# --- systemd -------------------------------------------------------------------------------------------------------


def test_the_unit_lets_a_worker_be_adopted_and_does_not_try_again_what_cannot_help(source):
    told = settings(systemd.unit(source, name=None, runs_dir=source.parent / "runs", system=False))
    assert told["KillMode"] == "process"
    assert told["OOMPolicy"] == "continue"
    assert told["Restart"] == "on-failure"
    assert told["RestartPreventExitStatus"].split() == ["1", "2", "78"]
    assert told["SuccessExitStatus"].split() == ["130", "143"]
    assert int(told["TimeoutStopSec"]) > 5  # the grace of the worker in this run.toml
    assert told["EnvironmentFile"].startswith("-/")
    assert "User" not in told


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not there")
@pytest.mark.parametrize("system", [False, True])
def test_systemd_takes_the_unit_whatever_the_paths_are_called(tmp_path, source, system):
    text = systemd.unit(source, name="night one", runs_dir=source.parent / "runs", system=system)
    path = tmp_path / "segwatch-night-one.service"
    assert path.name in text.splitlines()[0]
    program = shutil.which("true")
    path.write_text(text.replace(f'"{Path(sys.executable).parent / "segwatch"}"', f'"{program}"'))
    command = ["systemd-analyze", "verify", *([] if system else ["--user"]), str(path)]
    environment = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_each_word_of_the_command_is_quoted_as_systemd_splits_it(source):
    told = settings(systemd.unit(source, name="one", runs_dir=source.parent, system=True))
    where = str(source.parent).replace("%", "%%").replace("$", "$$").replace('"', '\\"')
    assert told["ExecStart"].endswith(f' run "{where}/run.toml" --name one --runs-dir "{where}"')
    assert told["WorkingDirectory"] == str(source.parent).replace("%", "%%")
    assert told["User"]


def test_a_run_toml_that_is_wrong_is_told_before_there_is_a_service(tmp_path):
    (tmp_path / "run.toml").write_text("[data]\nimags = 1")
    with pytest.raises(ConfigError):
        systemd.unit(tmp_path / "run.toml", name=None, runs_dir=tmp_path, system=False)


def test_a_line_break_in_a_name_gets_into_no_unit(source):
    with pytest.raises(UsageError, match="control character"):
        systemd.unit(source, name="x\nExecStartPre=/bin/rm", runs_dir=source.parent, system=False)


# --- the hint ------------------------------------------------------------------------------------------------------

SSH = {"SSH_CONNECTION": "10.0.0.1 22"}


@pytest.mark.parametrize(
    ("environment", "terminal", "hinted"),
    [
        (SSH, True, True),
        (SSH, False, False),
        ({}, True, False),
        (SSH | {"TMUX": "/tmp/tmux-0/default"}, True, False),
        (SSH | {"STY": "1.pts"}, True, False),
        (SSH | {"INVOCATION_ID": "abc"}, True, False),
    ],
)
def test_only_a_terminal_that_hangs_on_a_connection_gets_the_hint(environment, terminal, hinted):
    words = lifeline.hint(Path("my run.toml"), None, Path("runs"), environment, terminal=terminal)
    assert (words is not None) == hinted
    if words is not None:
        assert "tmux new -s segwatch segwatch run 'my run.toml';" in words


def test_the_hint_names_the_run_that_was_asked_for():
    words = lifeline.hint(Path("run.toml"), "night", Path("my runs"), SSH, terminal=True)
    assert words is not None
    for command in ("run", "systemd"):
        assert f"segwatch {command} run.toml --name night --runs-dir 'my runs'" in words


# --- completion ----------------------------------------------------------------------------------------------------


def completed(line: str, cwd: Path, monkeypatch) -> list[str]:
    """What bash is offered for a line whose last word is being typed."""
    monkeypatch.chdir(cwd)
    words = line.split(" ")
    environment = {"_SEGWATCH_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    return CliRunner().invoke(cli.app, [], prog_name="segwatch", env=environment).output.split()


def test_the_shell_completes_commands_options_and_runs(tmp_path, monkeypatch):
    for name in ("night-1", "night-2", "day"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "run.lock.toml").touch()
    (tmp_path / "runs" / "night-no-run").mkdir()
    assert completed("segwatch comp", tmp_path, monkeypatch) == ["compare"]
    assert "--log-format" in completed("segwatch run --lo", tmp_path, monkeypatch)
    assert sorted(completed("segwatch status n", tmp_path, monkeypatch)) == ["night-1", "night-2"]
    assert completed("segwatch compare night-1 d", tmp_path, monkeypatch) == ["day"]
    assert completed("segwatch status n", tmp_path / "runs", monkeypatch) == []
    for command in ("report", "export", "ack", "replay", "silence", "predict images --run", "evaluate", "stop", "why"):
        assert completed(f"segwatch {command} d", tmp_path, monkeypatch) == ["day"], command


# --- a test message ------------------------------------------------------------------------------------------------


@pytest.fixture
def endpoint():
    endpoint = Endpoint("t0ken")
    endpoint.start()
    yield endpoint
    endpoint.stop()


def notify_test(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, ["notify", "test", *arguments], prog_name="segwatch")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_a_test_message_really_goes_to_each_channel_also_in_quiet_hours(tmp_path, monkeypatch, endpoint):
    monkeypatch.setenv("GOOD", endpoint.url)
    monkeypatch.setenv("DEAD", "json://127.0.0.1:1/t0ken")
    extra = """
    [alerts]
    notify = ["env:GOOD", { url = "env:DEAD", severity = "critical", resolved = false, quiet_hours = "" }]
    quiet_hours = "00:00-23:59"
    daily_digest = "08:00"
    """
    (tmp_path / "run.toml").write_text(CONFIG.format(epochs=1, amp="off", extra=extra))
    code, output = notify_test(str(tmp_path / "run.toml"))
    assert code == 1
    assert [body["title"] for body in endpoint.taken] == ["segwatch: a test"]
    lines = " ".join(output.split())
    assert "ok notify env:GOOD: a test was sent and taken hears everything, a digest at 08:00, quiet 00:00-2" in lines
    assert "fail notify env:DEAD: a test was not taken" in lines
    assert "t0ken" not in output
    code, output = notify_test(str(tmp_path / "run.toml"), "--json")
    told = json.loads(output)
    assert [each["state"] for each in told] == ["ok", "fail"]
    assert told[1]["hears"] == "critical alerts, not when they are over"


def test_without_a_channel_it_says_how_to_add_one(tmp_path):
    (tmp_path / "run.toml").write_text(CONFIG.format(epochs=1, amp="off", extra=""))
    with pytest.raises(ConfigError, match=r"alerts\.notify is empty") as refused:
        notify_test(str(tmp_path / "run.toml"))
    assert "env:SLACK_URL" in refused.value.remedy
