"""`segwatch why`: the page of an incident as it is printed, for a person, a pipe or a program."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from segwatch.daemon import why
from segwatch.daemon.rundir import RunDir
from segwatch.daemon.store import Store
from segwatch.errors import UsageError
from segwatch.trainer.contract import Cause

from .test_postmortems import drawn, printed, site, text_of  # noqa: F401 - fixtures


@pytest.fixture
def two(site, tmp_path) -> RunDir:  # noqa: F811
    """A run of two incidents, as a daemon leaves it."""
    site.fails()
    site.finds()
    site.answers()
    site.fails(Cause.WORKER_CRASHED, step=18)
    store = Store(tmp_path)
    for _, event in site.run.told:
        store.append(event)
    store.close()
    return RunDir(tmp_path)


def test_why_prints_the_newest_incident_and_the_one_that_is_asked_for(two):
    assert "# Incident 002: worker-crashed" in printed(two, None)
    assert "# Incident 001: nan-loss" in printed(two, 1)


def test_why_prints_what_the_daemon_wrote(two):
    """But for the moments, which the store of this test stamps anew."""
    page = (two.path / "incidents" / "002" / "postmortem.md").read_text().splitlines()
    told = printed(two, 2).splitlines()
    kept = [line for line in page if not line.startswith("| 1970") and "time lost" not in line]
    assert kept
    assert [line for line in kept if line not in told] == []
    assert str(two.path / "incidents" / "002" / "postmortem.md") in told
    assert told[-2:] == ["Next:", f"  segwatch best {two.path}"]


def test_why_names_the_run_as_it_is_called_from_where_one_stands_and_the_page_as_from_anywhere(two, monkeypatch):
    (two.path / "incidents" / "001" / "batch.pt").touch()
    monkeypatch.chdir(two.path.parent)
    assert f"`segwatch replay {two.path.name} 1`" in printed(two, 1)
    monkeypatch.chdir("/")
    assert f"`segwatch replay {str(two.path).lstrip('/')} 1`" in printed(two, 1)
    monkeypatch.chdir(two.path / "incidents")
    assert f"`segwatch replay {two.path} 1`" in printed(two, 1)


def test_why_is_a_page_on_a_terminal_and_markdown_in_a_pipe(two):
    assert "## Timeline" in printed(two, 1)
    assert "## Timeline" not in printed(two, 1, terminal=True)
    assert "Timeline" in printed(two, 1, terminal=True)


def test_a_terminal_that_shows_no_pictures_is_told_their_names(two):
    (two.path / "incidents" / "001" / "steps.png").touch()
    assert "Picture: steps.png: loss, gradient norm" in printed(two, 1, terminal=True)


def test_an_incident_that_is_not_there_is_answered_with_those_that_are(two):
    with pytest.raises(UsageError) as raised:
        why.look(two, 7)
    assert "incidents here: 1, 2" in str(raised.value)


def test_why_for_a_program_is_strict_json_of_the_same(two):
    known = why.look(two, 1)
    told = json.loads(json.dumps(why.why_json(known), allow_nan=False))
    assert (told["number"], told["cause"], told["finding"], told["answer"]["remedy"]) == (
        1,
        "nan-loss",
        "transient",
        "resume",
    )
    assert [moment["what"] for moment in told["timeline"]][-1].startswith("answer: attempt 2")
    assert told["loop"]["fate"] == "goes on"


def test_a_lone_number_means_an_incident_unless_a_run_is_called_so(two, tmp_path):
    assert why.meant(Path("2"), None, tmp_path) == (None, 2)
    assert why.meant(Path("one"), None, tmp_path) == (Path("one"), None)
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "run.lock.toml").touch()
    assert why.meant(Path("2"), None, tmp_path) == (Path("2"), None)


def test_a_run_in_which_nothing_went_wrong_has_nothing_to_tell(tmp_path, a_run):
    run = a_run()
    run.begins()
    store = Store(tmp_path)
    for _, event in run.told:
        store.append(event)
    store.close()
    assert why.look(RunDir(tmp_path), None) is None
    assert why.why_json(None) == {}
