"""The matrix itself: docs/faults.md has every row, in the words of its test."""

from __future__ import annotations

import re

from ..conftest import REPOSITORY
from .matrix import declared_rows


def test_the_page_has_every_row_in_the_words_of_its_test_and_no_other():
    page = (REPOSITORY / "docs" / "faults.md").read_text()
    told = re.findall(r"^\| `([a-z0-9-]+)` \| (.+?) \| (.+?) \| (.+?) \| \d+ \| \w[\w ]* \|$", page, flags=re.MULTILINE)
    declared = [(row.name, row.fault, row.promise, row.provoked) for row in declared_rows()]
    assert sorted(told) == sorted(declared), "run `make faults`"


def test_every_row_of_the_page_passed():
    page = (REPOSITORY / "docs" / "faults.md").read_text()
    assert re.findall(r"^\| `.*\| (?!passed \|$)[\w ]+ \|$", page, flags=re.MULTILINE) == []


def test_every_row_names_its_promises():
    assert [row.name for row in declared_rows() if not re.fullmatch(r"P[1-7]( P[1-7])*", row.promise)] == []
