"""docs/running.md is true: its metrics, its unit, its settings and its example of a log line."""

from __future__ import annotations

import json
import re
from pathlib import Path

from segwatch.daemon import gauges, systemd
from segwatch.daemon.config import parse_config
from segwatch.rotating import LIMIT_BYTES

from .conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "running.md").read_text()
TABLES = '[data]\nclasses = "c.json"\n' + "".join(
    f'[data.{split}]\nimages = "images"\nmasks = "masks"\n' for split in ("train", "val", "test")
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_page_names_every_metric_and_no_other():
    written = set(re.findall(r'"(segwatch_\w+)"', Path(gauges.__file__).read_text()))
    assert len(written) > 15
    assert set(re.findall(r"segwatch_\w+", PAGE)) == written


def test_every_line_of_the_unit_that_the_page_explains_stands_in_it(tmp_path):
    (tmp_path / "run.toml").write_text(TABLES)
    unit = systemd.unit(tmp_path / "run.toml", name=None, runs_dir=tmp_path, system=False)
    table = PAGE.split("| line | why |")[1].split("\n\n")[0]
    explained = re.findall(r"`(\w+(?:=[^`]*)?)`", "".join(row.split("|")[1] for row in table.splitlines()[2:]))
    assert len(explained) >= 6
    for line in explained:
        wanted = line.split("/")[0] if line.startswith("EnvironmentFile") else line
        assert f"\n{wanted}" in unit, line


def test_the_settings_of_the_page_are_valid():
    for block in blocks("toml"):
        config = parse_config((TABLES + block).encode(), Path("docs/running.md"))
        assert config.watch.prometheus.startswith("/")


def test_the_log_line_of_the_page_is_one():
    (line,) = blocks("json")
    assert {"time", "level", "kind", "text", "fact"} == json.loads(line).keys()


def test_the_page_knows_how_long_a_log_gets():
    assert f"{LIMIT_BYTES >> 20} MB" in PAGE
