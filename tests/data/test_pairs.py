"""Pairing by name."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segwatch.data.pairs import Listing, list_pairs
from segwatch.errors import ConfigError


def touch(directory: Path, *names: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).touch()
    return directory


def names(found: Listing, root: Path) -> list[tuple[str, str]]:
    return [(image.relative_to(root).as_posix(), mask.relative_to(root).as_posix()) for image, mask in found.pairs]


def is_clean(found: Listing) -> bool:
    return not found.images_alone + found.masks_alone + found.ambiguous


def test_a_stem_loses_only_its_last_suffix_whatever_its_case(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "1658137057.641204937.jpg", "1658137057.841204937.JPG")
    masks = touch(tmp_path / "m", "1658137057.641204937.png", "1658137057.841204937.TIF")
    found = list_pairs(images, masks)
    assert [(image.name, mask.name) for image, mask in found.pairs] == [
        ("1658137057.641204937.jpg", "1658137057.641204937.png"),
        ("1658137057.841204937.JPG", "1658137057.841204937.TIF"),
    ]


def test_orphans_both_ways_and_doubled_stems_are_kept_apart(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "b.jpg", "a.jpg", "alone.png", "twice.jpg", "twice.png")
    masks = touch(tmp_path / "m", "a.png", "b.png", "lost.png", "twice.png")
    found = list_pairs(images, masks)
    assert [image.name for image, _ in found.pairs] == ["a.jpg", "b.jpg"]
    assert [path.name for path in found.images_alone] == ["alone.png"]
    assert [path.name for path in found.masks_alone] == ["lost.png"]
    assert [path.name for path in found.ambiguous] == ["twice.jpg", "twice.png"]


def test_other_files_and_hidden_ones_are_no_images(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "a.jpg", "._a.jpg", "Thumbs.db", "notes.txt", ".cache/b.jpg")
    (images / "empty.jpg").mkdir()
    found = list_pairs(images, touch(tmp_path / "m", "a.png", ".trash/c.png"))
    assert len(found.pairs) == 1
    assert is_clean(found)


@pytest.mark.parametrize("suffix", ["png", "tif", "tiff", "npy", "jpg", "jpeg", "bmp"])
def test_a_mask_that_cannot_be_read_is_paired_all_the_same_so_that_it_can_be_refused(
    tmp_path: Path, suffix: str
) -> None:
    found = list_pairs(touch(tmp_path / "i", "a.jpg"), touch(tmp_path / "m", f"a.{suffix}"))
    assert len(found.pairs) == 1
    assert is_clean(found)


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


# --- suffixes of masks ---------------------------------------------------------------------------------------------


def test_a_mask_may_have_a_suffix_behind_the_name_of_its_image(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "a.jpg", "b.jpg", "c.jpg")
    masks = touch(tmp_path / "m", "a_mask.png", "b_label.png", "c.png")
    found = list_pairs(images, masks)
    assert [mask.name for _, mask in found.pairs] == ["a_mask.png", "b_label.png", "c.png"]
    assert is_clean(found)


def test_a_mask_belongs_to_the_image_of_its_own_name_first(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "x.jpg", "x_mask.jpg")
    found = list_pairs(images, touch(tmp_path / "m", "x.png", "x_mask.png"))
    assert [(image.stem, mask.stem) for image, mask in found.pairs] == [("x", "x"), ("x_mask", "x_mask")]


def test_two_masks_of_one_image_are_ambiguous_and_neither_is_taken(tmp_path: Path) -> None:
    found = list_pairs(touch(tmp_path / "i", "x.jpg", "y.jpg"), touch(tmp_path / "m", "x.png", "x_mask.png", "y.png"))
    assert [path.name for path in found.ambiguous] == ["x.png", "x_mask.png"]
    assert [image.name for image, _ in found.pairs] == ["y.jpg"]


def test_only_the_suffixes_that_are_configured_count_the_longest_first(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "a.jpg", "a_road.jpg", "b.jpg")
    masks = touch(tmp_path / "m", "a_road_gt.png", "b_gt.png")
    assert not list_pairs(images, masks).pairs
    found = list_pairs(images, masks, mask_suffixes=["_gt", "_road_gt"])
    assert [(image.stem, mask.stem) for image, mask in found.pairs] == [("a", "a_road_gt"), ("b", "b_gt")]
    strict = list_pairs(images, touch(tmp_path / "n", "b.png", "a_gt.png"), mask_suffixes=["_gt"])
    assert [image.stem for image, _ in strict.pairs] == ["a"]
    assert [path.name for path in strict.masks_alone] == ["b.png"]


def test_one_directory_may_hold_both_where_suffixes_tell_them_apart(tmp_path: Path) -> None:
    both = touch(
        tmp_path / "d", "a.png", "a_mask.png", "b.jpg", "b_label.png", "c.jpg", "c.npy", "lost_mask.png", "d.jpg"
    )
    found = list_pairs(both, both)
    assert names(found, both) == [("a.png", "a_mask.png"), ("b.jpg", "b_label.png"), ("c.jpg", "c.npy")]
    assert [path.name for path in found.masks_alone] == ["lost_mask.png"]
    assert [path.name for path in found.images_alone] == ["d.jpg"]


@pytest.mark.parametrize("files", [["a.png", "b.png"], ["a.jpg", "a.png"], ["a_mask.png"]])
def test_one_directory_without_telling_names_is_refused(tmp_path: Path, files: list[str]) -> None:
    both = touch(tmp_path / "d", *files)
    with pytest.raises(ConfigError, match="no name says which is a mask") as caught:
        list_pairs(both, tmp_path / "m" / ".." / "d")
    assert "data.mask_suffixes" in (caught.value.remedy or "")


# --- sub-directories -----------------------------------------------------------------------------------------------


def test_sub_directories_are_part_of_the_name(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "north/1.jpg", "south/1.jpg", "top.jpg")
    masks = touch(tmp_path / "m", "north/1.png", "south/1_mask.png", "top.png", "west/1.png")
    found = list_pairs(images, masks)
    assert names(found, tmp_path) == [
        ("i/north/1.jpg", "m/north/1.png"),
        ("i/south/1.jpg", "m/south/1_mask.png"),
        ("i/top.jpg", "m/top.png"),
    ]
    assert [path.parent.name for path in found.masks_alone] == ["west"]


@pytest.mark.parametrize(("images", "masks"), [(".", "masks"), ("images", ".")])
def test_a_directory_inside_the_other_is_not_searched_twice(tmp_path: Path, images: str, masks: str) -> None:
    touch(tmp_path, "masks/a.png" if images == "." else "a.png", "a.jpg" if images == "." else "images/a.jpg")
    found = list_pairs(tmp_path / images, tmp_path / masks)
    assert len(found.pairs) == 1
    assert is_clean(found)


def test_directories_of_other_splits_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "i/a.jpg", "i/val/b.jpg", "m/a.png", "m/val/b.png")
    assert len(list_pairs(tmp_path / "i", tmp_path / "m").pairs) == 2
    found = list_pairs(tmp_path / "i", tmp_path / "m", apart=[tmp_path / "i/val", tmp_path / "m/val"])
    assert [image.name for image, _ in found.pairs] == ["a.jpg"]


def test_a_star_is_any_directory_and_part_of_the_name(tmp_path: Path) -> None:
    stamp = "1658137057.641204937"
    for scene in ("AMtown01", "AMtown02"):
        touch(tmp_path / "CAM_LIDAR" / scene / "interval5_CAM", f"{stamp}.jpg")
        touch(tmp_path / "CAM_label" / scene / "interval5_CAM_label_id", f"{stamp}.png")
        touch(tmp_path / "CAM_label" / scene / "interval5_CAM_label_color", f"{stamp}.png")
    touch(tmp_path / "CAM_LIDAR" / "AMtown03" / "other", "x.jpg")
    found = list_pairs(
        tmp_path / "CAM_LIDAR" / "*" / "interval5_CAM", tmp_path / "CAM_label" / "*" / "interval5_CAM_label_id"
    )
    assert names(found, tmp_path) == [
        (f"CAM_LIDAR/{scene}/interval5_CAM/{stamp}.jpg", f"CAM_label/{scene}/interval5_CAM_label_id/{stamp}.png")
        for scene in ("AMtown01", "AMtown02")
    ]
    assert is_clean(found)


def test_a_star_may_be_part_of_a_directory_name(tmp_path: Path) -> None:
    touch(tmp_path, "run_a/i/1.jpg", "run_b/i/1.jpg", "other/i/1.jpg", "run_a/m/1.png", "run_b/m/1.png")
    found = list_pairs(tmp_path / "run_*" / "i", tmp_path / "run_*" / "m")
    assert [image.parent.parent.name for image, _ in found.pairs] == ["run_a", "run_b"]
    assert is_clean(found)


@pytest.mark.parametrize("pattern", ["none*", "*/none", "**"])
def test_a_pattern_that_stands_for_nothing_is_refused(tmp_path: Path, pattern: str) -> None:
    touch(tmp_path, "a/i/1.jpg", "m/1.png")
    with pytest.raises(ConfigError) as caught:
        list_pairs(tmp_path / pattern, tmp_path / "m")
    assert str(tmp_path / pattern) in str(caught.value)


def test_links_are_followed_and_a_circle_ends(tmp_path: Path) -> None:
    real = touch(tmp_path / "disk", "a.jpg")
    images = touch(tmp_path / "i", "b.jpg")
    (images / "linked").symlink_to(real)
    (real / "back").symlink_to(images)
    masks = touch(tmp_path / "m", "b.png", "linked/a.png")
    found = list_pairs(images, masks)
    assert [image.name for image, _ in found.pairs] == ["b.jpg", "a.jpg"]
    assert is_clean(found)


def test_a_letter_composed_or_taken_apart_is_the_same_letter(tmp_path: Path) -> None:
    apart, composed = (unicodedata.normalize(form, "Zürich") for form in ("NFD", "NFC"))
    found = list_pairs(touch(tmp_path / "i", f"{apart}.jpg"), touch(tmp_path / "m", f"{composed}.png"))
    assert len(found.pairs) == 1


def test_the_order_of_the_file_system_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stems = ["b", "a", "c/d", "c/a"]
    images = touch(tmp_path / "i", *(f"{stem}.jpg" for stem in stems))
    masks = touch(tmp_path / "m", *(f"{stem}.png" for stem in stems))
    before = list_pairs(images, masks)
    scandir = os.scandir

    class Reversed:
        def __init__(self, path: Path) -> None:
            with scandir(path) as entries:
                self._entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self._entries

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", Reversed)
    assert list_pairs(images, masks) == before
    assert [image.relative_to(images).as_posix() for image, _ in before.pairs] == [
        "a.jpg",
        "b.jpg",
        "c/a.jpg",
        "c/d.jpg",
    ]


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
