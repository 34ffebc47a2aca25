"""Pairing by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segwatch.data.pairs import list_pairs
from segwatch.errors import ConfigError


def touch(directory: Path, *names: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        (directory / name).touch()
    return directory


def test_a_stem_loses_only_its_last_suffix(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "1658137057.641204937.jpg", "1658137057.841204937.JPG")
    masks = touch(tmp_path / "m", "1658137057.641204937.png", "1658137057.841204937.tif")
    found = list_pairs(images, masks)
    assert [(image.name, mask.name) for image, mask in found.pairs] == [
        ("1658137057.641204937.jpg", "1658137057.641204937.png"),
        ("1658137057.841204937.JPG", "1658137057.841204937.tif"),
    ]


def test_orphans_both_ways_and_doubled_stems_are_kept_apart(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "b.jpg", "a.jpg", "alone.png", "twice.jpg", "twice.png")
    masks = touch(tmp_path / "m", "a.png", "b.png", "lost.png", "twice.png")
    found = list_pairs(images, masks)
    assert [image.name for image, _ in found.pairs] == ["a.jpg", "b.jpg"]
    assert [path.name for path in found.images_alone] == ["alone.png"]
    assert [path.name for path in found.masks_alone] == ["lost.png"]
    assert [path.name for path in found.ambiguous] == ["twice.jpg", "twice.png"]


def test_other_files_dot_files_and_directories_are_no_images(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "a.jpg", "._a.jpg", "Thumbs.db", "notes.txt")
    (images / "b.jpg").mkdir()
    masks = touch(tmp_path / "m", "a.png", "c.jpg")
    found = list_pairs(images, masks)
    assert len(found.pairs) == 1
    assert not found.images_alone + found.masks_alone + found.ambiguous


@pytest.mark.parametrize("missing", ["images", "masks"])
def test_a_missing_or_empty_directory_is_refused_by_name(tmp_path: Path, missing: str) -> None:
    directories = {"images": touch(tmp_path / "images", "a.jpg"), "masks": touch(tmp_path / "masks", "a.png")}
    for path in directories[missing].iterdir():
        path.unlink()
    with pytest.raises(ConfigError, match=f"{missing}.*no {missing} there"):
        list_pairs(directories["images"], directories["masks"])
    directories[missing].rmdir()
    with pytest.raises(ConfigError, match=f"{missing}.*cannot list the {missing}"):
        list_pairs(directories["images"], directories["masks"])


STEMS = st.sets(st.sampled_from(["a", "a.1", "a.1.2", "b", "c d", "e"]), min_size=1)


@given(STEMS, STEMS)
def test_every_file_is_in_exactly_one_list(
    tmp_path_factory: pytest.TempPathFactory, image_stems: set[str], mask_stems: set[str]
) -> None:
    root = tmp_path_factory.mktemp("pairs")
    images = touch(root / "i", *(f"{stem}.jpg" for stem in image_stems))
    masks = touch(root / "m", *(f"{stem}.png" for stem in mask_stems))
    found = list_pairs(images, masks)
    assert {image.stem for image, _ in found.pairs} == image_stems & mask_stems
    assert {path.stem for path in found.images_alone} == image_stems - mask_stems
    assert {path.stem for path in found.masks_alone} == mask_stems - image_stems
    assert [image.stem for image, _ in found.pairs] == sorted(image_stems & mask_stems)
