"""The documents are true: every file has its line, every setting and alert its row, every example runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from segwatch.daemon.alert import Alert
from segwatch.daemon.config import RunConfig, parse_config
from segwatch.daemon.reference import reference
from segwatch.trainer.contract import Cause

from .conftest import REPOSITORY

ROOMS = ("daemon", "trainer", "evaluator", "data", "checkpoints")
README = (REPOSITORY / "README.md").read_text()
TREE = (REPOSITORY / "docs" / "architecture.md").read_text().split("## Every file")[1]


@pytest.mark.parametrize("room", ROOMS)
def test_the_tree_has_a_line_for_every_file_and_no_other(room):
    section = re.split(r"^\w+/", re.split(rf"^{room}/", TREE, flags=re.MULTILINE)[1], flags=re.MULTILINE)[0]
    listed = re.findall(r"^  (\w+\.py) +\S", section, flags=re.MULTILINE)
    present = {path.name for path in (REPOSITORY / room).glob("*.py")} - {"__init__.py", "__main__.py"}
    assert sorted(listed) == sorted(present)


def test_the_files_to_read_first_exist():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) >= 8
    assert [link for link in links if not (REPOSITORY / link).exists()] == []


def test_the_reference_page_is_what_the_models_say():
    assert (REPOSITORY / "docs" / "configuration.md").read_text() == reference(), "run `make docs`"


def test_every_setting_says_what_it_does():
    assert re.findall(r"^\| `(\w+)` .*\|\s*\|$", reference(), flags=re.MULTILINE) == []


def test_the_run_toml_of_the_readme_is_valid():
    blocks = re.findall(r"```toml\n(.*?)```", README, flags=re.DOTALL)
    assert blocks
    for block in blocks:
        assert isinstance(parse_config(block.encode(), Path("README.md")), RunConfig)


def test_every_alert_code_has_its_row():
    rules = "".join((REPOSITORY / "daemon" / f"{module}.py").read_text() for module in ("rules", "trends"))
    codes = {cause.value for cause in Cause} | set(re.findall(r'code="([a-z-]+)"', rules))
    codes |= set(re.findall(r'yield Alert\(\s*f?"[^"]+",\s*"([a-z-]+)"', rules))
    assert Alert.__dataclass_fields__.keys() >= {"code", "cause", "evidence", "action", "advice", "drill"}
    assert len(codes) >= 24
    page = (REPOSITORY / "docs" / "alerts.md").read_text()
    assert [code for code in sorted(codes) if f"| `{code}` |" not in page] == []


def test_every_dependency_is_pinned():
    """The range of pyproject.toml is honest; constraints.txt says what was really run."""
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (REPOSITORY / "constraints.txt").read_text().splitlines()
    }
    wanted = re.findall(r'^    "([A-Za-z0-9_-]+)[><=]', (REPOSITORY / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert len(wanted) >= 15
    assert [name for name in wanted if name.lower() not in pinned] == []
