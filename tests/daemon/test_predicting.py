"""`segwatch predict` around a fake evaluator: which images, where to, what is refused before anything is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console
from segwatch.daemon import cli, predicting
from segwatch.daemon.choosing import Wish
from segwatch.daemon.config import load_config
from segwatch.daemon.freezing import create
from segwatch.daemon.job import StoppedEarly
from segwatch.daemon.predicting import Manner, Prediction, find_targets, predict
from segwatch.daemon.rundir import RunDir
from segwatch.daemon.store import Store
from segwatch.data.resolved import ResolvedClass, ResolvedData
from segwatch.errors import ConfigError, UsageError
from segwatch.evaluator.report import Ready, Working
from segwatch.evaluator.task import Predicted, PredictTask, Spoiled, TaskAnswer
from typer.testing import CliRunner

TOML = """\
[data]
classes = "classes.json"
images = "images"
masks = "masks"
split = { val = 0.1, test = 0.1 }
[evaluator]
window = 320
batch_size = 3
device = "cpu"
"""
COLOURS = {0: (1, 2, 3), 5: (9, 9, 9)}


@pytest.fixture
def run(tmp_path: Path, a_run) -> RunDir:
    (tmp_path / "run.toml").write_text(TOML)
    run = RunDir(tmp_path / "runs" / "one")
    classes = tuple(ResolvedClass(id=i, name=f"class {i}", colour=c, pixels={}) for i, c in COLOURS.items())
    data = ResolvedData(root=tmp_path, scale=0.25, classes=classes, splits={"train": (), "val": (), "test": ()})
    create(run, tmp_path / "run.toml", load_config(tmp_path / "run.toml"), data)
    story = a_run()
    story.begins()
    story.trains(1, 0.5)
    store = Store(run.path)
    for _, event in story.told:
        store.append(event)
    store.close()
    return run


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[PredictTask]:
    """What the evaluator was asked; it predicts three pixels of the first class and one of the second."""
    tasks: list[PredictTask] = []

    def send(_command: object, task: PredictTask) -> Iterator[TaskAnswer]:
        tasks.append(task)
        yield Ready(device="cpu", seconds=0.1)
        for target in task.targets:
            yield Working(what=str(target.image), done=1, total=2)
            if target.image.stem == "stop":
                raise StoppedEarly(2)
            if target.image.stem == "bad":
                yield Spoiled(image=str(target.image), reason="cannot be decoded: cut short")
                continue
            yield Predicted(image=str(target.image), height=2, width=2, pixels=(3, 1), window=0, seconds=0.5)

    monkeypatch.setattr(predicting, "send", send)
    return tasks


@pytest.fixture
def tiles(tmp_path: Path) -> Callable[..., Path]:
    """A function that makes a directory of empty files."""

    def make(*names: str) -> Path:
        for name in names:
            (tmp_path / "tiles" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "tiles" / name).touch()
        return tmp_path / "tiles"

    return make


def predicted(run: RunDir, images: list[Path], output: Path, **settings: object) -> Prediction:
    settings = {"wish": Wish(), "manner": Manner(), **settings}
    return predict(run, images, output, Console(quiet=True), **settings)


# --- which images --------------------------------------------------------------------------------------------------


def test_a_directory_gives_its_images_by_name_and_keeps_its_sub_directories(tiles, tmp_path):
    directory = tiles("b.png", "a.tif", "west/a.JPG", "notes.txt", ".hidden.png")
    targets = find_targets([directory], tmp_path / "out")
    assert [target.stem.relative_to(tmp_path / "out").as_posix() for target in targets] == ["a", "b", "west/a"]
    assert targets[0].ids == tmp_path / "out" / "a_ids.png"


def test_an_image_that_is_named_twice_is_predicted_once(tiles, tmp_path):
    directory = tiles("a.png")
    assert len(find_targets([directory, directory / "a.png", directory], tmp_path / "out")) == 1


def test_earlier_results_inside_the_directory_are_no_images(tiles, tmp_path):
    directory = tiles("a.png", "predictions/a_ids.png")
    assert len(find_targets([directory], directory / "predictions")) == 1


def test_a_time_stamp_keeps_its_dots(tiles, tmp_path):
    directory = tiles("1658137057.641204937.jpg")
    (target,) = find_targets([directory / "1658137057.641204937.jpg"], tmp_path)
    assert target.overlay.name == "1658137057.641204937_overlay.png"


def test_everything_that_is_not_there_is_named_at_once(tiles, tmp_path):
    with pytest.raises(UsageError, match=r"x\.png.*y\.png"):
        find_targets([tmp_path / "x.png", tiles("a.png"), tmp_path / "y.png"], tmp_path / "out")


def test_a_directory_without_images_is_a_mistake(tiles, tmp_path):
    with pytest.raises(ConfigError, match="no images there"):
        find_targets([tiles("notes.txt")], tmp_path / "out")


# --- what is refused before anything is written ---------------------------------------------------------------------


def test_names_that_collide_are_told_beforehand_with_both_images(run, asked, tiles, tmp_path):
    directory = tiles("a.png", "a.jpg", "b.png")
    with pytest.raises(UsageError, match="the same names") as caught:
        predicted(run, [directory], tmp_path / "out")
    assert f"{directory / 'a.jpg'} and {directory / 'a.png'}" in str(caught.value)
    assert "b.png" not in str(caught.value)
    assert not asked


def test_results_never_lie_upon_an_image_even_with_overwrite(run, asked, tiles):
    directory = tiles("a.png", "a_ids.png")
    with pytest.raises(UsageError, match="upon images"):
        predicted(run, [directory / "a.png", directory / "a_ids.png"], directory, overwrite=True)
    assert not asked


def test_nothing_is_overwritten_unless_a_person_says_so(run, asked, tiles, tmp_path):
    directory = tiles("a.png", "b.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b_colour.png").write_text("mine")
    with pytest.raises(UsageError, match=r"1 results are there already: .*b_colour\.png"):
        predicted(run, [directory], tmp_path / "out")
    assert not asked
    assert predicted(run, [directory], tmp_path / "out", overwrite=True).exit_code == 0


# --- how ------------------------------------------------------------------------------------------------------------


def test_images_are_looked_at_as_in_the_run_s_own_evaluation(run, asked, tiles, tmp_path):
    predicted(run, [tiles("a.png")], tmp_path / "out")
    (task,) = asked
    assert (task.window, task.batch_size, task.overlap, task.flips, task.scaled) == (320, 3, 0.25, False, False)
    assert (task.source.device, task.source.checkpoint.epoch) == ("cpu", 1)


def test_what_a_person_asks_for_comes_first(run, asked, tiles, tmp_path):
    manner = Manner(window=0, overlap=0.5, flips=True, scaled=True, device="cuda:1")
    predicted(run, [tiles("a.png")], tmp_path / "out", manner=manner)
    (task,) = asked
    assert (task.window, task.overlap, task.flips, task.scaled, task.source.device) == (0, 0.5, True, True, "cuda:1")


# --- as a person meets it -------------------------------------------------------------------------------------------


def segwatch(run: RunDir, *arguments: object) -> tuple[int, str, str]:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(
        cli.app, ["predict", *map(str, arguments), "--run", str(run.path)], prog_name="segwatch"
    )
    return result.exit_code, result.stdout, result.stderr


def test_it_says_which_checkpoint_what_the_images_hold_and_where_the_results_are(run, asked, tiles, tmp_path):
    code, said, _ = segwatch(run, tiles("a.png", "b.png"), "--output", tmp_path / "out", "--flips")
    assert code == 0
    assert "epoch 1 of attempt 1, best by test: test mIoU 50.00 %" in said
    assert "trained without augment.flip" in said
    assert said.index("0 class 0") < said.index("5 class 5")
    assert "75.00 %" in said
    assert f"2 images predicted at the size of each image: {tmp_path / 'out'}" in said


def test_a_bad_image_is_named_and_the_exit_code_is_1(run, asked, tiles, tmp_path):
    code, said, _ = segwatch(run, tiles("a.png", "bad.png"), "--output", tmp_path / "out")
    assert code == 1
    assert f"{tmp_path / 'tiles' / 'bad.png'}: cannot be decoded: cut short" in said
    assert "1 image could not be predicted" in said


def test_ctrl_c_says_how_far_it_came_and_ends_with_130(run, asked, tiles, tmp_path):
    code, said, _ = segwatch(run, tiles("a.png", "b.png", "stop.png", "z.png"), "--output", tmp_path / "out")
    assert code == 130
    assert f"stopped: the results of 2 of 4 images are in {tmp_path / 'out'}" in said


def test_json_holds_the_shares_by_class_of_every_image_and_nothing_else_is_printed(run, asked, tiles, tmp_path):
    code, said, beside = segwatch(run, tiles("a.png", "bad.png"), "--output", tmp_path / "out", "--json")
    assert code == 1
    found = json.loads(said)
    (image,) = found["images"]
    assert image["shares"] == {"0": 0.75, "5": 0.25}
    assert image["ids"] == str(tmp_path / "out" / "a_ids.png")
    assert [entry["id"] for entry in found["classes"]] == [0, 5]
    assert (found["checkpoint"]["epoch"], found["checkpoint"]["test_miou"]) == (1, 0.5)
    assert [entry["reason"] for entry in found["failed"]] == ["cannot be decoded: cut short"]
    assert "best by test" in beside
