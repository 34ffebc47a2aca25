"""`segwatch export` around a fake evaluator: the format, the file, what is missing."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from segwatch.daemon import cli, exporting
from segwatch.daemon.exporting import format_of, require_packages
from segwatch.daemon.rundir import RunDir
from segwatch.errors import UsageError
from segwatch.evaluator.task import Exported, ExportTask, TaskAnswer
from typer.testing import CliRunner

from .test_predicting import run  # noqa: F401 - a fixture


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[ExportTask]:
    """What the evaluator was asked, on a machine that has every package."""
    tasks: list[ExportTask] = []

    def send(_command: object, task: ExportTask) -> Iterator[TaskAnswer]:
        tasks.append(task)
        task.output.write_bytes(b"weights")
        yield Exported(size=7, sha256="abc", parity="3 tensors, equal bit for bit", largest_difference=0.0)

    monkeypatch.setattr(exporting, "send", send)
    monkeypatch.setattr(exporting, "PACKAGES", {"safetensors": (), "onnx": ()})
    return tasks


def segwatch(run: RunDir, *arguments: object) -> tuple[int, str, BaseException | None]:  # noqa: F811
    result = CliRunner(env={"COLUMNS": "200"}).invoke(
        cli.app, ["export", str(run.path), *map(str, arguments)], prog_name="segwatch"
    )
    return result.exit_code, result.stdout, result.exception


@pytest.mark.parametrize(
    ("wanted", "output", "found"),
    [
        (None, None, "safetensors"),
        ("onnx", None, "onnx"),
        (None, "net.onnx", "onnx"),
        (None, "net.ONNX", "onnx"),
        (None, "net", "safetensors"),
        ("safetensors", "net.bin", "safetensors"),
        ("onnx", "net.safetensors", "onnx"),
    ],
)
def test_the_format_is_as_asked_or_as_the_name_says(wanted, output, found):
    assert format_of(wanted, None if output is None else Path(output)) == found


def test_it_goes_beside_the_caller_under_the_name_of_run_and_epoch_with_its_proof(run, asked, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    code, said, _ = segwatch(run, "--format", "onnx")
    assert code == 0
    assert asked[0].output == tmp_path / "one_epoch1.onnx"
    for words in ("best by test: test mIoU 50.00 %", "equal bit for bit", "one_epoch1.onnx"):
        assert words in said
    code, said, error = segwatch(run, "--format", "onnx")
    assert isinstance(error, UsageError)
    assert "--overwrite" in str(error)
    assert segwatch(run, "--format", "onnx", "--overwrite")[0] == 0


def test_json_says_which_checkpoint_and_how_it_was_proved(run, asked, tmp_path):  # noqa: F811
    code, said, _ = segwatch(run, "--output", tmp_path / "net.safetensors", "--json")
    found = json.loads(said)
    assert (code, found["format"], found["checkpoint"]["epoch"]) == (0, "safetensors", 1)
    assert found["parity"] == "3 tensors, equal bit for bit"


def test_a_directory_that_is_not_there_is_a_mistake_before_anything_is_loaded(run, asked, tmp_path):  # noqa: F811
    _, _, error = segwatch(run, "--output", tmp_path / "none" / "net.onnx")
    assert isinstance(error, UsageError)
    assert not asked


@pytest.mark.parametrize(("kind", "needed"), [("safetensors", "safetensors"), ("onnx", "onnx onnxscript")])
def test_what_is_not_installed_is_named_with_the_command_that_installs_it(monkeypatch, kind, needed):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError) as caught:
        require_packages(kind)
    assert f"pip install 'segwatch[export]', or pip install {needed}" in str(caught.value)
