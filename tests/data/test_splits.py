"""Directories, lists and draws: which files each split gets, and why one cannot be had."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segwatch.data.config import SPLITS, DataConfig, FractionsConfig
from segwatch.data.splits import Listings, draw, listings
from segwatch.errors import ConfigError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def pairs(root: Path, *stems: str) -> None:
    """An image and a mask of each name below `images` and `masks`."""
    touch(root, *(f"images/{stem}.jpg" for stem in stems), *(f"masks/{stem}.png" for stem in stems))


def config(**settings: Any) -> DataConfig:
    return DataConfig.model_validate({"classes": "classes.toml", **settings})


def stems(found: Listings, root: Path) -> dict[str, list[str]]:
    return {
        name: [image.relative_to(root / "images").with_suffix("").as_posix() for image, _ in listing.pairs]
        for name, listing in found.splits.items()
    }


# --- directories ---------------------------------------------------------------------------------------------------


def test_each_split_has_directories_of_its_own_and_one_that_fails_does_not_hide_the_others(tmp_path: Path) -> None:
    pairs(tmp_path, "train/a", "val/b")
    tables = {name: {"images": f"images/{name}", "masks": f"masks/{name}"} for name in SPLITS}
    found = listings(config(**tables), tmp_path)
    assert stems(found, tmp_path) == {"train": ["train/a"], "val": ["val/b"], "test": []}
    assert list(found.unlisted) == ["test"]
    assert "images/test: cannot list the images" in str(found.unlisted["test"])


def test_a_split_inside_the_directory_of_another_is_not_part_of_it(tmp_path: Path) -> None:
    pairs(tmp_path, "a", "val/b", "test/c")
    tables = {name: {"images": f"images/{sub}", "masks": f"masks/{sub}"} for name, sub in
              (("train", "."), ("val", "val"), ("test", "test"))}  # fmt: skip
    found = listings(config(**tables), tmp_path)
    assert stems(found, tmp_path) == {"train": ["a"], "val": ["val/b"], "test": ["test/c"]}


def test_masks_may_be_common_to_all_splits(tmp_path: Path) -> None:
    touch(tmp_path, *(f"images/{name}/{name}.jpg" for name in SPLITS), *(f"masks/{name}.png" for name in SPLITS))
    tables = {name: {"images": f"images/{name}"} for name in SPLITS}
    found = listings(config(masks="masks", **tables), tmp_path)
    assert stems(found, tmp_path) == {name: [f"{name}/{name}"] for name in SPLITS}
    assert len(found.splits["train"].masks_alone) == 2


def test_the_configured_suffixes_reach_the_pairing(tmp_path: Path) -> None:
    touch(tmp_path, *(f"images/{name}/a.jpg" for name in SPLITS), *(f"masks/{name}/a_gt.png" for name in SPLITS))
    tables = {name: {"images": f"images/{name}", "masks": f"masks/{name}"} for name in SPLITS}
    assert not any(listing.pairs for listing in listings(config(**tables), tmp_path).splits.values())
    found = listings(config(mask_suffixes=["_gt"], **tables), tmp_path)
    assert all(len(listing.pairs) == 1 for listing in found.splits.values())


# --- lists ---------------------------------------------------------------------------------------------------------


class Lists:
    """Ten pairs and three lists that a test rewrites."""

    def __init__(self, root: Path) -> None:
        self.root = root
        pairs(root, *(f"{i}.5" for i in range(8)), "north/n", "two words")
        self.write(train="0.5\n1.5\n", val="2.5\n", test="3.5\n")

    def write(self, **texts: str) -> None:
        for name, text in texts.items():
            (self.root / f"{name}.txt").write_text(text, encoding="utf-8")

    def found(self, **settings: Any) -> Listings:
        tables = {name: {"list": f"{name}.txt"} for name in SPLITS}
        return listings(config(**{"images": "images", "masks": "masks", **tables, **settings}), self.root)

    def stems(self, name: str = "train") -> list[str]:
        found = self.found()
        assert not found.unlisted
        return stems(found, self.root)[name]

    def refusal(self, name: str = "train") -> str:
        error = self.found().unlisted[name]
        assert str(self.root / f"{name}.txt") in str(error)
        assert error.remedy
        return str(error)


@pytest.fixture
def lists(tmp_path: Path) -> Lists:
    return Lists(tmp_path)


@pytest.mark.parametrize(
    "line",
    ["north/n", "north/n.jpg", "n", "n.jpg", "images/north/n.jpg", "./north/n.jpg", "  n \r", "n  # the northern one"],
)
def test_an_image_is_found_by_stem_file_name_or_path(lists: Lists, line: str) -> None:
    lists.write(train=line + "\n")
    assert lists.stems() == ["north/n"]


@pytest.mark.parametrize(
    "line",
    [
        "{root}/images/north/n.jpg",
        "images//north/n.jpg",
        "images/south/../north/n.jpg",
        "../{name}/images/north/n.jpg",
        r"images\north\n.jpg",
        r"north\n.jpg",
        "/images/north/n.jpg",
        "../images/north/n.jpg  # from the list",
        "linked/n.jpg",
    ],
)
def test_an_image_is_found_by_any_path_that_leads_to_it(lists: Lists, line: str) -> None:
    (lists.root / "linked").symlink_to(lists.root / "images/north")
    (lists.root / "lists").mkdir()
    text = line.format(root=lists.root, name=lists.root.name)
    (lists.root / "lists/train.txt").write_text(f"{text}\n")
    found = lists.found(train={"list": "lists/train.txt"})
    assert not found.unlisted
    assert stems(found, lists.root)["train"] == ["north/n"]


@pytest.mark.parametrize("apart", [" ", "\t"])
def test_two_columns_may_be_paths_in_full_or_begin_with_a_slash(lists: Lists, apart: str) -> None:
    lists.write(
        train=f"{lists.root}/images/0.5.jpg{apart}{lists.root}/masks/0.5.png\n/images/1.5.jpg{apart}/masks/1.5.png\n"
        f"images\\4.5.jpg{apart}masks\\4.5.png\n"
    )
    assert [(image.name, mask.name) for image, mask in lists.found().splits["train"].pairs] == [
        ("0.5.jpg", "0.5.png"),
        ("1.5.jpg", "1.5.png"),
        ("4.5.jpg", "4.5.png"),
    ]
    lists.write(val=f"{lists.root}/./images/1.5.jpg{apart}masks/1.5.png\n")
    assert "is in train.txt as well, on line 2" in lists.refusal("val")


def test_a_line_that_leads_elsewhere_or_has_a_comma_is_told_so(lists: Lists) -> None:
    touch(lists.root, "elsewhere/x.jpg")
    lists.write(train=f"elsewhere/x.jpg\n{lists.root}/elsewhere/x.jpg\nimages/0.5.jpg,masks/0.5.png\n")
    message = lists.refusal()
    assert "line 1: 'elsewhere/x.jpg': it exists, but outside data.images" in message
    assert "elsewhere/x.jpg': it exists, but outside data.images" in message.partition("line 2")[2]
    assert "line 3: 'images/0.5.jpg,masks/0.5.png': image and mask are parted by a blank or a tab" in message
    found = lists.found(images=None, masks=None).unlisted["train"].what
    assert "line 1: 'elsewhere/x.jpg': no image of this name" in found, "without data.images a line names both"


def test_blank_lines_and_comments_are_skipped_and_blanks_in_names_are_not(lists: Lists) -> None:
    lists.write(train="\ufeff# first flight\n\n  \n4.5\ntwo words\n  # 5.5\n")
    assert lists.stems() == ["4.5", "two words"]


def test_what_no_list_names_is_no_orphan(lists: Lists) -> None:
    touch(lists.root, "images/alone.jpg", "masks/lost.png", "images/7.5.png")
    found = lists.found()
    for listing in found.splits.values():
        assert not listing.images_alone + listing.masks_alone + listing.ambiguous
    lists.write(train="alone\n7.5\n")
    listing = lists.found().splits["train"]
    assert [path.name for path in listing.images_alone] == ["alone.jpg"]
    assert [path.name for path in listing.ambiguous] == ["7.5.jpg", "7.5.png"]


def test_a_line_may_name_image_and_mask_wherever_they_are(lists: Lists) -> None:
    touch(lists.root, "else where/a b.jpg", "else where/a b truth.png", "x/1.jpg", "x/1.tif")
    lists.write(train="else where/a b.jpg else where/a b truth.png\nx/1.jpg\tx/1.tif\n4.5\n")
    found = lists.found().splits["train"].pairs
    assert sorted((image.name, mask.name) for image, mask in found) == [
        ("1.jpg", "1.tif"),
        ("4.5.jpg", "4.5.png"),
        ("a b.jpg", "a b truth.png"),
    ]


def test_lists_of_both_files_need_no_directories(lists: Lists) -> None:
    lists.write(**{name: f"images/{i}.5.jpg masks/{i}.5.png\n" for i, name in enumerate(SPLITS)})
    found = lists.found(images=None, masks=None)
    assert not found.unlisted
    assert stems(found, lists.root) == {"train": ["0.5"], "val": ["1.5"], "test": ["2.5"]}


def test_every_wrong_line_is_told_at_once_with_its_number(lists: Lists) -> None:
    touch(lists.root, "images/south/n.jpg", "masks/south/n.png")
    lists.write(
        train="0.5\n# x\nnone\nn\n0.5.jpg\nimages/1.5.jpg masks/none.png\nwhat is this\n",
        val="2.5\n0.5\n",
    )
    message = lists.refusal()
    for expected in (
        "5 lines are wrong",
        "line 3: 'none': no image of this name",
        "line 4: 'n': several images have this name: north/n, south/n",
        "line 5: '0.5.jpg' is named on line 1 already",
        "line 6: 'images/1.5.jpg masks/none.png': masks/none.png is not there",
        "line 7: 'what is this': neither an image nor an image and a mask",
    ):
        assert expected in message
    assert "1 line is wrong:\n  line 2: '0.5' is in train.txt as well, on line 1" in lists.refusal("val")


def test_an_image_in_two_lists_is_found_out_under_any_name(lists: Lists) -> None:
    lists.write(test="images/1.5.jpg masks/1.5.png\n")
    assert "is in train.txt as well, on line 2" in lists.refusal("test")


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "names no image"), (b"# 0.5\n", "names no image"), (b"\xff\xfe0", "no UTF-8")]
)
def test_a_list_that_names_nothing_is_refused(lists: Lists, content: bytes, said: str) -> None:
    (lists.root / "train.txt").write_bytes(content)
    assert said in lists.refusal()


def test_a_wrong_line_hides_nothing_about_the_files_of_the_others(lists: Lists) -> None:
    lists.write(train="0.5\nnone\n", val="0.5\n2.5\n")
    found = lists.found()
    assert set(found.unlisted) == {"train", "val"}
    assert stems(found, lists.root) == {"train": ["0.5"], "val": ["2.5"], "test": ["3.5"]}


def test_a_name_that_stands_there_twice_is_no_name_that_means_nothing(lists: Lists) -> None:
    lists.write(train="0.5\n", val="2.5\n0.5\n2.5.jpg\n")
    assert lists.found().unlisted["val"].remedy == "name each image once, in one list"


def test_a_list_that_is_missing_is_refused_and_the_others_are_read(lists: Lists) -> None:
    (lists.root / "val.txt").unlink()
    assert "cannot read the list" in lists.refusal("val")
    assert list(lists.found().unlisted) == ["val"]


def test_a_hundred_wrong_lines_are_counted_and_not_all_printed(lists: Lists) -> None:
    lists.write(train="".join(f"none{i}\n" for i in range(100)))
    message = lists.refusal()
    assert "100 lines are wrong" in message
    assert "and 80 more" in message


# --- draws ---------------------------------------------------------------------------------------------------------


def drawn(root: Path, split: dict[str, Any], **settings: Any) -> Listings:
    return listings(config(images="images", masks="masks", split=split, **settings), root)


def test_whole_scenes_are_drawn_and_every_pair_is_in_one_split(tmp_path: Path) -> None:
    pairs(tmp_path, *(f"flight{scene}_{frame:03d}" for scene in range(10) for frame in range(10)))
    found = drawn(tmp_path, {"val": 0.1, "test": 0.2})
    got = stems(found, tmp_path)
    scenes = {name: {stem.split("_")[0] for stem in found_stems} for name, found_stems in got.items()}
    assert sum(map(len, scenes.values())) == 10
    assert {name: len(found_stems) for name, found_stems in got.items()} == {"train": 70, "val": 10, "test": 20}
    assert found.shares["test"].model_dump() == {"asked": 0.2, "got": 0.2, "images": 20, "scenes": 2}


def test_images_may_be_drawn_one_by_one(tmp_path: Path) -> None:
    pairs(tmp_path, *(f"frame_{frame:03d}" for frame in range(50)))
    found = drawn(tmp_path, {"val": 0.1, "test": 0.2, "by": "image"})
    assert {name: len(listing.pairs) for name, listing in found.splits.items()} == {"train": 35, "val": 5, "test": 10}
    assert found.shares["val"].scenes is None
    test = [int(stem[-3:]) for stem in stems(found, tmp_path)["test"]]
    assert max(test) - min(test) > 10  # drawn, and no block


def test_the_pattern_names_the_scenes(tmp_path: Path) -> None:
    pairs(tmp_path, *(f"2024-0{month}-0{day}/x{month}{day}" for month in (1, 2, 3, 4) for day in (1, 2)))
    found = drawn(tmp_path, {"val": 0.25, "test": 0.25}, scene_pattern=r"2024-(\d\d)")
    for got in stems(found, tmp_path).values():
        assert len(got) % 2 == 0
    assert {name: share.scenes for name, share in found.shares.items()} == {"train": 2, "val": 1, "test": 1}


def test_images_that_the_pattern_does_not_match_are_named_and_nothing_is_drawn(tmp_path: Path) -> None:
    pairs(tmp_path, "a1", "a2", "a3", "b")
    found = drawn(tmp_path, {}, scene_pattern=r"a(\d)")
    assert set(found.unlisted) == set(SPLITS)
    error = found.unlisted["train"]
    assert all(other is error for other in found.unlisted.values())
    assert "1 of 4 images: images/b.jpg" in error.what


def test_too_few_scenes_are_named_with_two_ways_out(tmp_path: Path) -> None:
    pairs(tmp_path, *(f"flight{scene}_{frame}" for scene in "ab" for frame in range(10)))
    error = drawn(tmp_path, {}).unlisted["val"]
    assert "2 scenes cannot make 3 splits: 'flighta', 'flightb' (20 images)" in error.what
    assert 'by = "image"' in (error.remedy or "")
    assert "scene_pattern" in (error.remedy or "")
    two = drawn(tmp_path / "few", {"by": "image"})
    assert "cannot list the images" in two.unlisted["train"].what
    pairs(tmp_path / "few", "a", "b")
    assert "2 images with masks cannot make 3 splits" in drawn(tmp_path / "few", {"by": "image"}).unlisted["train"].what


def test_files_without_a_partner_are_listed_and_never_drawn(tmp_path: Path) -> None:
    pairs(tmp_path, *(f"f{i}_1" for i in range(8)), "twice")
    touch(tmp_path, "images/alone.jpg", "masks/lost.png", "images/twice.png")
    found = drawn(tmp_path, {"val": 0.2, "test": 0.2})
    assert sum(len(listing.pairs) for listing in found.splits.values()) == 8
    train = found.splits["train"]
    assert [len(train.images_alone), len(train.masks_alone), len(train.ambiguous)] == [1, 1, 2]


def test_a_draw_depends_on_names_and_seed_alone() -> None:
    units = {f"s{i}": [str(j) for j in range(i % 4 + 1)] for i in range(30)}
    shuffled = list(units.items())
    random.Random(7).shuffle(shuffled)
    split = FractionsConfig(val=0.2, test=0.2)
    assert draw(dict(shuffled), split) == draw(units, split)
    others = [draw(units, FractionsConfig(val=0.2, test=0.2, seed=seed)) for seed in range(1, 4)]
    assert all(other != draw(units, split) for other in others)


@pytest.mark.parametrize("sizes", [(5, 6, 7, 8, 9, 10), (280, 350, 420, 450, 500, 560, 640, 700), (1, 10, 10, 10)])
def test_the_seed_matters_where_scenes_are_larger_than_their_share(sizes: tuple[int, ...]) -> None:
    """Else the smallest scenes are the test set whatever the seed, and a biased one."""
    units = {str(number): [""] * size for number, size in enumerate(sizes)}
    draws = [draw(units, FractionsConfig(val=0.1, test=0.1, seed=seed)) for seed in range(60)]
    most = 2 * 0.1 * sum(sizes)
    possible = {unit for unit, images in units.items() if len(images) <= most}
    assert {unit for drawn in draws for unit in drawn["test"]} >= possible
    assert len(possible) > 1 or len({str(drawn["val"]) for drawn in draws}) > 1


def test_a_draw_stays_the_same_from_release_to_release() -> None:
    units = {name: [name] * size for name, size in (("a", 3), ("b", 5), ("c", 2), ("d", 4), ("e", 1), ("f", 5))}
    assert draw(units, FractionsConfig(val=0.2, test=0.3)) == {
        "train": ["b", "c", "d"],
        "val": ["a"],
        "test": ["e", "f"],
    }


@given(
    st.lists(st.integers(1, 40), min_size=3, max_size=40),
    st.sampled_from([0.05, 0.1, 0.2, 0.4]),
    st.sampled_from([0.05, 0.1, 0.2, 0.4]),
    st.integers(0, 5),
)
def test_every_split_gets_a_scene_and_none_is_off_by_more_than_one_scene(
    sizes: list[int], val: float, test: float, seed: int
) -> None:
    units = {str(number): [""] * size for number, size in enumerate(sizes)}
    got = draw(units, FractionsConfig(val=val, test=test, seed=seed))
    assert sorted(unit for taken in got.values() for unit in taken) == sorted(units)
    assert all(got.values())
    for name, share in (("val", val), ("test", test)):
        images = sum(sizes[int(unit)] for unit in got[name])
        assert abs(images - share * sum(sizes)) <= max(sizes)


@pytest.mark.parametrize(("val", "test"), [(0.05, 0.9), (0.9, 0.05), (0.45, 0.5)])
def test_large_shares_leave_something_to_the_other_splits(val: float, test: float) -> None:
    for sizes in ([1, 1, 10], [1, 1, 1], [5, 1, 1, 1]):
        units = {str(number): [""] * size for number, size in enumerate(sizes)}
        assert all(draw(units, FractionsConfig(val=val, test=test)).values())


def test_too_few_units_are_a_mistake_of_the_configuration() -> None:
    with pytest.raises(ConfigError):
        draw({"a": ["x"], "b": ["y"]}, FractionsConfig())
