"""Counting on tensors, against brute force and the numpy reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from segwatch.evaluator import scoring
from segwatch.evaluator.metrics import confusion
from segwatch.evaluator.scoring import (
    LANES,
    Tally,
    batches_of_one_size,
    count,
    count_without_waiting,
    finite_images,
    tally,
)
from segwatch.evaluator.windows import Window
from sklearn.metrics import confusion_matrix
from torch import nn

CPU = torch.device("cpu")


@dataclass
class Scene:
    """A split of images (truth, prediction), two uint8 arrays of one size each: the prediction is the red channel."""

    images: Sequence[tuple[np.ndarray, np.ndarray]]
    touched: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    def item(self, index: int) -> np.ndarray:
        self.touched.append(index)
        truth, prediction = self.images[index]
        return np.stack([prediction, truth, truth, truth], axis=2)

    def size(self, index: int) -> tuple[int, int]:
        height, width = self.images[index][0].shape
        return height, width

    def name(self, index: int) -> str:
        return f"{index}.png"


class Reader(nn.Module):
    """Says what it is told by the red channel of each pixel."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self._classes = classes

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        told = (images[:, 0] * 255).round().long()
        return nn.functional.one_hot(told, self._classes).permute(0, 3, 1, 2).float()


def counted(
    scene: Scene, classes: int, batch_size: int = 2, *, network: nn.Module | None = None, **settings: Any
) -> Tally:
    passes = tally(network or Reader(classes), scene, classes=classes, device=CPU, batch_size=batch_size, **settings)
    while True:
        try:
            next(passes)
        except StopIteration as stop:
            found: Tally = stop.value
            return found


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Scene, int]:
    """Images of mixed sizes, up to 26 classes; either side may hold classes that the other has not."""
    classes = draw(st.sampled_from([1, 2, 3, 7, 26]))
    images = []
    for _ in range(draw(st.integers(1, 7))):
        shape = draw(st.sampled_from([(2, 3), (3, 2), (4, 4)]))
        truth = hnp.arrays(np.uint8, shape, elements=st.one_of(st.just(255), st.integers(0, classes - 1)))
        images.append((draw(truth), draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, classes - 1)))))
    return Scene(images), classes


@settings(max_examples=80)
@given(scenes(), st.integers(1, 5))
def test_the_matrix_is_that_of_brute_force_and_of_scikit_learn(case: tuple[Scene, int], batch_size: int) -> None:
    scene, classes = case
    found = counted(scene, classes, batch_size)
    expected = np.zeros((classes, classes), dtype=np.int64)
    for truth, prediction in scene.images:
        for true, predicted in zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True):
            if true != 255:
                expected[true, predicted] += 1
    np.testing.assert_array_equal(found.confusion, expected)
    truth, prediction = (np.concatenate([image[side].ravel() for image in scene.images]) for side in (0, 1))
    used = truth != 255
    if used.any() and classes > 1:  # of a single label it warns
        sklearns = confusion_matrix(truth[used], prediction[used], labels=range(classes))
        np.testing.assert_array_equal(found.confusion, sklearns)
    assert found.images == len(scene)
    assert (found.counted_pixels, found.ignored_pixels) == (used.sum(), (~used).sum())


@settings(max_examples=50)
@given(scenes(), st.integers(1, 5))
def test_the_counts_of_each_image_are_its_own_and_sum_up_to_the_matrix(
    case: tuple[Scene, int], batch_size: int
) -> None:
    scene, classes = case
    found = counted(scene, classes, batch_size)
    assert found.per_image.names == tuple(f"{index}.png" for index in range(len(scene)))
    for index, (truth, prediction) in enumerate(scene.images):
        matrix = confusion(truth, prediction, classes)
        np.testing.assert_array_equal(found.per_image.intersection[index], matrix.diagonal())
        np.testing.assert_array_equal(found.per_image.support[index], matrix.sum(axis=1))
        np.testing.assert_array_equal(found.per_image.predicted[index], matrix.sum(axis=0))
    np.testing.assert_array_equal(found.per_image.intersection.sum(axis=0), found.confusion.diagonal())
    np.testing.assert_array_equal(found.per_image.predicted.sum(axis=0), found.confusion.sum(axis=0))


