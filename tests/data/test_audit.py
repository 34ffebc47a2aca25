"""The audit: what the masks hold, what is wrong with them, and what a run uses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from segwatch.data.audit import AuditReport, audit, require
from segwatch.data.cache import open_cache
from segwatch.data.colours import as_percent
from segwatch.data.config import SPLITS
from segwatch.data.resolved import Reading

from .conftest import refusal, shown, warned

PRESENT = [0, 1, 2, 3, 5, 6, 13, 14, 15, 16, 17, 19, 20, 24, 25]
NAMED_AND_PRESENT = (0, 1, 2, 3, 5, 6, 13, 14, 15, 16, 17, 19, 20, 24)


# --- which classes


def test_the_26_uavscenes_ids_with_15_present_resolve_to_the_14_named_and_present(dataset, shared: Path) -> None:
    shutil.copy(shared / "oracles" / "uavscenes_classes.toml", dataset.root / "classes.toml")
    report = audit(dataset.splits(PRESENT).config(), dataset.root)
    assert require(report).class_ids == NAMED_AND_PRESENT
    assert report.unnamed_present == (25,)
    assert report.named_absent == (4, 9, 10, 11, 18)
    assert not report.unknown_ids
    assert "use = [0, 1, 2, 3, 5, 6, 13, 14, 15, 16, 17, 19, 20, 24]" in shown(report)


def test_ids_outside_the_list_become_255_and_never_class_0(dataset) -> None:
    resolved = require(audit(dataset.splits([0, 1, 2, 9, 255]).config(use=[1, 0]), dataset.root))
    assert resolved.class_ids == (0, 1)
    expected = np.full(65536, 255)
    expected[:2] = [0, 1]
    np.testing.assert_array_equal(resolved.lookup, expected)


def test_ids_that_the_table_does_not_know_are_told_with_shares_and_files(dataset) -> None:
    dataset.splits([0, 1, 9, 9])
    report = audit(dataset.config(), dataset.root)
    (unknown,) = report.unknown_ids
    assert (unknown.id, unknown.files) == (9, 3)
    assert unknown.share == {"train": 0.5, "val": 0.5, "test": 0.5}
    assert unknown.examples == ("masks/train/a.png", "masks/val/a.png", "masks/test/a.png")
    assert "class table does not have: [9]" in warned(report)
    assert report.ignored_share == {"train": 0.5, "val": 0.5, "test": 0.5}


def test_a_class_that_train_has_not_is_left_out_and_told(dataset) -> None:
    dataset.splits([0, 1])
    dataset.pair("test", "b", [3])
    report = audit(dataset.config(), dataset.root)
    assert require(report).class_ids == (0, 1)
    assert report.test_only == (3,)
    assert "3 bridge" in warned(report)
    assert "not in train" in shown(report)


def test_a_class_that_test_has_not_is_told(dataset) -> None:
    dataset.splits([0, 1])
    dataset.pair("train", "b", [3])
    assert "test has no pixel of 3 bridge" in warned(audit(dataset.config(), dataset.root))


def test_an_unnamed_id_may_be_listed_by_hand_and_gets_something_to_be_called_by(dataset) -> None:
    resolved = require(audit(dataset.splits([0, 1, 2]).config(use=[2, 0]), dataset.root))
    assert resolved.class_names == ("water", "class_2")


def test_every_impossible_choice_is_told_at_once_with_what_would_work(dataset) -> None:
    message = refusal(audit(dataset.splits([0, 1, 2]).config(use=[0, 0, 3, 7]), dataset.root))
    assert "lists id 0 2 times" in message
    assert "lists id 3 (bridge), which no training mask holds" in message
    assert "lists id 7, which the class table does not have" in message
    assert "these would work: [0, 1, 2]" in message
    assert str(dataset.root / "classes.toml") in message


def test_one_class_is_not_enough(dataset) -> None:
    message = refusal(audit(dataset.splits([0, 255]).config(mask_format="ids"), dataset.root))
    assert "no two classes to train, only [0]" in message


def test_black_and_white_masks_are_told_as_such(dataset) -> None:
    message = refusal(audit(dataset.splits([0, 255]).config(), dataset.root))
    assert "hold only 0 and 255" in message
    assert 'mask_format = "binary"' in message


def test_one_split_of_black_and_white_beside_ids_is_told_as_such(dataset) -> None:
    dataset.splits([0, 1])
    dataset.pair("val", "a", [0, 255])
    assert "the masks of val hold only 0 and 255" in refusal(audit(dataset.config(), dataset.root))


def test_a_split_without_any_used_pixel_stops_the_run(dataset) -> None:
    dataset.splits([0, 1])
    dataset.pair("val", "a", [9, 255])
    assert "no mask of val holds any of the used ids [0, 1]; it holds [9, 255]" in refusal(
        audit(dataset.config(), dataset.root)
    )


def test_rare_is_less_than_one_in_ten_thousand_training_pixels(dataset) -> None:
    ids = np.zeros((200, 200), dtype=np.uint8)
    ids[:100] = 1
    ids[0, :3] = 3
    dataset.splits([0, 1])
    dataset.image("train", "b", (200, 200))
    dataset.mask("train", "b", ids)
    report = audit(dataset.config(), dataset.root)
    assert report.rare == (3,)
    assert "0.0072 %" in shown(report)


# --- which files


def test_files_that_cannot_be_used_are_all_told_at_once(dataset) -> None:
    dataset.splits([0, 1])
    dataset.image("train", "no_mask")
    dataset.mask("train", "no_image", np.zeros((4, 4), dtype=np.uint8))
    dataset.pair("val", "sizes", [0, 1])
    dataset.image("val", "sizes", (48, 40))
    dataset.pair("test", "torn_mask", [0, 1])
    path = dataset.root / "masks/test/torn_mask.png"
    path.write_bytes(path.read_bytes()[:50])
    dataset.pair("test", "no_jpeg", [0, 1])
    (dataset.root / "images/test/no_jpeg.jpg").write_bytes(b"<html>")
    report = audit(dataset.config(), dataset.root)
    message = refusal(report)
    for expected in (
        "images/train/no_mask.jpg: no mask",
        "masks/train/no_image.png: no image",
        "images/val/sizes.jpg: 40x48, but its mask is 48x40",
        "masks/test/torn_mask.png: cannot be decoded",
        "images/test/no_jpeg.jpg: cannot be decoded",
    ):
        assert expected in message
    assert report.bad_files["test"] == {
        "cut short or unreadable": ("images/test/no_jpeg.jpg", "masks/test/torn_mask.png")
    }


def test_skipping_leaves_them_out_counts_them_and_says_so(dataset) -> None:
    dataset.splits([0, 1])
    dataset.image("train", "no_mask")
    dataset.pair("train", "sizes", [0, 1])
    dataset.image("train", "sizes", (48, 40))
    report = audit(dataset.config(on_bad_file="skip"), dataset.root)
    resolved = require(report)
    assert [pair.image for pair in resolved.splits["train"]] == ["images/train/a.jpg"]
    assert resolved.skipped == {"train": 2, "val": 0, "test": 0}
    assert "left out" in warned(report)
    assert report.pixels["train"] == 40 * 48


def test_a_split_of_which_nothing_is_left_stops_the_run(dataset) -> None:
    dataset.splits([0, 1])
    (dataset.root / "masks/val/a.png").write_bytes(b"")
    assert "no pair of val can be used" in refusal(audit(dataset.config(on_bad_file="skip"), dataset.root))


def test_a_missing_directory_and_a_missing_table_are_told_together(dataset) -> None:
    dataset.splits([0, 1])
    shutil.rmtree(dataset.root / "masks/test")
    (dataset.root / "classes.toml").unlink()
    message = refusal(audit(dataset.config(), dataset.root))
    assert "masks/test" in message
    assert "classes.toml" in message


def test_masks_of_two_kinds_are_refused_with_both_groups(dataset) -> None:
    dataset.splits([0, 1])
    dataset.mask("train", "a", Image.fromarray(np.resize(np.array([0, 1], dtype=np.uint8), (40, 48))).convert("RGB"))
    message = refusal(audit(dataset.config(), dataset.root))
    assert "2 8-bit grey, such as masks/val/a.png" in message
    assert "1 RGB, such as masks/train/a.png" in message


def test_jpeg_masks_are_refused_by_name_and_never_skipped(dataset) -> None:
    dataset.splits([0, 1])
    mask = dataset.root / "masks/train/a.png"
    with Image.open(mask) as image:
        image.load()
        image.save(mask, "JPEG")
    for config in (dataset.config(), dataset.config(on_bad_file="skip")):
        assert "masks/train/a.png: a JPEG mask: JPEG is lossy" in refusal(audit(config, dataset.root))


def test_16_bit_masks_hold_ids_above_255(dataset) -> None:
    dataset.table('[classes]\n0 = "field"\n300 = "pool"')
    for split in SPLITS:
        dataset.image(split, "a")
        wide = np.resize(np.array([0, 300, 255], dtype=np.uint16), (40, 48))
        dataset.mask(split, "a", Image.fromarray(wide))
    resolved = require(audit(dataset.config(), dataset.root))
    assert resolved.class_ids == (0, 300)
    assert resolved.classes[1].pixels["train"] == 640
    assert [int(resolved.lookup[value]) for value in (0, 300, 255, 44)] == [0, 1, 255, 255]


def test_arrays_serve_as_masks(dataset) -> None:
    dataset.splits([0, 1])
    (dataset.root / "masks/train/a.png").unlink()
    np.save(dataset.root / "masks/train/a.npy", np.resize(np.array([0, 1], dtype=np.int64), (40, 48)))
    report = audit(dataset.config(), dataset.root)
    assert "1 npy of numbers" in report.statement
    assert require(report).splits["train"][0].mask == "masks/train/a.npy"


def test_black_and_white_masks_are_read_as_0_and_1_where_the_table_has_just_these(dataset, tmp_path: Path) -> None:
    dataset.table('[classes]\n0 = "ground"\n1 = "building"')
    data = require(audit(dataset.splits([0, 255]).config(), dataset.root))
    assert data.reading is Reading.BINARY
    assert data.classes[1].pixels == {"train": 960, "val": 960, "test": 960}
    assert set(np.unique(open_cache(data, "train", tmp_path / "cache").item(0)[..., 3])) == {0, 1}


def test_an_image_that_becomes_too_small_is_refused_with_its_size(dataset) -> None:
    dataset.splits([0, 1])
    assert "images/val/a.jpg: 48x40 becomes 36x30 at scale 0.75; 32 is the least" in refusal(
        audit(dataset.config(scale=0.75), dataset.root)
    )


def test_a_turned_image_is_refused_because_its_mask_would_not_line_up(dataset) -> None:
    dataset.splits([0, 1])
    path = dataset.root / "images/train/a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as image:
        image.load()
        image.save(path, exif=exif)
    assert "EXIF orientation 6" in refusal(audit(dataset.config(), dataset.root))


def test_an_absurdly_large_header_is_an_error_of_its_file(dataset) -> None:
    dataset.splits([0, 1])
    path = dataset.root / "images/train/a.jpg"
    content = bytearray(path.read_bytes())
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert "images/train/a.jpg: more than" in refusal(audit(dataset.config(), dataset.root))


def test_an_image_in_two_splits_is_told(dataset) -> None:
    dataset.splits([0, 1])
    train = {"images": "images/train", "masks": "masks/train"}
    report = audit(dataset.config(val=train), dataset.root)
    assert "1 of 1 images of val is, byte for byte, in train as well" in warned(report)
    assert report.leaked["val"] == 1
    assert require(report).leaked["val"] == 1


def test_progress_counts_every_pair_of_every_split(dataset) -> None:
    seen: list[tuple[int, int]] = []
    audit(dataset.splits([0, 1]).config(), dataset.root, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_the_root_is_relative_to_the_base(dataset) -> None:
    config = dataset.splits([0, 1]).config(root="data")
    assert require(audit(config, dataset.root.parent)).root == dataset.root


# --- what is proposed


def test_merged_ids_train_as_one_class_with_all_their_pixels(dataset, tmp_path: Path) -> None:
    report = audit(dataset.splits([0, 1, 2, 9]).config(merge={1: [1, 2, 9]}, ignore=[]), dataset.root)
    data = require(report)
    assert data.class_ids == (0, 1)
    assert data.classes[1].ids == (1, 2, 9)
    assert data.classes[1].pixels == {"train": 1440, "val": 1440, "test": 1440}
    assert [(entry.id, entry.used, entry.joined_into) for entry in report.classes[:3]] == [
        (0, True, None),
        (1, True, None),
        (2, True, 1),
    ]
    assert "joined into 1" in shown(report)
    assert "ignored" not in warned(report)
    assert np.bincount(open_cache(data, "train", tmp_path / "cache").item(0)[..., 3].ravel()).tolist() == [480, 1440]


def test_classes_of_one_colour_that_are_joined_train_as_one_and_neither_is_called_absent(dataset) -> None:
    dataset.table(
        '[classes]\n0 = { name = "a", rgb = [0, 0, 0] }\n1 = { name = "car", rgb = [255, 0, 0] }\n'
        '2 = { name = "truck", rgb = [255, 0, 0] }\n3 = { name = "tree", rgb = [0, 255, 0] }\n'
    )
    for split in SPLITS:
        dataset.image(split, "a")
        pixels = np.zeros((40, 48, 3), dtype=np.uint8)
        pixels[10:] = (255, 0, 0)
        dataset.mask(split, "a", pixels)
    report = audit(dataset.config(merge={2: [1, 2]}), dataset.root)
    data = require(report)
    assert [(entry.id, entry.pixels["test"]) for entry in data.classes] == [(0, 480), (2, 1440)]
    assert data.mapping == ((0x000000, 0), (0xFF0000, 1))
    assert "In no mask: 3 tree\n" in shown(report)


def test_what_is_ignored_on_purpose_is_not_warned_of_but_counted(dataset) -> None:
    report = audit(dataset.splits([0, 1, 2, 9]).config(ignore=[2, 9]), dataset.root)
    assert require(report).class_ids == (0, 1)
    assert "[2" not in warned(report)
    assert report.ignored_share["train"] == 0.5


def test_the_median_frequency_counts_a_class_over_the_images_that_hold_it(dataset) -> None:
    """Class 3 is half of the one image that holds it, among three of which the other two are half ignored."""
    dataset.splits([0, 1])
    dataset.pair("train", "b", [0, 3])
    dataset.pair("train", "c", [0, 255])
    report = audit(dataset.config(), dataset.root)
    data = require(report)
    assert [entry.pixels["train"] for entry in data.classes] == [2880, 960, 960]
    assert [entry.seen["train"] for entry in data.classes] == [4800, 1920, 1920]
    assert report.proposed_use == (0, 1, 3)
    assert report.class_weights["median-frequency"] == pytest.approx((5 / 6, 1.0, 1.0))
    assert report.class_weights["inverse"] == pytest.approx((3 / 7, 9 / 7, 9 / 7))
    assert [entry.weight for entry in report.classes if entry.used] == list(report.class_weights["median-frequency"])
    assert "0.83" in shown(report)


def test_the_limit_of_the_weights_is_the_callers(dataset) -> None:
    dataset.splits([0, 1])
    dataset.mask("train", "a", np.resize(np.array([0] * 39 + [1], dtype=np.uint8), (40, 48)))
    report = audit(dataset.config(), dataset.root, weight_limit=2.0)
    assert report.class_weights["median-frequency"] == pytest.approx((20 / 39, 2.0))


# --- telling


def test_a_report_is_strict_json_and_survives_the_journey(dataset) -> None:
    report = audit(dataset.splits([0, 1, 9]).config(), dataset.root)
    text = report.model_dump_json()
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert AuditReport.model_validate_json(text) == report.model_copy(update={"files": ()})


def test_an_empty_split_has_no_share_rather_than_none_of_it(dataset) -> None:
    dataset.splits([0, 1])
    shutil.rmtree(dataset.root / "masks/test")
    report = audit(dataset.config(), dataset.root)
    assert report.classes[0].share["test"] is None
    assert report.ignored_share["test"] is None


def test_the_view_fits_80_columns_without_colour_and_takes_names_literally(dataset) -> None:
    dataset.table('[classes]\n0 = { name = "a [bold]thing[/bold]" }\n1 = { name = "b" }\n2 = { name = "" }')
    dataset.splits([0, 1, 2, 255])
    dataset.image("train", "no_mask")
    for config in (dataset.config(), dataset.config(on_bad_file="skip")):
        text = shown(audit(config, dataset.root))
        assert "[bold]thing[/bold]" in text
        assert "\x1b" not in text
        assert max(map(len, text.splitlines())) <= 80
        assert "no_mask.jpg" in text


def test_a_wide_view_has_the_pixels_and_images_of_each_split_and_a_narrow_one_says_where_they_are(dataset) -> None:
    dataset.splits([0, 1, 255])
    dataset.pair("train", "b", [1, 9], (1400, 1600))
    report = audit(dataset.config(), dataset.root)
    wide, narrow = shown(report, width=120), shown(report, width=119)
    cells = [line.split() for line in wide.splitlines()]
    heads = ["id", "name", *[word for split in SPLITS for word in (split, "pixels", "images")], "weight", "note"]
    assert heads in cells
    (land,) = (row for row in cells if row[1:3] == ["1", "land"])
    assert " ".join(land[3:16]) == "49.99 % 1.121 M 2 33.33 % 640 1 33.33 % 640 1"
    (unknown,) = (row for row in cells if row[:2] == ["9", "-"])
    assert " ".join(unknown[2:11]) == "49.96 % 1.12 M 1 - 0 0 -"
    assert max(map(len, wide.splitlines())) <= 120
    assert "audit.md" not in wide
    assert "Pixels and images of each split: in 120 columns, and in the audit.md of `segwatch audit`." in narrow


@given(st.floats(1e-9, 1.0))
def test_a_share_that_is_not_0_never_reads_as_0(share: float) -> None:
    assert float(as_percent(share).split()[0]) == pytest.approx(100 * share, rel=0.06)
