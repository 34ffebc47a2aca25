"""The last lines of a screen: commands that a shell takes as they stand, and that fit how the run stands."""

from __future__ import annotations

import io
import shlex
from pathlib import Path

import pytest
from rich.console import Console
from segwatch.daemon import demo, doctor, next_steps, report, status_view, verdict
from segwatch.daemon.check import ok
from segwatch.daemon.events import Event, GaveUp, RunFinished
from segwatch.daemon.json_lines import JsonConsole
from segwatch.daemon.rundir import RunDir
from segwatch.daemon.views import to_try_it_on
from segwatch.data.resolved import Pair, ResolvedData

from .sights import fires, sight


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_command_names_paths_as_they_are_called_from_here_and_quotes_them(here):
    assert next_steps.command("why", here / "runs" / "my run", "2") == "segwatch why 'runs/my run' 2"
    assert next_steps.command("status", Path("/elsewhere/run")) == "segwatch status /elsewhere/run"


def test_a_line_of_a_block_holds_a_command_and_nothing_else():
    text = next_steps.block("segwatch best a", "segwatch report a")
    assert text == "\nNext:\n  segwatch best a\n  segwatch report a"


# --- which images the best network is tried on -----------------------------------------------------------------------


def data(root: Path, **splits: tuple[str, str]) -> ResolvedData:
    for image, _ in splits.values():
        (root / image).parent.mkdir(parents=True, exist_ok=True)
        (root / image).touch()
    pairs = {name: (Pair(image=image, mask=mask),) for name, (image, mask) in splits.items()}
    return ResolvedData(root=root, scale=1.0, classes=(), splits=pairs)


def test_the_best_network_is_tried_on_the_directory_of_the_test_images(tmp_path):
    kept_apart = data(tmp_path, train=("images/train/a.png", "masks/a.png"), test=("images/test/b.png", "masks/b.png"))
    assert to_try_it_on(kept_apart) == tmp_path / "images" / "test"


@pytest.mark.parametrize(
    "splits",
    [
        {"train": ("images/a.png", "masks/a.png"), "test": ("images/b.png", "masks/b.png")},
        {"test": ("test/b.png", "test/b_mask.png")},
        {"test": ("test/b.jpg", "test/masks/b.png")},
        {"train": ("train/deeper/a.png", "masks/a.png"), "test": ("b.png", "masks/b.png")},
    ],
    ids=["images of train", "masks", "masks below", "images of train below"],
)
def test_where_others_lie_beside_them_it_is_one_image(tmp_path, splits):
    assert to_try_it_on(data(tmp_path, **splits)) == tmp_path / splits["test"][0]


def test_images_that_are_gone_are_not_proposed(tmp_path):
    gone = data(tmp_path, test=("test/b.png", "masks/b.png"))
    (tmp_path / "test/b.png").unlink()
    assert to_try_it_on(gone) is None


# --- what follows on which screen ---------------------------------------------------------------------------------


def after_status(seen) -> str:
    console = Console(file=io.StringIO(), width=80)
    status_view.show_next(verdict.status(seen), console)
    return console.file.getvalue()


def test_status_leads_to_what_it_leaves_open(tmp_path, a_run):
    run = a_run()
    run.begins(epochs=5)
    place = shlex.quote(next_steps.shown(tmp_path))
    assert after_status(sight(tmp_path, run)) == "", "nothing has happened, and nothing is under way"
    run.trains(1, 0.2)
    assert after_status(sight(tmp_path, run)).split(maxsplit=1)[1] == f"segwatch best {place}\n"
    fires(run)
    assert after_status(sight(tmp_path, run)).split(maxsplit=1)[1] == f"segwatch alerts {place}\n"


@pytest.fixture
def closing(here, a_run, monkeypatch):
    """What is printed at the end of a run that ends like this."""
    monkeypatch.setattr(report, "frozen_data", lambda _run: data(here))

    def said(console: Console, file: io.StringIO, ends: Event) -> str:
        run = a_run()
        run.begins(epochs=1)
        run.tell(ends)
        report.say_how_it_went(RunDir(here / "runs" / "a run"), run.history, console, 0)
        return file.getvalue()

    return said


@pytest.mark.parametrize(
    ("ends", "verbs"),
    [(RunFinished(), ("status", "best")), (GaveUp(reason="no remedy is left", exit_code=1), ("status", "alerts"))],
    ids=["finished", "gave up"],
)
def test_the_end_of_a_run_leads_on(closing, ends, verbs):
    file = io.StringIO()
    _, _, then = closing(Console(file=file), file, ends).partition("\nNext:\n")
    assert then.splitlines() == [f"  segwatch {verb} 'runs/a run'" for verb in verbs]


def test_in_lines_for_programs_it_does_not(closing):
    file = io.StringIO()
    said = closing(JsonConsole(file), file, RunFinished())
    assert "where to look" in said
    assert "Next" not in said


def test_doctor_sends_nobody_to_train_on_data_that_nobody_has_looked_at(here):
    console = Console(file=io.StringIO(), width=80)
    found = doctor.Examination(Path("run.toml"), (ok("clock", "ticks"),))
    doctor.say(found, console)
    (here / "audit.md").write_text("# Audit\n\n**Ready to train.**\n")
    doctor.say(found, console)
    first, second = console.file.getvalue().split("Ready. Next:\n")[1:]
    assert first.split("\n")[:2] == ["  segwatch audit run.toml", "  segwatch run run.toml"]
    assert second == "  segwatch run run.toml\n"


def test_the_demo_sends_nobody_on_with_the_settings_of_its_scenes(here, monkeypatch):
    monkeypatch.setattr(demo, "run_job", lambda *_given, **_more: 0)
    monkeypatch.setattr(demo, "write_scenes", lambda place, **_more: place.mkdir())
    console = Console(file=io.StringIO(), width=80)
    assert demo.run_demo(here / "demo", console) == 0
    _, _, said = console.file.getvalue().partition("Your data:")
    assert said.split()[:3] == ["segwatch", "init", "DIR"]
    assert "copy" not in said
