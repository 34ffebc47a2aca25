"""docs/predict.md is true: its commands print what the page shows, its Python runs. The first one in a real process."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from segwatch.checkpoints.files import Identity, commit
from segwatch.checkpoints.manifest import Architecture, Manifest, Role
from segwatch.daemon import cli, exporting, predicting
from segwatch.daemon.config import load_config
from segwatch.daemon.events import EpochCommitted
from segwatch.daemon.freezing import create
from segwatch.daemon.rundir import RunDir
from segwatch.daemon.store import Store
from segwatch.data.resolved import Pair, ResolvedClass, ResolvedData
from segwatch.data.scenes import draw_scene
from segwatch.evaluator.errand import answers
from segwatch.evaluator.export import export
from segwatch.evaluator.predict import predict
from segwatch.evaluator.task import ExportTask, PredictTask, TaskAnswer
from segwatch.trainer.unet import UNet
from typer.testing import CliRunner

from .conftest import REPOSITORY
from .daemon.conftest import Story

PAGE = (REPOSITORY / "docs" / "predict.md").read_text()
CONSOLE: list[str] = re.findall(r"```console\n(.*?)```", PAGE, flags=re.DOTALL)
PYTHON: dict[str, str] = {
    text.split("\n")[0].removeprefix("# "): text for text in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
}
RUN_TOML = """\
[data]
classes = "classes.toml"
images = "images"
masks = "masks"
split = { val = 0.1, test = 0.1 }
[evaluator]
device = "cpu"
threads = 1
"""
CLASSES = ((0, "dirt", (181, 152, 110)), (1, "paved_road", (128, 64, 128)), (2, "green_field", (107, 142, 35)))


def has(*packages: str) -> bool:
    return all(importlib.util.find_spec(package) is not None for package in packages)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with two tiles and a run of two epochs, whose weights are real and whose scores are told."""
    place = tmp_path_factory.mktemp("place")
    for number, name in enumerate(("harbour", "village")):
        image, mask = draw_scene(np.random.default_rng(number), (120, 90))
        for directory, picture in (("tiles", image), ("masks-of-tiles", mask)):
            (place / directory).mkdir(exist_ok=True)
            picture.save(place / directory / f"{name}.{'jpg' if picture is image else 'png'}")
    (place / "run.toml").write_text(RUN_TOML)
    pairs = tuple(Pair(image=f"tiles/{n}.jpg", mask=f"masks-of-tiles/{n}.png") for n in ("harbour", "village"))
    classes = tuple(ResolvedClass(id=id_, name=name, colour=colour, pixels={}) for id_, name, colour in CLASSES)
    data = ResolvedData(root=place, scale=0.5, classes=classes, splits={"train": (), "val": (), "test": pairs})
    run = RunDir(place / "runs" / "run")
    create(run, place / "run.toml", load_config(place / "run.toml"), data)
    _tell(run, data)
    return place


def _tell(run: RunDir, data: ResolvedData) -> None:
    story = Story()
    story.begins()
    for epoch, test, val in ((1, 0.52, 0.58), (2, 0.61, 0.57)):
        manifest = _commit(run, data, epoch)
        story.tell(
            EpochCommitted(
                attempt=1,
                epoch=epoch,
                step=epoch,
                manifest=f"checkpoints/{manifest.stem}.json",
                sha256=manifest.weights.sha256,
                finite=True,
            )
        )
        for split, miou in (("val", val), ("test", test)):
            story.scores(story.history.epochs[1, epoch], split, miou)
    store = Store(run.path)
    for _, event in story.told:
        store.append(event)
    store.close()


def _commit(run: RunDir, data: ResolvedData, epoch: int) -> Manifest:
    torch.manual_seed(epoch)
    return commit(
        run.checkpoints,
        Identity(
            attempt=1,
            class_ids=data.class_ids,
            class_names=data.class_names,
            architecture=Architecture(base_channels=2, classes=3),
            config_hash="0",
        ),
        role=Role.EPOCH,
        epoch=epoch,
        step=epoch,
        step_in_epoch=0,
        weights=UNet(classes=3, base_channels=2).state_dict(),
        state=None,
    )


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The evaluator's work without the seconds that a process takes to import torch."""

    def send(_command: object, task: PredictTask | ExportTask) -> Iterator[TaskAnswer]:
        work = predict(task) if isinstance(task, PredictTask) else export(task)
        yield from answers(work)

    before = torch.get_num_threads()
    for module in (predicting, exporting):
        monkeypatch.setattr(module, "send", send)
    yield
    torch.set_num_threads(before)


def shown(block: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the command of a block and find its lines, in their order; `…` stands for anything."""
    command, *promised = block.splitlines()
    program, *arguments = command.removeprefix("$ ").split()
    assert program == "segwatch"
    monkeypatch.chdir(place)
    result = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, arguments, prog_name="segwatch")
    assert result.exit_code == 0, result.output
    printed = iter([" ".join(line.split()) for line in result.output.splitlines()])
    for line in promised:
        pattern = ".*".join(re.escape(" ".join(part.split())) for part in line.split("…"))
        pattern = pattern.replace(".*", " ?.* ?")
        assert any(re.fullmatch(pattern, found) for found in printed), f"not printed: {line}\n{result.output}"


def test_every_block_is_tried_below() -> None:
    assert len(CONSOLE) == 5
    assert set(PYTHON) == {"village.py", "onnx_elsewhere.py"}
    assert PAGE.count("```") == 2 * (len(CONSOLE) + len(PYTHON))


def test_the_first_command_in_a_real_process_and_its_masks_as_an_array(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown(CONSOLE[0], place, monkeypatch)
    found = sorted(path.name for path in (place / "masks").iterdir())
    assert found == [f"{n}_{what}.png" for n in ("harbour", "village") for what in ("colour", "ids", "overlay")]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(PYTHON["village.py"], "docs/predict.md", "exec"), {})
    with Image.open("masks/village_ids.png") as image:
        assert image.size == (90, 120)
    assert re.fullmatch(r"[\d.]+% of it is road\n", printed.getvalue())


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("number", [1, 2])
def test_a_command_that_predicts_prints_what_the_page_shows(
    place: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    shown(CONSOLE[number], place, monkeypatch)


@pytest.mark.skipif(not has("safetensors"), reason="safetensors is not installed: segwatch[export]")
@pytest.mark.usefixtures("in_process")
def test_the_export_to_safetensors_prints_what_the_page_shows(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown(CONSOLE[3], place, monkeypatch)


@pytest.mark.skipif(
    not has("onnx", "onnxscript", "onnxruntime"), reason="onnx, onnxscript or onnxruntime is not installed"
)
@pytest.mark.usefixtures("in_process")
def test_the_export_to_onnx_prints_what_the_page_shows_and_runs_elsewhere(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown(CONSOLE[4], place, monkeypatch)
    names: dict[str, np.ndarray] = {}
    exec(compile(PYTHON["onnx_elsewhere.py"], "docs/predict.md", "exec"), names)
    assert names["mask"].shape == (60, 45)
    assert {*np.unique(names["mask"])} <= {0, 1, 2}


def test_the_options_that_the_page_names_exist() -> None:
    for command in ("predict", "export"):
        result = CliRunner().invoke(cli.app, [command, "--help"], prog_name="segwatch")
        assert result.exit_code == 0
    text = " ".join(CliRunner().invoke(cli.app, ["predict", "--help"]).output.split())
    assert [option for option in sorted(set(re.findall(r"`(--[a-z-]+)", PAGE))) if option not in text] == []
