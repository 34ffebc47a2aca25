"""Logits in bands: the same as of the whole image, at any size, without ever holding them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from segwatch.evaluator import windows
from segwatch.evaluator.windows import WHOLE, Window, enlarged, logits_of
from torch import Tensor, nn

sides = st.integers(1, 9)
overlaps = st.floats(0, 0.9)
lengths = st.integers(1, 40)


class PerPixel(nn.Module):
    """Two classes from the colour of a pixel alone: where it stands changes nothing. Remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.shapes.append(tuple(images.shape))
        return torch.stack([images[:, 0] - images[:, 1], 2 * images[:, 2]], dim=1)


class Padded(nn.Module):
    """Smooths over 3 x 3 with zeros outside, as the convolutions of a UNet do: the border of a window is darker."""

    def forward(self, images: Tensor) -> Tensor:
        return F.avg_pool2d(images, 3, stride=1, padding=1)


def pixels(height: int, width: int, count: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(height * 100 + width)
    return torch.rand((count, 3, height, width), generator=generator)


def loading(images: Tensor) -> Callable[[int, int], Tensor]:
    return lambda top, bottom: images[:, :, top:bottom]


def joined(bands: Iterator[tuple[int, Tensor]]) -> Tensor:
    """The bands put together, which must follow each other without a gap."""
    parts: list[Tensor] = []
    for top, band in bands:
        assert top == sum(part.shape[2] for part in parts)
        parts.append(band)
    return torch.cat(parts, dim=2)


def through(network: nn.Module, images: Tensor, window: Window, at_once: int = 2) -> Tensor:
    return joined(logits_of(network, loading(images), tuple(images.shape[2:]), window, at_once=at_once))


@given(lengths, sides, overlaps)
def test_windows_are_of_one_length_overlap_as_asked_and_end_with_the_image(
    length: int, side: int, overlap: float
) -> None:
    places = Window(side, overlap).along(length)
    assert places.side == min(side, length)
    assert places.starts[0] == 0
    assert places.starts[-1] + places.side == length
    steps = np.diff(places.starts)
    assert (steps >= 1).all()
    assert (steps <= max(1, places.side - round(places.side * overlap))).all()


@given(lengths, sides, overlaps)
def test_the_weights_of_a_pixel_are_positive_and_sum_up_to_one(length: int, side: int, overlap: float) -> None:
    places = Window(side, overlap).along(length)
    total = np.zeros(length)
    for start, weights in zip(places.starts, places.weights(), strict=True):
        assert (weights > 0).all()
        total[start : start + places.side] += weights
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_one_window_fades_into_the_next_over_the_overlap() -> None:
    left, right = Window(8, 0.5).along(12).weights()
    assert left.tolist() == [1, 1, 1, 1, 0.875, 0.625, 0.375, 0.125]
    assert right.tolist() == left.tolist()[::-1]


@settings(max_examples=60)
@given(st.integers(1, 25), st.integers(1, 25), sides, overlaps, st.integers(1, 5))
def test_a_network_that_looks_at_single_pixels_says_the_same_in_any_windows(
    height: int, width: int, side: int, overlap: float, at_once: int
) -> None:
    images = pixels(height, width)
    network = PerPixel()
    found = through(network, images, Window(side, overlap), at_once)
    torch.testing.assert_close(found, network(images), atol=1e-5, rtol=0)


@settings(max_examples=30)
@given(st.integers(10, 30), st.integers(10, 30), st.integers(4, 9), overlaps)
def test_every_window_has_one_shape_and_no_pass_more_than_was_allowed(
    height: int, width: int, side: int, overlap: float
) -> None:
    network = PerPixel()
    through(network, pixels(height, width), Window(side, overlap), 3)
    assert {shape[1:] for shape in network.shapes} == {(3, side, side)}
    assert max(shape[0] for shape in network.shapes) <= 3


@pytest.mark.parametrize("window", [WHOLE, Window(20, 0.25), Window(64, 0.9)])
def test_an_image_that_a_window_covers_goes_whole_with_all_of_its_batch(window: Window) -> None:
    network = PerPixel()
    images = pixels(20, 17, count=3)
    assert torch.equal(through(network, images, window), network(images))
    assert network.shapes == [(3, 3, 20, 17)] * 2


def test_an_image_that_is_larger_in_one_direction_only_is_cut_in_that_one() -> None:
    network = PerPixel()
    through(network, pixels(6, 20), Window(8, 0), at_once=1)
    assert network.shapes == [(1, 3, 6, 8)] * 3


def test_a_border_that_saw_padding_counts_less_than_the_middle_of_the_neighbour() -> None:
    """Against the plain mean of overlapping windows, which keeps half of the mistake at every border."""
    images = torch.ones(1, 3, 4, 40)
    whole = Padded()(images)
    tapered = through(Padded(), images, Window(16, 0.5))
    starts = Window(16, 0.5).along(40).starts
    total, count = torch.zeros_like(whole), torch.zeros(40)
    for start in starts:
        total[..., start : start + 16] += Padded()(images[..., start : start + 16])
        count[start : start + 16] += 1
    assert (tapered - whole).abs().max() < 0.3 * (total / count - whole).abs().max()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_bad_logit_survives_the_averaging(value: float) -> None:
    images = pixels(20, 20)
    images[0, 2, 11, 13] = value
    found = through(PerPixel(), images, Window(8, 0.5))
    assert not found[0, 1, 11, 13].isfinite()
    found[0, 1, 11, 13] = 0
    assert found.isfinite().all()


def test_the_largest_finite_logits_stay_finite() -> None:
    """A sum of weighted logits that is divided afterwards would overflow."""
    found = through(PerPixel(), torch.full((1, 3, 20, 20), 1.6e38), Window(8, 0.5))
    assert found.isfinite().all()


def test_bands_hold_no_more_rows_than_a_window() -> None:
    bands = [
        band.shape[2]
        for _, band in logits_of(PerPixel(), loading(pixels(50, 20)), (50, 20), Window(8, 0.25), at_once=4)
    ]
    assert sum(bands) == 50
    assert max(bands) <= 8


# --- enlarging


@st.composite
def enlargements(draw: st.DrawFn) -> tuple[Tensor, tuple[int, int], list[int]]:
    """Logits, a target, and where the logits are cut into bands."""
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 9))
    target = draw(st.integers(height, 60)), draw(st.integers(width, 40))
    cuts = sorted(draw(st.sets(st.integers(1, max(1, height - 1)), max_size=4)) - {height})
    return pixels(height, width, draw(st.integers(1, 3))), target, cuts


