"""Where a setting stands: the other rooms name a key, and a person is told file and line."""

from __future__ import annotations

from pathlib import Path

import pytest
from segwatch.daemon.config import RunConfig, load_config
from segwatch.daemon.places import Places
from segwatch.data.problems import Problem
from segwatch.errors import ConfigError

TOML = """\
[data]
classes = "classes.json"
use = [0, 1]
masks = "masks"
[data.train]
images = "train"
[data.val]
images = "held"
[data.test]
images = "held"
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "run.toml").write_text(TOML)
    (tmp_path / "classes.json").write_text("{}")
    return tmp_path / "run.toml"


@pytest.fixture
def config(source: Path) -> RunConfig:
    return load_config(source)


@pytest.mark.parametrize(
    ("where", "place"),
    [
        ("data.use", "line 3, data.use"),
        ("[data.train]", "line 5, data.train"),
        ("data.train.masks (masks)", "line 5, data.train.masks (masks)"),
        ("data.ignore", "line 1, data.ignore"),
        ("loss.class_weights", "loss.class_weights"),
    ],
)
def test_a_key_gets_its_file_and_line_and_one_that_is_not_written_that_of_its_table(source, where, place):
    assert Places(source).of(where) == f"{source}, {place}"


@pytest.mark.parametrize("where", ["--format", "data", "runs/one", "somewhere.use", None])
def test_what_is_no_setting_stays_as_it_is(source, where):
    expected = f"{source}, line 1, data" if where == "data" else where
    assert Places(source).of(where) == expected


def test_a_path_is_told_with_every_setting_that_names_it_and_a_file_that_is_there_by_itself(source, config):
    places = Places(source, config.data)
    held, table = source.parent / "held", source.parent / "classes.json"
    assert places.of(str(held)) == f"{held} ({source}, line 8, data.val.images; line 10, data.test.images)"
    assert places.of(str(table)) == str(table)


def test_a_class_that_does_not_fit_the_table_is_told_with_both_files(source, config):
    table = str(source.parent / "classes.json")
    problem = Problem(code="class-use", what="data.use lists id 7", where=table, remedy="take it out")
    told = Places(source, config.data).in_problem(problem)
    assert told.where == f"{table} ({source}, line 3, data.use)"
    assert told.remedy == "take it out"


def test_a_path_that_is_there_from_here_only_says_what_paths_are_relative_to(source, config, tmp_path, monkeypatch):
    (tmp_path / "here" / "train").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    problem = Problem(code="files", what="no images", where=str(tmp_path / "train"), remedy="set it")
    assert "root = 'here' would lead there" in Places(source, config.data).in_problem(problem).remedy


def test_an_error_keeps_its_kind_and_a_file_that_is_gone_hides_nothing(source):
    source.unlink()
    told = Places(source).in_error(ConfigError("what", where="data.use", remedy="mend"))
    assert (type(told), told.what, told.remedy) == (ConfigError, "what", "mend")
    assert told.where == f"{source}, data.use"
