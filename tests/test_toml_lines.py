"""The line of a key: as `tomllib` reads the file, not as a second parser guesses."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segwatch.toml_lines import LONGEST_STATEMENT_LINES, first_unread, line_of, lines_of

FILE = '''\
# a remark [data]
[data]
root = "."
split = { val = 0.1, "test" = 0.2 }
text = """
[trainer]
lr = 1
"""
use = [
  1,  # ]
  2,
]

[data.train]
images = 'a = "b"'
[[alerts.notify]]
url = "env:A"
[[alerts.notify]]
url = "env:B"
[a."b.c"]
d.e = 1
'''


@pytest.mark.parametrize(
    ("place", "line"),
    [
        (("data",), 2),
        (("data", "root"), 3),
        (("data", "split", "test"), 4),
        (("data", "text"), 5),
        (("data", "use"), 9),
        (("data", "use", 1), 9),
        (("data", "train"), 14),
        (("data", "train", "images"), 15),
        (("alerts", "notify", 0, "url"), 17),
        (("alerts", "notify", 1), 18),
        (("alerts", "notify", 1, "url"), 19),
        (("a", "b.c", "d", "e"), 21),
        (("data", "train", "masks"), 14),
        (("trainer", "lr"), None),
    ],
)
def test_a_key_stands_where_it_is_written_and_one_that_is_missing_where_its_table_begins(place, line):
    assert line_of(lines_of(FILE), place) == line
    assert line_of(lines_of(FILE.replace("\n", "\r\n")), place) == line


@given(
    st.lists(
        st.sampled_from(["[t]\na = 1", "# [x]", "", "b = [\n1,\n]", 'c = """\n[q]\n"""', "d.e = {f = 1}"]), max_size=8
    )
)
def test_whatever_is_found_is_a_key_of_the_file(parts):
    text = "\n".join(parts)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    for place, line in lines_of(text).items():
        value = document
        for key in place:
            value = value[key]
        name = [key for key in place if isinstance(key, str)][-1]
        assert name in text.split("\n")[line - 1]


def test_a_statement_without_an_end_ends_the_search():
    long = "x = [\n" + "1,\n" * LONGEST_STATEMENT_LINES + "]\n"
    assert lines_of("a = 1\n" + long + "b = 1\n") == {("a",): 1}


@pytest.mark.parametrize(
    ("text", "line"), [("a = 1\n\n# c\nb = [1,\nc = 2\n", 4), ("a = 1\n", None), ("", None), ('x = """\n', 1)]
)
def test_the_first_statement_that_is_none_is_found(text, line):
    assert first_unread(text) == line
