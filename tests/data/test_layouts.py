"""How folders are laid out, by the names of their files alone: each layout of the field, and what is none."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from segwatch.data.layouts import find_layout, words_of
from segwatch.errors import ConfigError


def pairs(images: str, masks: str, *, image: str = ".jpg", mask: str = ".png", count: int = 3) -> list[str]:
    return [name for n in range(count) for name in (f"{images}/t{n}{image}", f"{masks}/t{n}{mask}")]


def folder(root: Path, files: list[str]) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


SCENES = ("AMtown01", "HKisland")
WHOLE = {
    "images and masks": (pairs("images", "masks"), "images and masks", 3),
    "imgs and masks with a suffix": (pairs("imgs", "masks", mask="_mask.png"), "imgs and masks", 3),
    "one directory": (pairs("data", "data", mask="_mask.png"), "data (images and masks)", 3),
    "right here": (pairs(".", ".", mask="_mask.png"), ". (images and masks)", 3),
    "VOC": (pairs("JPEGImages", "SegmentationClass"), "JPEGImages and SegmentationClass", 3),
    "train and train_masks": (pairs("train", "train_masks", mask="_mask.png"), "train and train_masks", 3),
    "scenes below": ([f for s in SCENES for f in pairs(f"images/{s}", f"masks/{s}")], "images and masks", 6),
    "scenes above": ([f for s in SCENES for f in pairs(f"{s}/images", f"{s}/masks")], "*/images and */masks", 6),
    "cameras": (
        [f for s in SCENES for f in pairs(f"{s}_CAM", f"{s}_CAM_label_id")],
        "*_CAM and *_CAM_label_id",
        6,
    ),
    "UAVScenes, with pictures of its masks": (
        [
            f
            for s in SCENES
            for kind in ("color", "id")
            for f in pairs(f"i5_CAM_LIDAR/{s}/i5_CAM", f"i5_CAM_label/{s}/i5_CAM_label_{kind}")
        ],
        "i5_CAM_LIDAR/*/i5_CAM and i5_CAM_label/*/i5_CAM_label_id",
        6,
    ),
}
SPLIT = {
    "splits inside": (("images/{}", "masks/{}"), ("train", "val", "test")),
    "splits outside": (("{}/images", "{}/labels"), ("training", "valid", "testing")),
    "splits in the name": (("{}_images", "{}_masks"), ("train", "val", "test")),
    "nested": (("set/{}/img", "set/{}/gt"), ("train", "val", "test")),
}


@pytest.mark.parametrize(("files", "said", "total"), WHOLE.values(), ids=WHOLE)
def test_a_folder_without_splits(tmp_path, files, said, total):
    layout = find_layout(folder(tmp_path, files))
    assert layout.in_words == said
    assert dict(layout.pairs) == {"all": total}
    assert not layout.splits


@pytest.mark.parametrize(("shape", "names"), SPLIT.values(), ids=SPLIT)
def test_a_folder_with_its_own_splits(tmp_path, shape, names):
    files = [file for name in names for file in pairs(shape[0].format(name), shape[1].format(name))]
    layout = find_layout(folder(tmp_path, files))
    assert layout.everything is None
    assert {split: tuple(map(str, places)) for split, places in layout.splits.items()} == {
        split: (shape[0].format(name), shape[1].format(name))
        for split, name in zip(("train", "val", "test"), names, strict=True)
    }


def test_a_suffix_of_its_own_is_found_out(tmp_path):
    assert find_layout(folder(tmp_path, pairs("a", "a", mask="_GT.png"))).mask_suffixes[-1] == "_GT"
    assert find_layout(folder(tmp_path / "b", pairs("img", "gt", mask="_lab.png"))).mask_suffixes[-1] == "_lab"
    assert find_layout(folder(tmp_path / "c", pairs("img", "gt", mask="_label.png"))).mask_suffixes == ()


def test_of_two_suffixes_as_frequent_the_first_by_name_is_taken(tmp_path):
    files = [f"images/{n}.jpg" for n in "abcdef"] + [f"masks/{n}_{'left' if n < 'd' else 'near'}.png" for n in "fedcba"]
    assert find_layout(folder(tmp_path, files)).mask_suffixes[-1] == "_left"


def numbered(images: str, masks: str) -> list[str]:
    """Twelve of each: some numbers are the beginning of another."""
    return [name.format(n) for n in range(12) for name in (f"images/{images}.jpg", f"masks/{masks}.png")]


@pytest.mark.parametrize("suffixless", ["img_{}", "{}", "tile {}"])
def test_an_image_is_no_mask_of_another_for_having_a_longer_number(tmp_path, suffixless):
    files = [name for name in numbered(suffixless, "x") if name.startswith("images")]
    with pytest.raises(ConfigError, match="nothing that looks like masks"):
        find_layout(folder(tmp_path, files))


def test_a_suffix_of_a_few_pictures_pairs_no_directory_with_itself(tmp_path):
    files = [f"images/{name}.jpg" for name in ("a", "a_old", "b", "c", "d", "e", "f")]
    with pytest.raises(ConfigError, match="nothing that looks like masks"):
        find_layout(folder(tmp_path, files))


@pytest.mark.parametrize(("images", "masks"), [("img_{}", "mask_{}"), ("{}", "mask {}"), ("tile{:03d}", "it's{:03d}")])
def test_names_that_begin_differently_are_answered_with_the_command_that_renames_them(tmp_path, images, masks):
    folder(tmp_path, numbered(images, masks))
    with pytest.raises(ConfigError) as raised:
        find_layout(tmp_path)
    assert raised.value.remedy is not None
    command = raised.value.remedy.partition("rename them: ")[2]
    subprocess.run(["sh", "-c", command], check=True)
    assert find_layout(tmp_path).total == 12


def test_the_plainest_of_several_directories_of_masks_is_taken_and_the_others_are_named(tmp_path):
    files = pairs("images", "masks") + pairs("images", "masks_id") + pairs("images", "masks_color")
    layout = find_layout(folder(tmp_path, files))
    assert layout.everything == (Path("images"), Path("masks"))
    assert layout.other_masks == (Path("masks_color"), Path("masks_id"))


def test_a_split_without_masks_is_left_out_and_named(tmp_path):
    files = [*pairs("train/images", "train/masks"), *pairs("val/images", "val/masks"), "test/images/t.jpg"]
    layout = find_layout(folder(tmp_path, files))
    assert list(layout.splits) == ["train", "val"]
    assert layout.without_masks == ("test",)


def test_what_a_run_left_behind_is_no_data(tmp_path):
    files = pairs("images", "masks") + pairs("runs/one/images", "runs/one/masks", count=9)
    files += ["kept/images/x.jpg", "kept/masks/x.png", "kept/run.lock.toml", "audit.png", ".cache/images/t0.jpg"]
    assert dict(find_layout(folder(tmp_path, files)).pairs) == {"all": 3}


NONSENSE = {
    "nothing": ([], "no image here or below"),
    "other files": (["notes.txt", "a/b.csv"], "no image here or below"),
    "no masks": (["a.jpg", "b.jpg"], "nothing that looks like masks"),
    "no images": (["masks/a.png"], "masks, and no images"),
    "names of two kinds": (["images/img_1.jpg", "masks/mask_1.png"], "do not belong together"),
    "a suffix on both": (pairs("train", "train", image="_sat.jpg", mask="_mask.png"), "do not belong together"),
}


@pytest.mark.parametrize(("files", "said"), NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_answered_with_what_was_found(tmp_path, files, said):
    with pytest.raises(ConfigError) as caught:
        find_layout(folder(tmp_path, files))
    assert said in caught.value.what
    assert caught.value.remedy
    assert all(Path(name).name in caught.value.what for name in files[:1] if name.endswith(("jpg", "png")))


def test_words_are_told_apart_as_people_write_them():
    assert words_of("JPEGImages") == ["jpeg", "images"]
    assert words_of("interval5_CAM_label_id") == ["interval", "5", "cam", "label", "id"]
    assert words_of("train-masks2") == ["train", "masks", "2"]
