"""`--log-format json`: whatever is printed, each line is one object."""

from __future__ import annotations

import io
import json
import logging
import sys

import pytest
from rich.table import Table
from segwatch.daemon.events import AlertChanged, AlertState, EpochCommitted, GaveUp, Severity
from segwatch.daemon.json_lines import JsonConsole, JsonFormatter, JsonScreen
from segwatch.daemon.logs import log_to
from segwatch.trainer.contract import Cause

ALERT = AlertChanged(
    fingerprint="f",
    code="nan-loss",
    severity=Severity.CRITICAL,
    state=AlertState.FIRING,
    since=5.0,
    cause="the loss is\n\x1b[31mNaN",
    evidence={"step": 6},
    action="lr halved",
    advice="look",
)


def told(stream: io.StringIO) -> list[dict]:
    lines = stream.getvalue().splitlines()
    objects = [json.loads(line) for line in lines]
    assert all({"time", "level", "kind", "text"} <= each.keys() for each in objects)
    return objects


def test_a_fact_is_one_object_with_all_that_was_recorded():
    stream = io.StringIO()
    screen = JsonScreen(JsonConsole(stream))
    committed = EpochCommitted(attempt=1, epoch=3, step=9, manifest="checkpoints/x.json", sha256="ab", finite=True)
    screen.handle(12.5, committed)
    (line,) = told(stream)
    assert line["time"] == 12.5
    assert line["kind"] == "epoch-committed"
    assert line["text"] == "epoch 3 committed (step 9)"
    assert line["fact"]["sha256"] == "ab"


def test_an_alert_that_is_only_pending_is_told_by_its_name():
    stream = io.StringIO()
    JsonScreen(JsonConsole(stream)).handle(1.0, ALERT.model_copy(update={"state": AlertState.PENDING}))
    assert [(line["text"], line["level"]) for line in told(stream)] == [("alert pending: nan-loss", "info")]


@pytest.mark.parametrize(
    ("event", "level"),
    [
        (ALERT, "error"),
        (ALERT.model_copy(update={"severity": Severity.WARNING}), "warning"),
        (ALERT.model_copy(update={"state": AlertState.RESOLVED}), "info"),
        (GaveUp(reason="so", exit_code=1), "error"),
    ],
)
def test_the_level_is_that_of_the_fact(event, level):
    stream = io.StringIO()
    JsonScreen(JsonConsole(stream)).handle(1.0, event)
    assert [line["level"] for line in told(stream)] == [level]


def test_an_incident_that_ends_an_attempt_is_an_error_and_one_that_does_not_a_warning(a_run):
    run, stream = a_run(), io.StringIO()
    run.begins()
    screen = JsonScreen(JsonConsole(stream))
    for fatal in (True, False):
        screen.handle(1.0, run.suffers(Cause.NAN_LOSS, fatal=fatal))
    assert [line["level"] for line in told(stream)] == ["error", "warning"]


def test_whatever_else_is_printed_comes_line_by_line_without_colours_or_control_characters():
    stream = io.StringIO()
    console = JsonConsole(stream)
    table = Table("class", "IoU")
    table.add_row("field\x1b[2J", "61 %")
    console.print("[bold]two\nlines", end="")
    console.print(" and more\n\n")
    console.print(table)
    JsonScreen(console).say("adopted\nthe worker")
    texts = [line["text"] for line in told(stream)]
    assert texts[:2] == ["two", "lines and more"]
    assert texts[-1] == "adopted the worker"
    assert any("field" in text and "61 %" in text for text in texts)
    assert "\\u001b" not in stream.getvalue()
    assert not console.is_terminal


def test_a_traceback_in_daemon_log_is_part_of_one_object(tmp_path):
    with log_to(tmp_path / "daemon.log", JsonFormatter()):
        try:
            raise ValueError("so")
        except ValueError:
            logging.getLogger("segwatch.daemon.board").exception("cannot show %s", "it")
    (line,) = [json.loads(each) for each in (tmp_path / "daemon.log").read_text().splitlines()]
    assert (line["level"], line["logger"], line["text"]) == ("error", "segwatch.daemon.board", "cannot show it")
    assert line["traceback"].endswith("ValueError: so")


def test_a_reader_who_leaves_ends_nothing(monkeypatch):
    class Broken(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr("segwatch.daemon.terminal.look_away", lambda: None)
    JsonScreen(JsonConsole(Broken())).handle(1.0, ALERT)
    assert sys.stdout is not None


def test_a_whole_run_prints_nothing_but_objects_and_leaves_its_gauges(daemon):
    daemon.configure(epochs=1)
    code, output = daemon.run("--log-format", "json")
    assert code == 0, output
    kinds = [json.loads(line)["kind"] for line in output.splitlines()]
    assert {"run-created", "epoch-committed", "score", "run-finished", "text"} <= set(kinds)
    gauges = (daemon.run_dir / "prometheus.prom").read_text()
    assert 'state="finished"} 1.0' in gauges
    assert 'segwatch_best_miou{run="run",split="test"}' in gauges
