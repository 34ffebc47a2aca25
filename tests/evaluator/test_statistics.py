"""The noise in a score: what the images of a split can show, and what they cannot."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from segwatch.evaluator.metrics import confusion, score
from segwatch.evaluator.statistics import (
    RESAMPLES,
    PerImage,
    difference,
    miou_interval,
    per_image_foreground_dice,
    read_per_image,
    worst_images,
    write_per_image,
)

COUNTS = ("intersection", "support", "predicted")


def counted(matrices: list[np.ndarray], names: list[str] | None = None) -> PerImage:
    """The counts of images with these confusion matrices."""
    stack = np.stack(matrices).astype(np.int64)
    return PerImage(
        tuple(names or [f"site/{index}.jpg" for index in range(len(matrices))]),
        stack.diagonal(axis1=1, axis2=2).copy(),
        stack.sum(axis=2),
        stack.sum(axis=1),
    )


def population(images: int, *, right: float = 0.8, noise: float = 0.1, seed: int = 0, classes: int = 3) -> PerImage:
    """Images of 900 pixels a class, about `right` of which are found, more in some images and fewer in others."""
    random = np.random.default_rng(seed)
    support = np.full((images, classes), 900)
    found = np.clip(random.normal(right, noise, (images, 1)) + random.normal(0, 0.02, (images, classes)), 0, 1)
    intersection = (support * found).astype(np.int64)
    wrong = support - intersection
    predicted = intersection + np.roll(wrong, 1, axis=1)
    return PerImage(tuple(f"{index}.jpg" for index in range(images)), intersection, support, predicted)


def improved(images: PerImage, pixels: int) -> PerImage:
    """So many more pixels of every class are right in every image."""
    gained = np.minimum(pixels, images.support - images.intersection)
    lost = np.roll(gained, 1, axis=1)
    return PerImage(images.names, images.intersection + gained, images.support, images.predicted + gained - lost)


def miou_of(images: PerImage) -> float:
    union = images.support.sum(0) + images.predicted.sum(0) - images.intersection.sum(0)
    return float(np.mean(images.intersection.sum(0)[union > 0] / union[union > 0]))


small = st.integers(1, 5).flatmap(
    lambda classes: st.lists(
        hnp.arrays(np.int64, (classes, classes), elements=st.one_of(st.just(0), st.integers(0, 999))),
        min_size=2,
        max_size=6,
    )
)


# --- the interval of mIoU


def test_the_interval_is_that_of_a_bootstrap_written_out() -> None:
    """Every draw of three images of three, 27 in all, instead of a thousand of them at random."""
    images = counted([np.array([[90, 10], [0, 50]]), np.array([[30, 0], [20, 70]]), np.array([[5, 60], [1, 9]])])
    exact = sorted(
        miou_of(PerImage(images.names, *(getattr(images, name)[list(draw)] for name in COUNTS)))
        for draw in itertools.product(range(3), repeat=3)
    )
    interval = miou_interval(images)
    assert interval is not None
    assert interval.low == pytest.approx(exact[0])  # 1 of 27 draws holds the worst image three times: 3.7 %
    assert interval.high == pytest.approx(exact[-1])
    assert (interval.level, interval.resamples) == (0.95, RESAMPLES)


@settings(max_examples=50)
@given(small)
def test_the_interval_lies_between_0_and_1_and_is_the_same_each_time(matrices: list[np.ndarray]) -> None:
    images = counted(matrices)
    interval = miou_interval(images)
    assert interval == miou_interval(images)
    if sum(matrix.sum() for matrix in matrices) == 0:
        assert interval is None
    else:
        assert interval is not None
        assert 0 <= interval.low <= interval.high <= 1


def test_the_interval_covers_the_mean_of_all_images_about_19_times_in_20() -> None:
    everything = population(20_000)
    truth = miou_of(everything)
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        drawn = random.choice(20_000, 40, replace=False)
        interval = miou_interval(PerImage(("x",) * 40, *(getattr(everything, name)[drawn] for name in COUNTS)))
        assert interval is not None
        covered += interval.low <= truth <= interval.high
    assert 86 <= covered <= 99


def test_four_times_as_many_images_halve_the_interval() -> None:
    narrow, wide = miou_interval(population(400)), miou_interval(population(100))
    assert narrow is not None
    assert wide is not None
    assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(2, rel=0.25)


def test_images_that_are_all_alike_leave_no_doubt() -> None:
    interval = miou_interval(counted([np.array([[8, 2], [1, 9]])] * 5))
    assert interval is not None
    assert interval.low == pytest.approx(interval.high, abs=1e-12)


def test_a_class_of_one_image_is_missing_from_some_draws_and_no_zero_there() -> None:
    """Where it is drawn its IoU is 0.5, where it is not it enters no mean: never below what the worst draw gives."""
    common = np.diag([10, 10, 0])
    interval = miou_interval(counted([common, common, common, np.array([[9, 0, 0], [0, 9, 0], [0, 5, 5]])]))
    assert interval is not None
    assert interval.high == 1.0
    assert interval.low > 0.7


def test_one_image_has_no_interval_and_no_pixel_neither() -> None:
    assert miou_interval(counted([np.diag([3, 4])])) is None
    assert miou_interval(counted([np.zeros((2, 2))] * 3)) is None


@pytest.mark.alone
def test_a_long_list_of_images_needs_little_memory_and_time() -> None:
    random = np.random.default_rng(0)
    support = random.integers(0, 20_000, (1120, 26))
    intersection = (support * random.random((1120, 26))).astype(np.int64)
    images = PerImage(tuple(map(str, range(1120))), intersection, support, support.copy())
    miou_interval(images)
    fastest = min(_seconds(lambda: miou_interval(images)) for _ in range(5))
    assert fastest < 0.25, "0.02 s on an idle core; a loop over draws or images takes seconds"


def _seconds(action: object) -> float:
    started = time.perf_counter()
    action()  # type: ignore[operator]
    return time.perf_counter() - started


# --- the difference of two epochs


def test_a_checkpoint_differs_from_itself_by_nothing() -> None:
    found = difference(population(16), population(16))
    assert found is not None
    assert (found.difference, found.low, found.high) == (0, 0, 0)


def test_an_improvement_in_every_image_excludes_0_though_the_intervals_overlap() -> None:
    before = population(30)
    after = improved(before, 18)
    found, old, new = difference(before, after), miou_interval(before), miou_interval(after)
    assert found is not None
    assert old is not None
    assert new is not None
    assert new.low < old.high, "unpaired, these two epochs could not be told apart"
    assert 0 < found.low <= found.difference <= found.high
    assert found.difference == pytest.approx(miou_of(after) - miou_of(before))


def test_gains_here_and_losses_there_hold_0() -> None:
    before, other = population(30, seed=1), population(30, seed=2)
    found = difference(before, other)
    assert found is not None
    assert found.low < 0 < found.high


@settings(max_examples=50)
@given(small)
def test_the_difference_changes_its_sign_with_the_order(matrices: list[np.ndarray]) -> None:
    one = counted(matrices)
    other = PerImage(one.names, np.minimum(one.support, one.predicted), one.support, one.support.copy())
    forth, back = difference(one, other), difference(other, one)
    if forth is None or back is None:
        assert sum(matrix.sum() for matrix in matrices) == 0
        return
    assert forth.difference == pytest.approx(-back.difference)
    assert (forth.low, forth.high) == (pytest.approx(-back.high), pytest.approx(-back.low))


def test_the_order_of_the_images_does_not_matter() -> None:
    before, after = population(20), improved(population(20), 30)
    turned = PerImage(after.names[::-1], *(getattr(after, name)[::-1] for name in COUNTS))
    assert difference(before, turned) == difference(before, after)


def test_other_images_or_another_truth_have_no_difference() -> None:
    images = population(8)
    renamed = PerImage(tuple(f"other/{name}" for name in images.names), *(getattr(images, name) for name in COUNTS))
    assert difference(images, renamed) is None
    assert difference(images, population(9)) is None
    native = PerImage(images.names, *(16 * getattr(images, name) for name in COUNTS))
    assert difference(images, native) is None, "the same images at another resolution are other truth"
    assert difference(images, population(8, classes=4)) is None


def test_one_image_has_no_difference() -> None:
    assert difference(population(1), population(1)) is None


# --- single images


def test_the_worst_images_come_worst_first_and_unscored_ones_not_at_all() -> None:
    matrices = [np.diag([5, 5]), np.zeros((2, 2)), np.array([[1, 9], [9, 1]]), np.array([[5, 5], [0, 10]])]
    found = worst_images(counted(matrices), 3)
    assert [entry.name for entry in found] == ["site/2.jpg", "site/3.jpg", "site/0.jpg"]
    assert [entry.miou for entry in found] == [
        pytest.approx(score(matrices[index].astype(np.int64)).miou) for index in (2, 3, 0)
    ]
    assert worst_images(counted(matrices), 1) == found[:1]
    assert len(worst_images(counted(matrices), 10)) == 3


def planes_dice(prediction: np.ndarray, truth: np.ndarray, classes: int) -> float:
    """The formula as common UNet code has it: one-hot planes of the foreground, epsilon 1e-6, mean over them all."""
    epsilon = 1e-6
    values = []
    for image in range(len(truth)):
        for index in range(1, classes):
            predicted = (prediction[image] == index).astype(float)
            true = (truth[image] == index).astype(float)
            inter = 2 * (predicted * true).sum()
            sets_sum = predicted.sum() + true.sum()
            sets_sum = inter if sets_sum == 0 else sets_sum
            values.append((inter + epsilon) / (sets_sum + epsilon))
    return float(np.mean(values))


@settings(max_examples=100)
@given(st.integers(2, 6), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_the_foreground_dice_is_that_of_the_formula_written_out(classes: int, images: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    # Few classes an image, so that planes are empty in the truth, in the prediction, and in both.
    truth = random.integers(0, random.integers(1, classes + 1), (images, 4, 5))
    prediction = np.where(random.random(truth.shape) < 0.7, truth, random.integers(0, classes, truth.shape))
    matrices = [confusion(truth[i], prediction[i], classes) for i in range(images)]
    assert per_image_foreground_dice(counted(matrices)) == pytest.approx(
        planes_dice(prediction, truth, classes), abs=1e-12
    )


def test_one_stray_pixel_turns_an_absent_class_from_1_to_almost_0() -> None:
    clean, stray = np.diag([100, 0]), np.array([[99, 1], [0, 0]])
    assert per_image_foreground_dice(counted([clean])) == 1.0
    assert per_image_foreground_dice(counted([stray])) == pytest.approx(1e-6, rel=1e-3)


def test_an_image_that_is_wholly_ignored_is_none_of_the_images() -> None:
    stray, ignored = np.array([[99, 1], [0, 0]]), np.zeros((2, 2))
    assert per_image_foreground_dice(counted([stray, ignored])) == per_image_foreground_dice(counted([stray]))
    assert per_image_foreground_dice(counted([ignored])) is None


def test_without_a_foreground_class_there_is_no_foreground_dice() -> None:
    assert per_image_foreground_dice(counted([np.array([[7]])])) is None


# --- the file


def test_counts_come_back_from_their_file_as_they_were(tmp_path: Path) -> None:
    names = ["a/1658137057.641204937.jpg", "b/Straße 漢.png", ""]
    images = counted([np.diag([2**40, 1]), np.diag([0, 0]), np.array([[1, 2], [3, 4]])], names)
    path = tmp_path / "attempt001_epoch1_test.npz"
    write_per_image(path, images)
    found = read_per_image(path)
    assert found is not None
    assert found.names == images.names
    for name in COUNTS:
        assert getattr(found, name).dtype == np.int64
        np.testing.assert_array_equal(getattr(found, name), getattr(images, name))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_file_that_is_not_there_is_none(tmp_path: Path) -> None:
    assert read_per_image(tmp_path / "none.npz") is None


class _Marker:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


def test_nothing_in_a_file_is_ever_unpickled(tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "x.npz"
    names = np.empty(1, dtype=object)
    names[0] = _Marker(marker)
    np.savez(path, names=names)
    with pytest.raises(ValueError, match=r"x\.npz"):
        read_per_image(path)
    assert not marker.exists()


def test_what_is_no_file_of_ours_is_refused_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    images = population(3)
    write_per_image(path, images)
    whole = path.read_bytes()
    arrays = {"names": np.array(images.names), **{name: getattr(images, name) for name in COUNTS}}
    foreign: list[bytes] = [b"", b"no zip", whole[: len(whole) // 2], whole[:40] + b"\xff" * 20 + whole[60:]]
    for change in (
        {"names": np.array(["a"])},
        {"support": arrays["support"][:, :2]},
        {"support": arrays["support"].astype(float)},
        {"intersection": arrays["support"] + 1},
        {"intersection": -arrays["support"]},
    ):
        np.savez(path, **{**arrays, **change})
        foreign.append(path.read_bytes())
    np.savez(path, names=arrays["names"])
    foreign.append(path.read_bytes())
    np.save(tmp_path / "bare.npy", arrays["support"])
    foreign.append((tmp_path / "bare.npy").read_bytes())
    for content in foreign:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.npz"):
            read_per_image(path)


def test_the_daemon_may_import_it() -> None:
    code = "import sys, segwatch.evaluator.statistics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
