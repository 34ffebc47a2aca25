"""What val and test share with train."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from segwatch.data.config import SPLITS, DataConfig
from segwatch.data.leaks import Leaks, find_leaks
from segwatch.data.problems import Problem
from segwatch.data.scenes import write_scenes
from segwatch.data.splits import listings

ROOT = Path("/data")
Tiles = Callable[..., DataConfig]


def config(**settings: Any) -> DataConfig:
    tables = {name: {"images": f"images/{name}", "masks": f"masks/{name}"} for name in SPLITS}
    if "split" in settings:
        tables = {}
        settings = {"images": "images", "masks": "masks", **settings}
    return DataConfig.model_validate({"classes": "classes.toml", **tables, **settings})


def leaks(images: Mapping[str, Mapping[str, str]], **settings: Any) -> Leaks:
    return find_leaks(config(**settings), ROOT, images)


def images(**splits: str) -> dict[str, dict[str, str]]:
    """`train="a b=1"`: image b has the content 1, image a one of its own."""
    found: dict[str, dict[str, str]] = {}
    for name in SPLITS:
        words = [word.partition("=") for word in splits.get(name, "").split()]
        found[name] = {f"images/{name}/{stem}.jpg": content or f"{name}/{stem}" for stem, _, content in words}
    return found


def only(found: Leaks, code: str) -> Problem:
    (problem,) = [problem for problem in found.problems if problem.code == code]
    assert problem.remedy
    return problem


def hashes(config: DataConfig, root: Path) -> dict[str, dict[str, str]]:
    return {
        name: {os.path.relpath(image, root): hashlib.sha256(image.read_bytes()).hexdigest() for image, _ in found.pairs}
        for name, found in listings(config, root).splits.items()
    }


# --- identical files -----------------------------------------------------------------------------------------------


def test_an_image_of_two_splits_is_found_under_any_name_in_every_pair_of_splits() -> None:
    found = leaks(images(train="a=1 b=2 c", val="x=1 y=3", test="z=1 u=2 v=3 w"))
    assert found.identical == {"val": 1, "test": 2}
    whats = [problem.what for problem in found.problems if problem.code == "leak-identical"]
    assert whats == [
        "1 of 2 images of val is, byte for byte, in train as well",
        "2 of 4 images of test are, byte for byte, in train as well",
        "2 of 4 images of test are, byte for byte, in val as well",
    ]
    files = [problem.files for problem in found.problems if problem.code == "leak-identical"]
    assert files[1] == ("images/test/u.jpg = images/train/b.jpg", "images/test/z.jpg = images/train/a.jpg")


def test_one_file_in_two_splits_is_named_as_such() -> None:
    same = {"images/a.jpg": "1"}
    problem = only(leaks({"train": same, "val": same, "test": {}}), "leak-identical")
    assert problem.files == ("images/a.jpg: the same file is in train",)


def test_copies_within_a_split_are_counted_and_no_leak() -> None:
    found = leaks(images(train="a=1 b=1 c=1 d"))
    assert found.identical == {"val": 0, "test": 0}
    problem = only(found, "identical-images")
    assert problem.what == "2 images of train are a byte-for-byte copy of another one there"
    assert problem.files == ("images/train/a.jpg = images/train/b.jpg = images/train/c.jpg",)


def test_images_that_differ_leak_nothing() -> None:
    assert leaks(images(train="a b", val="c", test="d")) == Leaks(identical={"val": 0, "test": 0})


# --- frames of one scene -------------------------------------------------------------------------------------------


def test_frames_of_one_flight_in_train_and_test_are_counted_scene_by_scene() -> None:
    found = leaks(images(train="f1_01 f1_02 f2_01 f4_01", val="f2_02 f3_01", test="f1_03 f5_01 f5_02"))
    problem = only(found, "leak-sequence")
    assert problem.what == (
        "2 scenes seem to have images in train and in val or test, by their names: "
        "1 of 2 val images and 1 of 3 test images"
    )
    assert problem.files == ("f1: 2 train, 1 test", "f2: 1 train, 1 val")
    assert 'by = "scene"' in problem.remedy
    assert "scene_pattern" in problem.remedy


def test_val_and_test_of_one_flight_are_no_leak_from_train() -> None:
    assert not leaks(images(train="f1_01", val="f2_01", test="f2_02")).problems


def test_with_a_pattern_it_is_no_suspicion() -> None:
    problem = only(leaks(images(train="f1_01", val="f2_01", test="f1_02"), scene_pattern=r"(f\d)_"), "leak-sequence")
    assert problem.what.startswith("1 scene has images in train and in val or test, by data.scene_pattern: 1 of 1 test")
    assert "separate photos" not in problem.remedy


def test_a_pattern_may_say_that_every_image_stands_alone() -> None:
    assert not leaks(images(train="f1_01", val="f2_01", test="f1_02"), scene_pattern=".+").problems


def test_images_that_the_pattern_does_not_match_are_named() -> None:
    found = leaks(images(train="f1_01 odd", val="f2_01", test="f3_02"), scene_pattern=r"(f\d)_")
    assert only(found, "scene-pattern").files == ("images/train/odd.jpg",)


def test_frames_that_were_drawn_one_by_one_leak_and_whole_scenes_do_not() -> None:
    torn = images(train="f1_01 f2_01", val="f1_02", test="f2_02")
    assert 'by = "scene" in data.split' in only(leaks(torn, split={"by": "image"}), "leak-sequence").remedy
    assert not leaks(torn, split={"by": "scene"}).problems


def test_time_stamps_dealt_out_among_the_splits_are_one_sequence() -> None:
    stamps = [f"{1658137057 + i // 5}.{i % 5 * 2}00000000" for i in range(60)]
    found = leaks(images(train=" ".join(stamps[2::3]), val=" ".join(stamps[::3]), test=" ".join(stamps[1::3])))
    assert "20 of 20 val images and 20 of 20 test images" in only(found, "leak-sequence").what


def test_the_aerial_tiles_are_reported(tiles: Tiles) -> None:
    data = tiles()
    found = find_leaks(data, data.root, hashes(data, data.root))
    problem = only(found, "leak-sequence")
    assert problem.what.startswith("8 scenes seem to have images in train and in val or test, by their names")
    assert "8 of 8 val images and 16 of 16 test images" in problem.what
    assert problem.files[0] == "tile1_part: 6 train, 1 val, 2 test"
    assert found.identical == {"val": 0, "test": 0}


@pytest.mark.parametrize("counts", [(12, 3, 4), (2, 1, 1), (1, 1, 1), (40, 5, 9)])
def test_the_synthetic_scenes_are_not_reported(tmp_path: Path, counts: tuple[int, int, int]) -> None:
    root = write_scenes(tmp_path / "s", counts=dict(zip(SPLITS, counts, strict=True)), size=(64, 64), seed=0)
    assert find_leaks(config(), root, hashes(config(), root)) == Leaks(identical={"val": 0, "test": 0})
