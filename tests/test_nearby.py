"""What a person may have meant: the nearest of what there is, or nothing where that would confuse."""

from __future__ import annotations

from pathlib import Path

import pytest
from segwatch.nearby import did_you_mean, nearest, nearest_beside, nearest_path


@pytest.mark.parametrize(
    ("name", "found"), [("AdamW", "adamw"), ("adam", "adamw"), ("sdg", "sgd"), ("lion", None), ("", None)]
)
def test_the_nearest_is_found_whatever_its_capitals_and_none_where_all_are_far(name, found):
    assert nearest(name, ["adamw", "rmsprop", "sgd"]) == found


def test_it_is_given_back_as_it_is_written():
    assert nearest("aerial", ["Aerial_2"]) == "Aerial_2"


def test_a_file_beside_is_found_but_neither_itself_nor_what_is_hidden(tmp_path: Path):
    for name in ("images", ".imagse", "notes.txt"):
        (tmp_path / name).touch()
    assert nearest_beside(tmp_path / "imagse") == "images"
    assert nearest_path(tmp_path / "imagse") == tmp_path / "images"
    assert nearest_beside(tmp_path / "images") is None
    assert nearest_path(tmp_path / "gone" / "images") is None


def test_nothing_found_is_nothing_said():
    assert did_you_mean(None, before="; ", after=" else") == ""
    assert did_you_mean("lr", before="; ", after=" else") == "; did you mean 'lr'? else"