def cut(logits: Tensor, cuts: list[int]) -> Iterator[tuple[int, Tensor]]:
    edges = [0, *cuts, logits.shape[2]]
    return ((top, logits[:, :, top:bottom]) for top, bottom in pairwise(edges))


@settings(max_examples=150)
@given(enlargements())
def test_bands_are_enlarged_to_what_interpolate_makes_of_the_whole(
    case: tuple[Tensor, tuple[int, int], list[int]],
) -> None:
    logits, target, cuts = case
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(windows.BAND_BYTES, "cpu", 2000)
        found = joined(enlarged(cut(logits, cuts), tuple(logits.shape[2:]), target))
    expected = F.interpolate(logits, size=target, mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_enlarged_logits_come_in_bands_of_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(windows.BAND_BYTES, "cpu", 100_000)
    shapes = [band.shape for _, band in enlarged([(0, pixels(30, 40, 2))], (30, 40), (300, 400))]
    assert len(shapes) == 300 // (100_000 // (2 * 3 * 400 * 4))
    assert max(4 * shape.numel() for shape in shapes) <= 100_000


def test_logits_of_the_right_size_are_passed_on_untouched() -> None:
    logits = pixels(5, 6)
    ((top, found),) = enlarged([(0, logits)], (5, 6), (5, 6))
    assert (top, found is logits) == (0, True)


def test_huge_logits_of_both_signs_do_not_overflow_between_two_rows() -> None:
    logits = torch.tensor([3e38, -3e38]).reshape(1, 1, 2, 1)
    assert joined(enlarged([(0, logits)], (2, 1), (8, 1))).isfinite().all()


@settings(max_examples=30)
@given(st.integers(12, 30), st.integers(12, 30), overlaps)
def test_windows_and_enlarging_go_together(height: int, width: int, overlap: float) -> None:
    images = pixels(height, width)
    size, target = (height, width), (3 * height + 1, 4 * width + 2)
    bands = logits_of(PerPixel(), loading(images), size, Window(8, overlap), at_once=2)
    expected = F.interpolate(PerPixel()(images), size=target, mode="bilinear", align_corners=False)
    torch.testing.assert_close(joined(enlarged(bands, size, target)), expected, atol=5e-5, rtol=0)
