"""Class weights: the published formulas, kept within their limit, for classes of any size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segwatch.data.balance import weights


def test_median_frequency_counts_a_class_over_the_images_that_hold_it() -> None:
    """Frequencies 0.5, 0.25 and 0.1, though the first class has as many pixels as the second."""
    assert weights("median-frequency", [50, 50, 20], [100, 200, 200], 10) == pytest.approx([0.5, 1.0, 2.5])


def test_inverse_frequency_has_a_mean_of_1() -> None:
    found = weights("inverse", [100, 50, 25], [175] * 3, 10)
    assert found == pytest.approx([3 / 7, 6 / 7, 12 / 7])
    assert sum(found) / 3 == pytest.approx(1)


def test_a_very_rare_class_does_not_own_the_gradient() -> None:
    assert weights("median-frequency", [1, 5000, 4999], [10000] * 3, 10)[0] == 10
    assert weights("inverse", [1, 5000, 4999], [10000] * 3, 2.5)[0] == 2.5


def test_a_very_frequent_class_is_not_forgotten() -> None:
    assert weights("median-frequency", [9990, 5, 5], [10000] * 3, 10)[0] == 0.1


def test_a_class_without_a_training_pixel_weighs_1_and_moves_no_other() -> None:
    with_it = weights("median-frequency", [50, 0, 25], [100, 0, 100], 10)
    assert with_it == [weights("median-frequency", [50, 25], [100, 100], 10)[0], 1.0, 1.5]
    assert weights("inverse", [0, 0], [0, 0], 10) == [1.0, 1.0]


def test_no_weights_are_ones() -> None:
    assert weights("none", [1, 1000], [1001, 1001], 10) == [1.0, 1.0]


def test_lists_that_do_not_fit_and_limits_below_1_are_refused() -> None:
    with pytest.raises(ValueError, match="2 classes have pixels, 1 have images"):
        weights("inverse", [1, 2], [3], 10)
    with pytest.raises(ValueError, match=r"a limit of 0\.5"):
        weights("inverse", [1, 2], [3, 3], 0.5)
    with pytest.raises(ValueError, match="a limit of nan"):
        weights("inverse", [1, 2], [3, 3], float("nan"))


@given(
    st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), max_size=30),
    st.sampled_from(["median-frequency", "inverse"]),
    st.floats(1, 1000),
)
def test_weights_stay_within_their_limit_whatever_the_pixels(counts, kind, limit) -> None:
    pixels = [count for count, _ in counts]
    found = weights(kind, pixels, [count + more for count, more in counts], limit)
    assert len(found) == len(pixels)
    assert all(1 / limit <= weight <= limit for weight in found)
