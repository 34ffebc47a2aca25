"""Rules of the house that no linter knows: no torch in the daemon, a word on top of each module, one list of tags."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from segwatch import tags

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("daemon", "trainer", "evaluator", "data", "checkpoints")
MODULES = sorted([*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))])
TESTS = sorted((ROOT / "tests").rglob("*.py"))
WRITES_A_TAG = {"scalar_pb", "text_pb", "image_pb", "add_scalar", "add_text", "_text", "_image"}
TORCH_FREE = (
    "trainer.config",
    "trainer.contract",
    "trainer.schedules",
    "evaluator.config",
    "evaluator.report",
    "evaluator.metrics",
    "checkpoints.config",
    "checkpoints.manifest",
    "checkpoints.retention",
    "data.config",
    "data.resolved",
    "data.audit",
)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def importable(path: Path) -> str:
    return ".".join(("segwatch", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def test_importing_every_module_of_the_daemon_and_what_it_knows_leaves_torch_out():
    modules = [importable(path) for path in MODULES if path.parent.name == "daemon"]
    modules += [f"segwatch.{module}" for module in TORCH_FREE]
    assert len(modules) > 25
    code = f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_every_module_says_what_it_does_in_a_sentence(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring
    assert docstring.split("\n\n")[0].rstrip()[-1] in ".:"


@pytest.mark.parametrize("path", [*MODULES, *TESTS], ids=name)
def test_no_file_is_too_long_to_be_read_in_one_go(path):
    assert len(path.read_text().splitlines()) <= 500


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_no_function_is_longer_than_60_lines(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{node.name} in line {node.lineno}"


def all_tags() -> set[str]:
    """Every tag that does not depend on a class name."""
    fixed = {value for key, value in vars(tags).items() if key.isupper() and isinstance(value, str)}
    fixed |= {tags.evaluation(figure) for figure in tags.EVALUATION} | set(tags.INTERVAL)
    return fixed | {tags.class_iou(split) for split in ("val", "test")}


def test_no_tag_is_in_the_list_twice():
    fixed = [value for key, value in vars(tags).items() if key.isupper() and isinstance(value, str)]
    assert len(set(fixed)) == len(fixed)


@pytest.mark.parametrize("path", [path for path in MODULES if path.name != "tags.py"], ids=name)
def test_tensorboard_tags_come_from_the_list_and_are_spelled_nowhere_else(path):
    grouped = {tag for tag in all_tags() if "/" in tag}
    spelled = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
    assert not {value for value in spelled if isinstance(value, str)} & grouped


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_whoever_writes_to_tensorboard_takes_the_tag_from_the_list(path):
    """A tag is an attribute or a call of `tags`, or a name that was given one."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and called(node) in WRITES_A_TAG:
            for argument in node.args[:2]:
                assert not isinstance(argument, ast.Constant | ast.JoinedStr), f"{name(path)}:{node.lineno}"
        if isinstance(node, ast.keyword) and node.arg == "tag":
            assert not isinstance(node.value, ast.Constant | ast.JoinedStr), f"{name(path)}:{node.value.lineno}"


def called(call: ast.Call) -> str | None:
    match call.func:
        case ast.Name(id=found) | ast.Attribute(attr=found):
            return found
        case _:
            return None
