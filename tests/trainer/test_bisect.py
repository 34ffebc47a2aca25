"""Which of several things are bad alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from segwatch.trainer.bisect import isolate


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), min_size=1))))
def test_each_bad_one_is_found_and_no_other(case):
    count, bad = case
    assert set(isolate(range(count), lambda part: bool(set(part) & bad))) == bad


def test_one_among_many_costs_two_tests_a_halving():
    asked = []

    def is_bad(part):
        asked.append(tuple(part))
        return 21 in part

    assert isolate(range(64), is_bad) == [21]
    assert len(asked) == 12


def test_what_is_bad_only_together_is_no_single_one():
    assert isolate([1, 2], lambda part: len(part) == 2) == []