@settings(max_examples=30)
@given(scenes(), st.randoms(use_true_random=False), st.integers(1, 5), st.integers(1, 5))
def test_neither_the_order_of_images_nor_the_batch_size_changes_a_count(
    case: tuple[Scene, int], random: Any, first: int, second: int
) -> None:
    scene, classes = case
    order = list(range(len(scene)))
    random.shuffle(order)
    found = counted(scene, classes, first)
    shuffled = counted(Scene([scene.images[index] for index in order]), classes, second)
    np.testing.assert_array_equal(shuffled.confusion, found.confusion)
    np.testing.assert_array_equal(shuffled.per_image.support, found.per_image.support[order])
    np.testing.assert_array_equal(shuffled.per_image.intersection, found.per_image.intersection[order])


@settings(max_examples=30)
@given(scenes(), st.integers(1, 3), st.floats(0, 0.9))
def test_windows_count_every_pixel_once(case: tuple[Scene, int], side: int, overlap: float) -> None:
    scene, classes = case
    whole, cut = counted(scene, classes), counted(scene, classes, window=Window(side, overlap))
    np.testing.assert_array_equal(cut.confusion, whole.confusion)
    np.testing.assert_array_equal(cut.per_image.predicted, whole.per_image.predicted)


def test_the_last_partial_batch_counts_and_every_image_is_read_once() -> None:
    image = (np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8))
    scene = Scene([image] * 5)
    found = counted(scene, 1, batch_size=4)
    assert found.confusion.tolist() == [[20]]
    assert scene.touched == [0, 1, 2, 3, 4]


def test_rows_are_the_truth_and_columns_the_prediction() -> None:
    truth, prediction = np.full((1, 4), 2, np.uint8), np.array([[0, 0, 0, 2]], np.uint8)
    assert counted(Scene([(truth, prediction)]), 3).confusion.tolist() == [[0, 0, 0], [0, 0, 0], [3, 0, 1]]


def test_class_25_of_26_lies_in_the_last_cell() -> None:
    pixels = np.full((3, 3), 25, np.uint8)
    found = counted(Scene([(pixels, pixels)] * 3), 26)
    assert found.confusion[25, 25] == found.confusion.sum() == 27


@pytest.mark.parametrize("beyond", [3, 4, 254])
def test_a_mask_with_a_class_beyond_those_of_the_network_is_an_error_and_no_ignored_pixel(beyond: int) -> None:
    truth = np.array([[0, 1, beyond, 255]], np.uint8)
    with pytest.raises(ValueError, match="beyond the 3"):
        counted(Scene([(truth, np.zeros_like(truth))]), 3)


def test_no_image_is_an_error_and_not_a_score_of_zero() -> None:
    with pytest.raises(ValueError, match="without images"):
        counted(Scene([]), 3)


