"""The pixel cache: right pixels, built once, whoever builds and whoever dies meanwhile."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from segwatch.data import cache as cache_module
from segwatch.data.audit import audit, require
from segwatch.data.cache import PixelCache, decode_again, open_cache, open_labels, overwrite_entry
from segwatch.data.masks import reduce_mask
from segwatch.data.rasters import read_image, scaled_size
from segwatch.data.resolved import ResolvedData
from segwatch.errors import ConfigError


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth enough to survive JPEG, never the same anywhere."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture
def data(dataset) -> ResolvedData:
    for split in ("train", "val", "test"):
        dataset.pair(split, "a", [0, 1], (70, 90))
    for number in range(5):
        size = (64 + number, 80)
        dataset.pair("train", f"b{number}", [0, 1, 9, 2], size)
        Image.fromarray(noise(*size, number)).save(dataset.root / f"images/train/b{number}.jpg", quality=95)
    return require(audit(dataset.config(scale=0.5), dataset.root))


def decodes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    real = cache_module.decode_pair

    def spy(root, pair, *settings):
        seen.append(pair.image)
        return real(root, pair, *settings)

    monkeypatch.setattr(cache_module, "decode_pair", spy)
    return seen


def directory_of(cache_dir: Path) -> Path:
    (directory,) = cache_dir.iterdir()
    return directory


def same(one: PixelCache, other: PixelCache) -> bool:
    return len(one) == len(other) and all(np.array_equal(one.item(i), other.item(i)) for i in range(len(one)))


def test_an_entry_is_the_scaled_image_and_the_training_indices(data: ResolvedData, tmp_path: Path) -> None:
    cache = open_cache(data, "train", tmp_path / "cache")
    assert len(cache) == 6
    assert cache.name(1) == "images/train/b0.jpg"
    assert cache.pair(1).mask == "masks/train/b0.png"
    assert cache.size(1) == (32, 40)
    assert cache.item(1).shape == (32, 40, 4)
    with Image.open(data.root / cache.name(1)) as image:
        reference = np.asarray(image.resize((40, 32), Image.Resampling.BOX)).astype(int)
    assert np.abs(cache.item(1)[..., :3] - reference).mean() < 3
    assert set(np.unique(cache.item(1)[..., 3])) <= {0, 1, 255}
    ids = np.resize(np.array([0, 1, 9, 2]), (64, 80))
    expected = data.lookup[reduce_mask(ids, 32, 40)]
    np.testing.assert_array_equal(cache.item(1)[..., 3], expected)


def test_an_item_is_a_read_only_view_into_the_map(data: ResolvedData, tmp_path: Path) -> None:
    item = open_cache(data, "train", tmp_path / "cache").item(0)
    assert not item.flags.writeable
    assert not item.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        item[0, 0, 0] = 1


def test_what_is_cached_is_not_decoded_again(data: ResolvedData, tmp_path: Path, monkeypatch) -> None:
    seen = decodes(monkeypatch)
    first = open_cache(data, "train", tmp_path / "cache")
    assert len(seen) == 6
    assert same(first, open_cache(data, "train", tmp_path / "cache"))
    assert len(seen) == 6


def test_a_file_that_changed_is_decoded_again_and_the_others_are_not(data, tmp_path: Path, monkeypatch) -> None:
    open_cache(data, "train", tmp_path / "cache")
    path = data.root / "images/train/b3.jpg"
    Image.fromarray(255 - noise(67, 80, 3)).save(path)
    os.utime(path, ns=(1, 1))
    seen = decodes(monkeypatch)
    cache = open_cache(data, "train", tmp_path / "cache")
    assert seen == ["images/train/b3.jpg"]
    np.testing.assert_array_equal(cache.item(4)[..., :3], read_image(path, 0.5))


def test_another_scale_or_another_choice_of_classes_is_another_cache(data: ResolvedData, tmp_path: Path) -> None:
    open_cache(data, "val", tmp_path / "cache")
    open_cache(data.model_copy(update={"scale": 0.8}), "val", tmp_path / "cache")
    open_cache(data.model_copy(update={"classes": data.classes[:1]}), "val", tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_progress_starts_behind_what_is_cached_and_ends_at_all(data: ResolvedData, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    fewer = data.model_copy(update={"splits": {**data.splits, "train": data.splits["train"][:2]}})
    open_cache(fewer, "train", tmp_path / "cache")
    open_cache(data, "train", tmp_path / "cache", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 6), (4, 6), (5, 6), (6, 6)]
    open_cache(data, "train", tmp_path / "cache", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (6, 6)


def test_all_files_that_cannot_be_decoded_are_told_and_the_rest_is_kept(data, tmp_path: Path, monkeypatch) -> None:
    for name in ("images/train/b1.jpg", "images/train/b3.jpg"):
        path = data.root / name
        path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(ConfigError) as caught:
        open_cache(data, "train", tmp_path / "cache")
    assert str(data.root / "images/train/b1.jpg") in str(caught.value)
    assert str(data.root / "images/train/b3.jpg") in str(caught.value)
    assert caught.value.exit_code == 78
    seen = decodes(monkeypatch)
    with pytest.raises(ConfigError, match="2 of 2"):
        open_cache(data, "train", tmp_path / "cache")
    assert sorted(seen) == ["images/train/b1.jpg", "images/train/b3.jpg"]


def test_a_file_that_is_gone_is_told_by_name(data: ResolvedData, tmp_path: Path) -> None:
    (data.root / "masks/train/b1.png").unlink()
    with pytest.raises(ConfigError, match=r"b1\.png"):
        open_cache(data, "train", tmp_path / "cache")


def test_torn_tails_of_a_killed_builder_are_passed_over(data: ResolvedData, tmp_path: Path, monkeypatch) -> None:
    whole = open_cache(data, "train", tmp_path / "whole")
    open_cache(data, "train", tmp_path / "cache")
    directory = directory_of(tmp_path / "cache")
    index = directory / "index.jsonl"
    lines = index.read_bytes().splitlines(keepends=True)
    index.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    with (directory / "pixels.bin").open("ab") as file:
        file.write(b"half an entry")
    seen = decodes(monkeypatch)
    assert same(whole, open_cache(data, "train", tmp_path / "cache"))
    assert len(seen) == 1
    assert same(whole, open_cache(data, "train", tmp_path / "cache"))
    assert len(seen) == 1


def test_an_index_without_its_pixels_is_begun_anew(data: ResolvedData, tmp_path: Path) -> None:
    whole = open_cache(data, "train", tmp_path / "whole")
    open_cache(data, "train", tmp_path / "cache")
    pixels = directory_of(tmp_path / "cache") / "pixels.bin"
    with pixels.open("r+b") as file:
        file.truncate(100)
    assert same(whole, open_cache(data, "train", tmp_path / "cache"))


def test_a_full_disk_is_said_plainly_and_leaves_no_half_entry(data, tmp_path: Path, monkeypatch) -> None:
    real, written = os.pwrite, []

    def full(descriptor, buffer, offset):
        if written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(real(descriptor, buffer[:1000], offset))
        return written[0]

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match=r"No space left on device.*pixels.bin"):
        open_cache(data, "train", tmp_path / "cache")
    directory = directory_of(tmp_path / "cache")
    assert (directory / "pixels.bin").stat().st_size == 0
    assert not (directory / "index.jsonl").exists()
    monkeypatch.undo()
    assert len(open_cache(data, "train", tmp_path / "cache")) == 6


def test_many_may_build_at_the_same_time(data: ResolvedData, tmp_path: Path) -> None:
    whole = open_cache(data, "train", tmp_path / "whole")
    with ThreadPoolExecutor(4) as pool:
        caches = list(pool.map(lambda _: open_cache(data, "train", tmp_path / "cache", threads=2), range(4)))
    assert all(same(whole, cache) for cache in caches)


class AtOnce(ThreadPoolExecutor):
    """Does what it is handed while it is handed it: as far ahead of who takes the results as a pool can ever be."""

    def submit(self, call, *given):
        done: Future = Future()
        done.set_result(call(*given))
        return done


def test_no_more_pairs_wait_in_memory_than_two_for_each_thread(data, tmp_path: Path, monkeypatch) -> None:
    """However slow the disk is, or another builder that holds the lock."""
    monkeypatch.setattr(cache_module, "ThreadPoolExecutor", AtOnce)
    pairs = [(str(number), data.splits["train"][0]) for number in range(20)]
    decoded, taken = [], []
    builder = cache_module._Builder(data.root, lambda pair: decoded.append(pair) or np.zeros(1), None, threads=3)
    for key, _ in builder.made(pairs, len(pairs)):
        assert len(decoded) - len(taken) <= 2 * 3
        taken.append(key)
    assert taken == [key for key, _ in pairs]


def test_a_builder_that_is_killed_leaves_a_cache_that_the_next_one_completes(data, tmp_path: Path, monkeypatch) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from segwatch.data import cache
from segwatch.data.resolved import ResolvedData
cache.COMMIT_BYTES = 1
def die(done, total):
    if done == 3:
        os.kill(os.getpid(), signal.SIGKILL)
cache.open_cache(ResolvedData.model_validate_json(sys.argv[1]), "train", Path(sys.argv[2]), progress=die, threads=1)
"""
    arguments = [sys.executable, "-c", code, data.model_dump_json(), str(tmp_path / "cache")]
    assert subprocess.run(arguments, check=False, timeout=60).returncode == -signal.SIGKILL
    seen = decodes(monkeypatch)
    cache = open_cache(data, "train", tmp_path / "cache")
    assert len(seen) == 3
    assert same(cache, open_cache(data, "train", tmp_path / "whole"))


