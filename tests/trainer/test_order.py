"""Images that are left out, and the lengths of steps and epochs that stay."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segwatch.errors import ConfigError
from segwatch.trainer.order import portions, positions_of, stood_in


def test_the_next_image_that_is_not_left_out_stands_in():
    assert stood_in([3, 1, 4, 0, 2], {1}) == [3, 4, 4, 0, 2]
    assert stood_in([3, 1, 4, 0, 2], {1, 4}) == [3, 0, 0, 0, 2]


def test_behind_the_last_comes_the_first():
    assert stood_in([3, 1, 4, 0, 2], {3, 2}) == [1, 1, 4, 0, 1]


@given(st.permutations(range(12)), st.sets(st.integers(0, 11), max_size=11))
def test_nothing_else_moves(order, out):
    stood = stood_in(order, out)
    assert len(stood) == len(order)
    assert not set(stood) & out
    assert all(now == before for now, before in zip(stood, order, strict=True) if before not in out)


def test_steps_keep_their_size_and_the_last_takes_what_is_left():
    assert portions([5, 3, 1, 0, 2], 2) == [[5, 3], [1, 0], [2]]


def test_a_stranger_and_a_split_of_which_nothing_is_left_are_refused():
    assert positions_of(["b"], ["a", "b"]) == {1}
    with pytest.raises(ConfigError, match=r"z\.png"):
        positions_of(["z.png"], ["a", "b"])
    with pytest.raises(ConfigError, match="every image"):
        positions_of(["a", "b"], ["a", "b"])
