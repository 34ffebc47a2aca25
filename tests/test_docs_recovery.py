"""docs/recovery.md is true: it has every verdict, every setting that it names exists, and the place for the corpus."""

from __future__ import annotations

import re

from segwatch.daemon.cli import app
from segwatch.daemon.config import RecoveryConfig
from segwatch.daemon.postmortem import PICTURE
from segwatch.trainer.diagnosis import Finding

from .conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "recovery.md").read_text()


def test_every_verdict_has_its_row():
    assert [finding for finding in Finding if f"| `{finding}` |" not in PAGE] == []


def test_every_setting_that_it_names_exists():
    named = set(re.findall(r"`recovery\.(\w+)", PAGE))
    assert len(named) >= 7
    assert named - RecoveryConfig.model_fields.keys() == set()


def test_every_command_that_it_shows_exists():
    commands = {command.callback.__name__ for command in app.registered_commands if command.callback}
    shown = set(re.findall(r"^segwatch (\w+)", PAGE, flags=re.MULTILINE))
    assert shown == {"why", "replay"}
    assert shown <= commands
    assert f"`{PICTURE}`" in PAGE


def test_the_place_for_the_measured_table_is_marked():
    assert re.search(r"<!-- corpus: begin -->\n.*<!-- corpus: end -->", PAGE, flags=re.DOTALL)
