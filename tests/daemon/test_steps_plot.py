"""The picture of the last steps: what it is drawn from, what is marked, and what is said where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from segwatch.daemon import steps_plot
from segwatch.daemon.events import IncidentOpened
from segwatch.daemon.pictures import Pictures
from segwatch.daemon.steps_plot import Step, draw, read
from segwatch.trainer.contract import Cause


@pytest.fixture
def place(tmp_path) -> Path:
    directory = tmp_path / "incidents" / "001"
    directory.mkdir(parents=True)
    opened = IncidentOpened(number=1, attempt=1, cause=Cause.NAN_LOSS, step=300, epoch=3, message="m", fatal=True)
    (directory / "incident.json").write_text(opened.model_dump_json())
    (tmp_path / "attempts" / "001").mkdir(parents=True)
    return directory


def leaves_facts(place: Path) -> None:
    """What a worker knows of its steps 1 to 300; the last is not finite."""
    rows = [{"step": step, "loss": 1.0 + step / 100, "grad_norm": 2.0} for step in range(1, 300)]
    rows.append({"step": 300, "loss": "nan", "grad_norm": "inf"})
    (place / "worker.json").write_text(json.dumps({"recent": rows}))


def leaves_journal(place: Path, steps: range) -> None:
    lines = [
        {
            "kind": "progress",
            "time": 1.0 * step,
            "step": step,
            "epoch": 1,
            "step_in_epoch": step,
            "loss": 1.0,
            "grad_norm": 3.0,
            "lr": 1e-3 * step,
            "images_per_second": 1.0,
            "p99_step_seconds": 1.0,
        }
        for step in steps
    ]
    journal = place.parent.parent / "attempts" / "001" / "journal.jsonl"
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_last_200_steps_are_those_that_the_worker_kept(place):
    leaves_facts(place)
    leaves_journal(place, range(50, 350, 50))
    found = read(place)
    assert (found.steps[0].step, found.steps[-1], len(found.steps)) == (101, Step(300, None, None), 200)
    assert [step for step, _ in found.rates] == [150, 200, 250, 300]  # of the steps that are shown
    assert (found.every_step, found.fault, found.onset) == (True, 300, None)


def test_a_worker_that_was_killed_is_told_by_its_journal(place):
    leaves_journal(place, range(100, 401, 2))
    found = read(place)
    assert (found.steps[0].step, found.steps[-1]) == (102, Step(300, 1.0, 3.0))  # what came after is of no account
    assert not found.every_step


def test_a_fast_worker_whose_200_steps_are_two_lines_is_shown_a_minute(place):
    leaves_journal(place, range(0, 301, 3))
    assert len(read(place).steps) == 67
    leaves_journal(place, range(-20_000, 301, 100))
    assert len(read(place).steps) == steps_plot.LINES_AT_LEAST


def test_incident_and_onset_are_marked(place, monkeypatch):
    leaves_facts(place)
    leaves_journal(place, range(50, 350, 50))
    (place / "diagnosis.json").write_text('{"onset_step": 250}')
    found = read(place)
    assert found.onset == 250
    draw(found, place / "with.png")
    draw(steps_plot.LastSteps(found.steps, found.rates, 300, None, found.title, every_step=True), place / "without.png")
    onset = tuple(int(steps_plot.ONSET_COLOUR[at : at + 2], 16) for at in (1, 3, 5))
    assert onset in colours(place / "with.png")
    assert onset not in colours(place / "without.png")


def colours(path: Path) -> set[tuple[int, ...]]:
    with Image.open(path) as picture:
        assert min(picture.size) > 300
        return {colour for _, colour in picture.convert("RGB").getcolors(1 << 24)}


def test_where_there_is_nothing_to_draw_it_says_so(place):
    with pytest.raises(ValueError, match="the worker told of no step before this incident"):
        read(place)


def test_the_process_draws_and_leaves_or_says_why_not(place):
    """The command that the daemon starts, in one go: first with nothing to draw, then with something."""
    daemon = Pictures("steps.log")
    daemon.draw(place)
    daemon.wait()
    assert [path.name for path in daemon.done()] == ["001"]
    assert (place / "steps.log").read_text() == "the worker told of no step before this incident\n"
    leaves_facts(place)
    daemon.draw(place)
    daemon.wait()
    assert daemon.done() == [place]
    assert colours(place / "steps.png")
    assert not (place / "steps.log").exists()


def test_drawing_takes_no_memory_of_the_daemon():
    code = "import segwatch.daemon.steps_plot, segwatch.daemon.postmortems, sys; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
