"""What a person reads of a run: each line is named, the same figures give the same words, nothing colours itself."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console
from segwatch.daemon import cli, cli_alerts, looking, status_view, verdict
from segwatch.daemon.events import AlertAcknowledged, AlertsSilenced, RunFinished, Severity
from segwatch.daemon.quick import status_asked
from segwatch.daemon.rundir import RunDir
from typer.testing import CliRunner

from .sights import NASTY, STEP, fires, sight

SHARES = [
    {"test_pixels": 90, "test_share": 0.9, "train_share": 0.8},
    {"test_pixels": 10, "test_share": 0.1, "train_share": 0.2},
]


@pytest.fixture
def run(a_run):
    run = a_run()
    run.begins(epochs=5, names=("field", NASTY))
    return run


def words(seen: looking.Sight, *, now: float = 110.0) -> dict[str, str]:
    """By the name of the line; what stands in lines without a name belongs to the one above."""
    console = Console(file=io.StringIO(), width=80)
    console.print(status_view.drawn(verdict.status(seen), now), soft_wrap=True, highlight=False)
    lines: dict[str, str] = {}
    name = ""
    for line in console.file.getvalue().splitlines():
        name = line[:14].strip() or name
        lines[name] = f"{lines.get(name, '')}{line[14:]}\n"
    return lines


def test_every_line_is_named_and_what_is_not_known_is_a_dash(tmp_path, run, a_run):
    told = words(sight(tmp_path, run))
    assert list(told) == [
        "run",
        "state",
        "health",
        "firing",
        "attempt",
        "progress",
        "time left",
        "last score",
        "evaluation",
    ]
    assert told["time left"] == "-\n"
    assert told["progress"].startswith("epoch - of 5 (0 % done), step 0")
    assert told["last score"] == "none yet\n"
    assert told["firing"] == "nothing\n"
    assert "attempt" not in words(sight(tmp_path, a_run()))


def test_it_says_how_training_goes_and_when_the_worker_spoke_last(tmp_path, run):
    told = words(sight(tmp_path, run, progress=STEP | {"skipped_steps": 2, "lr": 5e-4}, daemon_alive=True))
    assert "step 25, loss not finite, 7.5 images/s, 2 skipped steps, last word 10 s ago" in told["progress"]
    assert told["attempt"].startswith("1: lr 0.001 (now 0.0005), AMP off, batch 4 x 1; the run begins")
    assert "a daemon watches, no worker" in told["state"]
    assert told["state"].startswith("starting, since 1970-01-01T00:00:00Z (1 min 50 s)")


def test_scores_come_with_what_they_rest_on_and_what_they_mean(tmp_path, run):
    first = run.trains(1, 0.2, interval=(0.15, 0.25))
    run.trains(2, 0.5, 0.3, interval=(0.45, 0.6), gain=run.over(first, 0.3, 0.2, 0.4), skipped=1)
    run.trains(3, 0.4, 0.6)
    told = words(sight(tmp_path, run, shares=SHARES))
    assert told["last score"] == "test mIoU 40.00 %, epoch 3\n"
    assert told["best by test"].startswith("mIoU 50.00 % (95 %: 45.0-60.0 over 3 images, 1 skipped), epoch 2: /")
    assert told["best by val"].startswith("val mIoU 60.00 % (test 40.00 %), epoch 3: ")
    assert told["grade"] == "good (50-70 %) so far\n"
    assert "rising: +20.0 points" in told["trend"]
    assert told["compared"].startswith("above what healthy runs show at epoch 3 (about 34 %")
    worst, nasty = told["classes"].splitlines()[1:]
    assert worst.split() == ["field", "40.00", "%", "-10.0", "90.00", "%", "80.00", "%"]
    assert nasty.split()[-6:] == ["-", "-", "10.00", "%", "20.00", "%"]
    assert "[red]markup[/red]" in nasty


def test_a_low_score_is_no_verdict_before_ten_epochs_and_one_when_it_is_over(tmp_path, run):
    run.trains(3, 0.2)
    assert words(sight(tmp_path, run))["grade"] == "below 30 %, which is early to judge at epoch 3\n"
    run.tell(RunFinished())
    assert words(sight(tmp_path, run))["grade"] == "needs debugging (below 30 %)\n"
    assert words(sight(tmp_path, run))["time left"] == "none\n"


def test_earlier_runs_are_named(tmp_path, run):
    run.trains(1, 0.5)
    one = words(sight(tmp_path, run, siblings={"old": [[1, 0.7]]}))["compared"]
    assert one == "below what your earlier run old had at epoch 1 (70 %)\n"
    both = words(sight(tmp_path, run, siblings={"old": [[1, 0.7]], "older": [[1, 0.4]]}))["compared"]
    assert both == "within what your 2 earlier runs had at epoch 1 (40-70 %)\n"


def test_firing_alerts_carry_what_people_said_of_them_and_silences_their_end(tmp_path, run):
    alert = fires(run, "nan-loss", Severity.CRITICAL)
    run.tell(AlertAcknowledged(fingerprint=alert.fingerprint, since=alert.since, by="mia"))
    fires(run, "miou-stall")
    run.tell(AlertsSilenced(code="miou-stall", until=170.0, by="mia"))
    told = words(sight(tmp_path, run))
    assert told["firing"].splitlines() == [
        "nan-loss (critical), for 1 min 48 s; acknowledged by mia",
        "miou-stall (warning), for 1 min 46 s; silenced",
    ]
    assert told["silenced"] == "miou-stall until 1970-01-01T00:02:50Z (another 1 min 00 s)\n"
    assert "silenced" not in words(sight(tmp_path, run), now=170.0), "its time is over, whether a daemon said so or not"
    assert "\x1b" not in "".join(told.values())
    assert told["health"].startswith('unhealthy: nan-loss: a "quoted" line [red]markup[/red]')


def test_many_alerts_and_many_classes_leave_room_for_the_rest(tmp_path, a_run):
    run = a_run()
    run.begins(names=tuple(f"class {number}" for number in range(40)))
    score = run.scores(run.commits(1), "val", 0.5)
    run.tell(score.model_copy(update={"split": "test", "class_iou": (0.5,) * 40}))
    for number in range(30):
        fires(run, fingerprint=f"f{number}")
    told = words(sight(tmp_path, run))
    assert len(told["classes"].splitlines()) == 18
    assert "and 24 better ones: --json has them all" in told["classes"]
    assert told["firing"].splitlines()[-1] == "and 22 more: `segwatch alerts`"


@pytest.mark.parametrize("height", [24, 30, 50])
def test_a_screen_cuts_classes_and_nothing_else(tmp_path, a_run, height):
    run = a_run()
    run.begins(epochs=50, names=tuple(f"class {number}" for number in range(40)))
    for epoch in (1, 2):
        run.trains(epoch, 0.1 * epoch)
    score = run.scores(run.commits(3), "val", 0.5)
    run.tell(score.model_copy(update={"split": "test", "class_iou": (0.5,) * 40}))
    fires(run)
    figures = verdict.status(sight(tmp_path, run, progress=STEP))
    console = Console(file=io.StringIO(), width=80, height=height, force_terminal=True, color_system=None)
    lines = console.render_lines(status_view.fitted(figures, 110.0, console), pad=False)
    told = ["".join(segment.text for segment in line) for line in lines]
    named = [line[:14].strip() for line in told]
    assert len(told) <= height
    assert {"run", "health", "firing", "last score", "classes", "evaluation"} <= set(named)
    assert named.index("firing") < named.index("last score")
    assert any("better ones" in line for line in told)
    shown = sum(line[14:].startswith("class ") for line in told)
    assert shown == status_view.CLASSES_SHOWN or (shown > 0 and len(told) == height)


def test_where_not_one_class_fits_the_page_says_where_they_are(tmp_path, a_run):
    run = a_run()
    run.begins(names=("field", "road"))
    run.trains(1, 0.5)
    console = Console(file=io.StringIO(), width=80, height=5, force_terminal=True)
    page = status_view.fitted(verdict.status(sight(tmp_path, run)), 110.0, console).plain
    assert "no room for 2 here: `segwatch status` shows them" in page


def test_the_gpu_is_told_where_it_is_known_and_else_what_the_worker_said(tmp_path, run):
    gpu = {"index": "0", "name": "H100", "memory_used_mb": 2048.0, "memory_total_mb": 81920.0}
    told = words(sight(tmp_path, run, gpus=[gpu | {"utilisation_percent": 97.0}]))
    assert told["device"] == "GPU 0 H100: 2.0 of 80.0 GiB, 97 % busy\n"
    unknown = gpu | {"memory_used_mb": None, "utilisation_percent": None}
    assert words(sight(tmp_path, run, gpus=[unknown]))["device"] == "GPU 0 H100: - of 80.0 GiB, - % busy\n"
    seen = sight(tmp_path, run, progress=STEP)
    seen.figures["attempt"]["device"] = "cpu"
    assert words(seen)["device"] == "cpu, 0.81 GB used by the worker\n"


@pytest.mark.parametrize(("json_", "terminal"), [(True, False), (False, False), (False, True)])
def test_watching_draws_until_it_is_enough(tmp_path, run, monkeypatch, json_, terminal):
    monkeypatch.setattr(looking.Looker, "look", lambda _self: sight(tmp_path, run))
    monkeypatch.setattr(status_view, "WATCH_SECONDS", 0.0)
    console = Console(file=io.StringIO(), width=120, force_terminal=terminal)
    times = iter((False, False, True))
    status_view.watch(RunDir(tmp_path), console, json=json_, enough=lambda: next(times))
    text = console.file.getvalue()
    if json_:
        assert [json.loads(line)["state"] for line in text.splitlines()] == ["interrupted"] * 3
    else:
        assert text.count("state ") >= 3


# --- past the parser --------------------------------------------------------------------------------------------------

PLAIN = [
    ["status"],
    ["status", "one"],
    ["status", "--json"],
    ["status", "one", "--json", "--runs-dir", "there"],
    ["status", "--runs-dir", "there", "-w", "one"],
    ["status", "--watch"],
]


@pytest.mark.parametrize("arguments", PLAIN, ids=" ".join)
def test_a_plain_status_is_understood_as_the_parser_understands_it(arguments, monkeypatch):
    told: list[object] = []

    def note(name: str, answer: object = None):
        return lambda *given, **named: (told.append((name, given, named)), answer)[1]

    monkeypatch.setattr(cli_alerts, "found", note("found", "the run"))
    monkeypatch.setattr(cli_alerts, "print_json", note("json"))
    monkeypatch.setattr(looking, "look_at", note("look"))
    monkeypatch.setattr(verdict, "status", note("status"))
    monkeypatch.setattr(cli_alerts, "console", lambda: "here")
    monkeypatch.setattr(status_view, "show", note("show"))
    monkeypatch.setattr(status_view, "show_next", note("next"))
    monkeypatch.setattr(status_view, "watch", note("watch"))
    assert CliRunner().invoke(cli.app, arguments).exit_code == 0
    parsed, told[:] = list(told), []
    cli_alerts.status(**status_asked(arguments))
    assert told == parsed
    assert len(told) > 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["best"],
        ["--debug", "status"],
        ["status", "--help"],
        ["status", "-h"],
        ["status", "a", "b"],
        ["status", "--jsn"],
        ["status", "--runs-dir"],
        ["status", "--runs-dir", "--json"],
        ["status", "--runs-dir=there"],
        ["status", ""],
        ["status", "--"],
    ],
    ids=" ".join,
)
def test_whatever_is_not_plain_is_left_to_the_parser(arguments):
    assert status_asked(arguments) is None


def test_a_mistake_past_the_parser_is_told_as_any_other(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["segwatch", "status", "--runs-dir", str(tmp_path)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("segwatch: no run in ")
