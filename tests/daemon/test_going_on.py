"""The command that goes on with a run: typed as it is printed, it means that run and no other."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from segwatch.daemon import going_on
from segwatch.daemon.config import AlertsConfig
from segwatch.daemon.events import GaveUp
from segwatch.daemon.looking import Looker
from segwatch.daemon.rules import Rules
from segwatch.daemon.rundir import RunDir
from segwatch.daemon.store import Store
from segwatch.daemon.verdict import status


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_at(path: Path, source: Path | None) -> RunDir:
    path.mkdir(parents=True, exist_ok=True)
    if source is not None:
        going_on.remember(RunDir(path), source)
    return RunDir(path)


@pytest.mark.parametrize(
    ("place", "source", "told"),
    [
        ("runs/aerial", "aerial.toml", "segwatch run aerial.toml"),
        ("runs/night", "aerial.toml", "segwatch run aerial.toml --name night"),
        ("data/runs/run", "data/run.toml", "segwatch run data/run.toml --runs-dir data/runs"),
        ("my runs/x y", "a b.toml", "segwatch run 'a b.toml' --name 'x y' --runs-dir 'my runs'"),
        ("runs/night", None, "segwatch run RUN.TOML --name night"),
    ],
)
def test_it_names_what_is_not_to_be_guessed(here, place, source, told):
    run = run_at(here / place, None if source is None else Path(source))
    assert going_on.command(run) == told
    assert going_on.command(run, "--retry") == f"{told} --retry"


def test_from_elsewhere_it_is_another_line_for_the_same_run(here, tmp_path_factory, monkeypatch):
    run = run_at(here / "runs/run", Path("run.toml"))
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert going_on.command(run) == f"segwatch run {here}/run.toml --runs-dir {here}/runs"


def test_the_file_that_was_called_last_is_the_one_that_goes_on(here):
    run = run_at(here / "runs/run", Path("run.toml"))
    going_on.remember(run, Path("moved/run.toml"))
    assert going_on.command(run) == "segwatch run moved/run.toml"


def test_what_an_alert_advises_can_be_typed_anywhere(here, a_run):
    run, story = run_at(here / "runs/my night", Path("run.toml")), a_run()
    story.begins()
    for epoch in (1, 2, 3):
        story.trains(epoch, 0.02)
    story.tell(GaveUp(reason="spent"))
    rules = Rules(AlertsConfig(), calls=going_on.calls(run))
    advice = {alert.code: alert.advice for alert in rules.current_alerts(story.history)}
    again = shlex.join(["segwatch", "run", f"{here}/run.toml", "--name", "my night", "--runs-dir", f"{here}/runs"])
    assert f"`{again} --retry`" in advice["gave-up"]
    assert f"`segwatch audit {here}/run.toml`" in advice["class-definition"]


def test_status_names_it_for_a_run_that_nobody_watches(here, a_run):
    run, story = run_at(here / "runs/night", Path("run.toml")), a_run()
    story.begins()
    store = Store(run.path)
    for _, event in story.told:
        store.append(event)
    store.close()
    assert "`segwatch run run.toml --name night` goes on" in status(Looker(run).look())["reason"]
