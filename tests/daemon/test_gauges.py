"""prometheus.prom, read by a parser that is stricter than Prometheus: what is not known is left out."""

from __future__ import annotations

import math
import re

import pytest
from segwatch.daemon.events import DaemonStopped, GaveUp, Outcome, RunFinished
from segwatch.daemon.gauges import STATES, Gauges, exposition, gauges_path, state_of
from segwatch.trainer.contract import Cause, Progress, Started

NAME, LABEL = r"[a-zA-Z_:][a-zA-Z0-9_:]*", r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(rf"({NAME})\{{({LABEL}(?:,{LABEL})*)\}} (\S+)")
Sample = tuple[str, tuple[tuple[str, str], ...]]


def parsed(text: str) -> dict[Sample, float]:
    """Raises where the exposition format 0.0.4 is broken: order, types, escapes, doubles, an unended line."""
    assert text.endswith("\n")
    samples: dict[Sample, float] = {}
    seen: list[str] = []
    helped = typed = ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            helped = line.split(" ", 3)[2]
            assert helped not in seen, "a family stands in one piece"
            seen.append(helped)
        elif line.startswith("# TYPE "):
            _, _, typed, kind = line.split(" ")
            assert typed == helped
            assert kind in {"gauge", "counter"}
            assert (kind == "counter") == typed.endswith("_total")
        else:
            name, labels, value = SAMPLE.fullmatch(line).groups()
            assert name == typed
            key = name, tuple(tuple(pair.split("=", 1)) for pair in re.findall(LABEL, labels))
            assert key not in samples, "no sample twice"
            samples[key] = float(value)
            assert math.isfinite(samples[key])
    return samples


def values(samples: dict[Sample, float], name: str) -> dict[str, float]:
    """By the value of the last label but the run's."""
    return {labels[-1][1].strip('"') if len(labels) > 1 else "": v for (n, labels), v in samples.items() if n == name}


def progress(**changes) -> Progress:
    line = {"time": 5.0, "step": 7, "epoch": 2, "step_in_epoch": 1, "loss": 0.25, "grad_norm": None, "lr": 5e-5}
    return Progress(**line | {"images_per_second": 3.5, "p99_step_seconds": 0.1, "memory_mb": 1500.0} | changes)


def test_a_run_that_has_not_begun_is_valid_and_holds_no_score(a_run):
    samples = parsed(exposition("one", a_run().history, None, 1.0))
    names = {name for name, _ in samples}
    assert "segwatch_state" in names
    assert not {"segwatch_epoch", "segwatch_miou", "segwatch_best_miou", "segwatch_loss"} & names


def test_the_main_gauges_say_what_the_history_says(a_run):
    run = a_run()
    run.begins(epochs=10, names=("field", "road"))
    run.trains(1, 0.5, 0.6)
    run.trains(2, 0.4, 0.7)
    run.commits(3)
    run.suffers(Cause.NAN_LOSS)
    samples = parsed(exposition("one", run.history, progress(), 99.0))
    assert all(labels[0] == ("run", '"one"') for _, labels in samples)
    assert values(samples, "segwatch_miou") == {"val": 0.7, "test": 0.4}
    assert values(samples, "segwatch_best_miou") == {"val": 0.7, "test": 0.5}
    assert values(samples, "segwatch_best_epoch") == {"val": 2.0, "test": 1.0}
    assert values(samples, "segwatch_epoch") == {"": 3.0}
    assert values(samples, "segwatch_epochs_to_score") == {"": 1.0}
    assert values(samples, "segwatch_incidents_total") == {"nan-loss": 1.0}
    assert values(samples, "segwatch_learning_rate") == {"": 5e-5}
    assert values(samples, "segwatch_memory_bytes") == {"": 1.5e9}
    assert values(samples, "segwatch_updated_timestamp_seconds") == {"": 99.0}
    assert [labels for name, labels in samples if name == "segwatch_class_iou"] == [
        (("run", '"one"'), ("class", '"field"'), ("index", '"0"'))  # road has no score
    ]


def test_a_loss_that_is_not_finite_is_left_out(a_run):
    run = a_run()
    run.begins()
    samples = parsed(exposition("one", run.history, progress(loss=None), 1.0))
    assert values(samples, "segwatch_loss") == {}
    assert values(samples, "segwatch_step") == {"": 7.0}


def test_names_with_quotes_breaks_and_backslashes_stay_one_label(a_run):
    run = a_run()
    run.begins(names=('a "b"\\\n{c} é', "x"))
    run.trains(1, 0.5)
    text = exposition('r"un', run.history, None, 1.0)
    parsed(text)
    assert 'class="a \\"b\\"\\\\\\n{c} é"' in text
    assert 'run="r\\"un"' in text


@pytest.mark.parametrize(
    ("event", "state"),
    [
        (None, "starting"),
        (RunFinished(trained=0, unscored=0), "finished"),
        (GaveUp(reason="so", exit_code=1), "gave-up"),
        (DaemonStopped(reason="SIGTERM"), "stopped"),
    ],
)
def test_exactly_one_state_is_1(a_run, event, state):
    run = a_run()
    run.begins()
    if event is not None:
        run.tell(event)
    states = values(parsed(exposition("one", run.history, None, 1.0)), "segwatch_state")
    assert set(states) == set(STATES)
    assert [each for each, value in states.items() if value == 1.0] == [state]


def test_what_a_worker_said_that_is_gone_is_not_told(a_run):
    run = a_run()
    run.begins()
    run.ends(Outcome.CRASHED)
    samples = parsed(exposition("one", run.history, progress(), 1.0))
    assert values(samples, "segwatch_step") == {}
    assert state_of(run.history) == "recovering"


def test_the_file_is_replaced_whole_now_and_then_and_leaves_nothing_beside_it(tmp_path, a_run):
    run, now = a_run(), [100.0]
    run.begins()
    gauges = Gauges(tmp_path, "prometheus.prom", run.history, clock=lambda: now[0])
    gauges.look()
    first = (tmp_path / "prometheus.prom").stat().st_ino
    now[0] = 114.0
    gauges.look()
    assert (tmp_path / "prometheus.prom").stat().st_ino == first
    now[0] = 115.0
    gauges.progress(progress())
    gauges.look()
    assert values(parsed((tmp_path / "prometheus.prom").read_text()), "segwatch_step") == {"": 7.0}
    started = {"lr": 1e-3, "amp": "off", "device": "cpu", "parameters": 1, "steps_per_epoch": 1, "pid": 1}
    gauges.progress(Started.model_construct(time=1.0, **started))
    gauges.write()
    assert "segwatch_step" not in (tmp_path / "prometheus.prom").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["prometheus.prom"]


def test_a_place_that_cannot_be_written_to_is_said_once_and_stops_nothing(tmp_path, a_run, caplog):
    gauges = Gauges(tmp_path, "/nowhere/at/all.prom", a_run().history, clock=lambda: 1.0)
    gauges.write()
    gauges.write()
    assert len(caplog.records) == 1
    Gauges(tmp_path, "", a_run().history).write()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_takes_one_file_for_each_run(tmp_path):
    run = tmp_path / "runs" / "one"
    assert gauges_path(run, str(tmp_path)) == tmp_path / "segwatch-one.prom"
    assert gauges_path(run, "prometheus.prom") == run / "prometheus.prom"
    assert gauges_path(run, "/var/lib/x.prom").name == "x.prom"
    assert gauges_path(run, "") is None
