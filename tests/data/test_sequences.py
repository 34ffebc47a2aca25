"""Which images were taken together, by their names."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from segwatch.data.config import SPLITS, DataConfig
from segwatch.data.sequences import Rule, Scene, scenes_of

ROOT = Path("/data")


def config(**settings: Any) -> DataConfig:
    tables = {name: {"images": f"images/{name}", "masks": f"masks/{name}"} for name in SPLITS}
    if "split" in settings:
        tables = {}
    return DataConfig.model_validate({"classes": "classes.toml", **tables, **settings})


def scenes(*paths: str, **settings: Any) -> dict[str, str]:
    settings = {"images": "images", "masks": "masks", "split": {}, **settings}
    return {path: scene.name for path, scene in scenes_of(config(**settings), ROOT, {"all": paths}).items()}


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("tile1_part003", "tile1_part"),
        ("frame_0001", "frame"),
        ("DJI_20230401_0007", "DJI_20230401"),
        ("flight-2023-04-01_12-30-05", "flight"),
        ("cam0_1658137057.641204937", "cam0"),
        ("aachen_000000_000019", "aachen_000000"),
        ("harbour", "harbour"),
        ("12_0034", "12"),
    ],
)
def test_a_name_without_its_counter_names_the_scene(stem: str, name: str) -> None:
    assert scenes(f"images/{stem}.jpg") == {f"images/{stem}.jpg": name}


def test_what_all_names_end_on_is_no_part_of_the_name() -> None:
    found = scenes("images/aachen_000000_000019_leftImg8bit.png", "images/bonn_000001_000019_leftImg8bit.png")
    assert list(found.values()) == ["aachen_000000", "bonn_000001"]


def test_a_directory_below_the_images_names_the_scene() -> None:
    assert scenes("images/north/1.jpg", "images/south/roof/1.jpg", "images/tile_1.jpg") == {
        "images/north/1.jpg": "north",
        "images/south/roof/1.jpg": "south/roof",
        "images/tile_1.jpg": "tile",
    }


def test_a_directory_of_all_images_says_nothing_nor_does_one_called_after_a_split() -> None:
    assert set(scenes("images/rgb/a_1.jpg", "images/rgb/b_1.jpg").values()) == {"a", "b"}
    assert set(scenes("images/train/a_1.jpg", "images/Valid/a_2.jpg", "images/test/b_1.jpg").values()) == {"a", "b"}


def test_what_a_star_stands_for_names_the_scene() -> None:
    found = scenes("cam/AMtown01/left/1.5.jpg", "cam/AMtown02/left/1.5.jpg", images="cam/*/left")
    assert list(found.values()) == ["AMtown01", "AMtown02"]


def test_the_directories_of_splits_are_not_taken_for_scenes_even_outside_the_root() -> None:
    tables = {name: {"images": f"/elsewhere/{name}/i", "masks": "m"} for name in SPLITS}
    images = {name: [f"../elsewhere/{name}/i/{name}/s{i}/{i}.jpg" for i in range(2)] for name in SPLITS}
    found = scenes_of(config(**tables), ROOT, images)
    assert {scene.name for scene in found.values()} == {"s0", "s1"}


@pytest.mark.parametrize(
    ("pattern", "name"), [(r"flight(\d+)", "07"), (r"flight\d+", "flight07"), (r"(?:day)(\w)/", "b"), (".+", None)]
)
def test_the_first_group_of_the_pattern_names_the_scene_or_the_whole_match(pattern: str, name: str | None) -> None:
    path = "images/dayb/flight07_0001.jpg"
    assert scenes(path, scene_pattern=pattern) == {path: name or path}


def test_what_the_pattern_does_not_match_has_no_scene() -> None:
    found = scenes("images/a1.jpg", "images/b.jpg", "images/c.jpg", scene_pattern=r"a(\d)|(c)")
    assert found == {"images/a1.jpg": "1"}


# --- time stamps ---------------------------------------------------------------------------------------------------


def stamped(*times: float) -> list[str]:
    return [f"images/{1658137000 + Decimal(str(time)):.9f}.jpg" for time in times]


def test_time_stamps_form_runs_between_gaps_of_more_than_ten_steps() -> None:
    first, second = stamped(0, 0.2, 0.4, 2.3), stamped(4.5, 4.7, 4.9)
    found = scenes(*first, *second)
    assert len({found[path] for path in first}) == 1  # 1.9 s are not more than ten steps of 0.2 s
    assert len({found[path] for path in second}) == 1
    assert len(set(found.values())) == 2
    assert found[first[0]] == "1658137000.000000000 to 1658137002.300000000"


def test_dates_are_times_and_a_new_minute_is_no_gap() -> None:
    paths = [f"images/2023-04-01_12-{minute}-{second:02d}.jpg" for minute, second in ((30, 58), (30, 59), (31, 0))]
    assert len(set(scenes(*paths).values())) == 1
    assert len(set(scenes(*paths, "images/2023-04-01_12-40-00.jpg").values())) == 2


def test_a_long_number_that_is_no_date_is_a_number() -> None:
    assert len(set(scenes("images/20239901123005.jpg", "images/20239901123006.jpg").values())) == 1


def test_numbers_alone_count_as_times() -> None:
    found = scenes(*(f"images/{i:04d}.jpg" for i in (*range(20), *range(500, 520))))
    assert set(found.values()) == {"0000 to 0019", "0500 to 0519"}


def test_the_usual_step_is_that_within_the_splits() -> None:
    """Three short splits, far apart: the steps between them are most of all steps, and yet gaps."""
    images = {"train": stamped(0, 0.2), "val": stamped(100), "test": stamped(200)}
    assert len(set(scenes_of(config(), ROOT, images).values())) == 3
    alone = {"train": stamped(0), "val": stamped(100), "test": stamped(200)}
    assert len(set(scenes_of(config(), ROOT, alone).values())) == 3


def test_frames_that_were_dealt_out_are_one_run() -> None:
    times = stamped(*(0.2 * i for i in range(100)))
    images = {"train": [t for i, t in enumerate(times) if i % 10 > 1], "val": times[::10], "test": times[1::10]}
    assert len(set(scenes_of(config(), ROOT, images).values())) == 1


def test_the_rule_is_known_for_each_scene() -> None:
    found = scenes_of(config(), ROOT, {"train": ["images/train/s/1.jpg", "images/train/a_1.jpg", "images/train/7.jpg"]})
    assert set(found.values()) == {Scene("s", Rule.DIRECTORY), Scene("a", Rule.NAME), Scene("7", Rule.TIMES)}


def test_no_images_have_no_scenes_and_an_empty_name_stands_alone() -> None:
    assert scenes() == {}
    assert scenes("images/_.jpg", "images/-.jpg") == {"images/_.jpg": "_", "images/-.jpg": "-"}