# --- labels at full size


def test_labels_are_the_training_indices_of_the_whole_mask(data: ResolvedData, tmp_path: Path) -> None:
    labels = open_labels(data, "train", tmp_path / "cache")
    assert len(labels) == 6
    for index, pair in enumerate(labels.pairs):
        with Image.open(data.root / pair.mask) as mask:
            expected = data.lookup[np.asarray(mask)]
        assert labels.size(index) == expected.shape
        assert labels.item(index).dtype == np.uint8
        np.testing.assert_array_equal(labels.item(index), expected)
    assert set(np.unique(labels.item(1))) == {0, 1, 255}
    assert not labels.item(1).flags.writeable


def test_labels_reduced_are_those_of_the_scaled_cache(data: ResolvedData, tmp_path: Path) -> None:
    labels, cache = (opened(data, "train", tmp_path / "cache") for opened in (open_labels, open_cache))
    for index in range(len(cache)):
        reduced = reduce_mask(labels.item(index), *cache.size(index))
        np.testing.assert_array_equal(reduced, cache.item(index)[..., 3])


def test_labels_have_their_own_directory_which_another_scale_shares(data, tmp_path: Path, monkeypatch) -> None:
    open_cache(data, "train", tmp_path / "cache")
    open_labels(data, "train", tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2
    monkeypatch.setattr(cache_module, "decode_labels", None)
    rescaled = data.model_copy(update={"scale": 0.25})
    assert open_labels(rescaled, "train", tmp_path / "cache").size(0) == (70, 90)
    monkeypatch.undo()
    open_labels(data.model_copy(update={"classes": data.classes[:1]}), "train", tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_a_mask_that_changed_is_read_again_and_an_image_that_changed_is_not(data, tmp_path: Path, monkeypatch) -> None:
    open_labels(data, "train", tmp_path / "cache")
    seen: list[str] = []
    real = cache_module.decode_labels
    monkeypatch.setattr(
        cache_module, "decode_labels", lambda root, pair, *rest: (seen.append(pair.mask), real(root, pair, *rest))[1]
    )
    os.utime(data.root / "images/train/b1.jpg", ns=(1, 1))
    os.utime(data.root / "masks/train/b2.png", ns=(1, 1))
    open_labels(data, "train", tmp_path / "cache")
    assert seen == ["masks/train/b2.png"]


def test_a_mask_that_cannot_be_read_is_told_and_the_other_labels_are_kept(data, tmp_path: Path) -> None:
    path = data.root / "masks/train/b1.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:60])
    told: list[tuple[int, int]] = []
    with pytest.raises(ConfigError, match=r"1 of 6 files(.|\n)*b1\.png"):
        open_labels(data, "train", tmp_path / "cache")
    path.write_bytes(whole)
    open_labels(data, "train", tmp_path / "cache", progress=lambda done, total: told.append((done, total)))
    assert told == [(6, 6)]


def test_a_killed_build_of_labels_is_gone_on_with(data, tmp_path: Path) -> None:
    whole = open_labels(data, "train", tmp_path / "whole")
    open_labels(data, "train", tmp_path / "cache")
    directory = directory_of(tmp_path / "cache")
    lines = (directory / "index.jsonl").read_bytes().splitlines(keepends=True)
    (directory / "index.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:15])
    with (directory / "pixels.bin").open("ab") as file:
        file.write(b"half a mask")
    told: list[tuple[int, int]] = []
    again = open_labels(data, "train", tmp_path / "cache", progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 6) for done in range(3, 7)]
    assert all(np.array_equal(again.item(index), whole.item(index)) for index in range(6))


# --- rasters


@pytest.mark.parametrize("scale", [0.125, 0.2, 0.25, 0.5, 0.7])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_reduced_image_lies_where_its_mask_does(tmp_path: Path, scale: float, suffix: str) -> None:
    """A bright disc of known centre: reduced, its centre of mass is that centre times the scale."""
    height, width = 613, 811  # primes: no reduction divides them
    y, x = np.mgrid[:height, :width] + 0.5
    disc = (np.hypot(y - 500, x - 700) < 60).astype(np.uint8)
    path = tmp_path / f"disc{suffix}"
    Image.fromarray(np.repeat(255 * disc[..., None], 3, axis=2)).save(path)
    image = read_image(path, scale).astype(float).mean(axis=2)
    assert image.shape == scaled_size(height, width, scale)
    mask = reduce_mask(disc, *image.shape)
    for weights in (np.where(image > 40, image, 0.0), mask.astype(float)):
        rows, columns = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
        assert (rows * weights).sum() / weights.sum() == pytest.approx(500 * image.shape[0] / height, abs=0.25)
        assert (columns * weights).sum() / weights.sum() == pytest.approx(700 * image.shape[1] / width, abs=0.25)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_images_of_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.fromarray(noise(40, 40)).convert(mode).save(path)
    assert read_image(path, 0.5).shape == (20, 20, 3)


def test_a_16_bit_image_is_refused_instead_of_becoming_white(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.full((40, 40), 3000, dtype=np.uint16)).save(path)
    with pytest.raises(ConfigError, match=r"a.png.*more than 8 bits"):
        read_image(path)


@given(st.integers(1, 80), st.integers(1, 80), st.floats(0.01, 1))
def test_a_reduced_mask_takes_the_pixel_at_each_centre_and_invents_no_id(height: int, width: int, scale: float) -> None:
    ids = np.random.default_rng(height * 100 + width).integers(0, 255, (height, width), dtype=np.uint8)
    target = scaled_size(height, width, scale)
    reduced = reduce_mask(ids, *target)
    assert reduced.shape == target
    assert set(reduced.ravel().tolist()) <= set(ids.ravel().tolist())
    rows = np.floor((np.arange(target[0]) + 0.5) * height / target[0] + 1e-9).astype(int)
    np.testing.assert_array_equal(reduced[:, 0], ids[rows, int((0.5 * width) / target[1] + 1e-9)])
    np.testing.assert_array_equal(reduce_mask(ids, height, width), ids)


def test_files_cut_anywhere_are_told_and_never_crash(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(noise(64, 64)).save(path)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 16, max(1, len(whole) // 40)):
        path.write_bytes(whole[:length])
        with pytest.raises(ConfigError, match=r"a\.png"):
            read_image(path, 0.5)


def test_an_entry_that_was_changed_is_made_anew_and_one_that_was_not_is_left(data, tmp_path):
    cache = open_cache(data, "train", tmp_path)
    names, before = [cache.name(index) for index in range(2)], [cache.item(index).copy() for index in range(2)]
    overwrite_entry(data, "train", tmp_path, 0, lambda item: 255 - item)
    mapped = open_cache(data, "train", tmp_path)
    assert decode_again(data, "train", tmp_path, [*names, "elsewhere.png"]) == names[:1]
    anew = open_cache(data, "train", tmp_path)
    assert [np.array_equal(anew.item(index), before[index]) for index in range(2)] == [True, True]
    assert np.array_equal(mapped.item(0), 255 - before[0]), "who has mapped the old one keeps it"
    assert decode_again(data, "train", tmp_path, names) == []