def test_the_gpus_way_of_counting_gives_the_same_tally(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    scene = Scene([tuple(random.integers(0, 5, (2, 7, 9), dtype=np.uint8)) for _ in range(5)])
    expected = counted(scene, 5, 3)
    monkeypatch.setattr(scoring, "count", count_without_waiting)
    found = counted(scene, 5, 3)
    np.testing.assert_array_equal(found.confusion, expected.confusion)
    np.testing.assert_array_equal(found.per_image.intersection, expected.per_image.intersection)


@dataclass
class Labels:
    """Masks at their own sizes."""

    masks: Sequence[np.ndarray]

    def item(self, index: int) -> np.ndarray:
        return self.masks[index]

    def size(self, index: int) -> tuple[int, int]:
        height, width = self.masks[index].shape
        return height, width


def test_images_that_are_alike_only_when_scaled_are_compared_each_at_its_own_size() -> None:
    """Rounding down brings labels of 8 x 8 and of 9 x 10 to one scaled size."""
    random = np.random.default_rng(0)
    scene = Scene([tuple(random.integers(0, 3, (2, 4, 4), dtype=np.uint8)) for _ in range(4)])
    labels = Labels([random.integers(0, 3, size, dtype=np.uint8) for size in ((8, 8), (9, 10), (8, 8), (9, 9))])
    found = counted(scene, 3, batch_size=4, labels=labels)
    for index, truth in enumerate(labels.masks):
        logits = Reader(3)(torch.from_numpy(scene.item(index)).permute(2, 0, 1)[None].float() / 255)
        enlarged = nn.functional.interpolate(logits, truth.shape, mode="bilinear", align_corners=False)
        matrix = confusion(truth, enlarged.argmax(dim=1)[0].numpy(), 3)
        np.testing.assert_array_equal(found.per_image.support[index], matrix.sum(axis=1))
        np.testing.assert_array_equal(found.per_image.intersection[index], matrix.diagonal())
        np.testing.assert_array_equal(found.per_image.predicted[index], matrix.sum(axis=0))


@pytest.mark.parametrize("row", [0, 9, 19])
@pytest.mark.parametrize("native", [False, True])
def test_one_bad_logit_in_any_band_marks_its_image_and_no_other(row: int, native: bool) -> None:
    class Poisoned(Reader):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = super().forward(images)
            return torch.where(images[:, 1:2] * 255 > 200, float("nan"), logits)

    clean = (np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8))
    marked = (np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8))
    marked[0][row, 7] = 255  # the truth is what the network sees as green
    labels = Labels([np.zeros((43, 41), np.uint8)] * 3) if native else None
    for window in (Window(), Window(8, 0.25)):
        found = counted(Scene([clean, marked, clean]), 3, 2, window=window, labels=labels, network=Poisoned(3))
        assert found.nonfinite == (1,)


def test_predictions_are_kept_of_the_asked_images_alone_whole_and_in_windows() -> None:
    random = np.random.default_rng(0)
    scene = Scene([tuple(random.integers(0, 5, (2, 7, 9), dtype=np.uint8)) for _ in range(5)])
    for window in (Window(), Window(4, 0.5)):
        kept = counted(scene, 5, 2, keep=(1, 4), window=window).predictions
        assert set(kept) == {1, 4}
        for index, prediction in kept.items():
            assert prediction.dtype == np.uint8
            np.testing.assert_array_equal(prediction, scene.images[index][1])


sizes = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), max_size=20)


@given(sizes, st.integers(1, 5))
def test_every_image_is_in_one_batch_and_every_batch_of_one_size(sizes: list[tuple[int, int]], batch_size: int) -> None:
    batches = batches_of_one_size(sizes, batch_size)
    assert sorted(index for batch in batches for index in batch) == list(range(len(sizes)))
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        assert len({sizes[index] for index in batch}) == 1


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), max_size=3 * LANES))
def test_the_count_for_a_gpu_equals_the_one_for_the_cpu(cells: list[int]) -> None:
    vector = torch.tensor(cells, dtype=torch.int64)
    expected = np.bincount(np.array(cells, dtype=np.int64), minlength=7)
    assert count(vector, 7).tolist() == expected.tolist()
    assert count_without_waiting(vector, 7).tolist() == expected.tolist()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_one_bad_logit_marks_its_image_and_no_other(value: float, memory_format: torch.memory_format) -> None:
    logits = torch.full((3, 2, 4, 5), 3e38).to(memory_format=memory_format)  # finite, though their sum is not
    logits[1, 0, 2, 3] = value
    assert finite_images(logits).tolist() == [True, False, True]


def test_logits_that_add_up_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, where a second pass over the logits of a large map costs a tenth of counting it."""
    monkeypatch.setattr(scoring, "_has_finite_ends", lambda _: pytest.fail("they were read for their ends as well"))
    assert finite_images(torch.randn(2, 3, 4, 5)).tolist() == [True, True]
