"""The audit: what the masks hold, what is wrong with them, and what a run uses."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from segwatch.data.audit import AuditReport, audit, percent, require
from segwatch.data.audit_view import render
from segwatch.data.config import SPLITS
from segwatch.errors import ConfigError

PRESENT = [0, 1, 2, 3, 5, 6, 13, 14, 15, 16, 17, 19, 20, 24, 25]
NAMED_AND_PRESENT = (0, 1, 2, 3, 5, 6, 13, 14, 15, 16, 17, 19, 20, 24)


def refusal(report: AuditReport) -> str:
    assert report.resolved is None
    with pytest.raises(ConfigError) as caught:
        require(report)
    assert caught.value.exit_code == 78
    assert caught.value.remedy
    return str(caught.value)


def warned(report: AuditReport) -> str:
    return "\n".join(problem.what for problem in report.warnings)


def shown(report: AuditReport, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    render(report, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# --- real data


def test_the_shares_of_the_real_tiles_are_those_of_their_readme(shared: Path, tiles) -> None:
    report = audit(tiles(), shared)
    rows = [
        line.split("|")[1:-1]
        for line in (shared / "data/dubai_aerial/README.md").read_text().splitlines()
        if "%" in line and line.startswith("|")
    ]
    expected = {int(row[0]): [float(cell.strip(" %")) for cell in row[3:]] for row in rows}
    assert len(expected) == 7
    found = {entry.id: entry.share for entry in (*report.classes, *report.unknown_ids)}
    for class_id, shares in expected.items():
        for split, share in zip(SPLITS, shares, strict=True):
            assert 100 * (found[class_id][split] or 0) == pytest.approx(share, abs=0.0051)
    assert report.images == {"train": 48, "val": 8, "test": 16}
    assert not report.errors


def test_255_in_the_real_tiles_is_explained_and_its_files_are_counted(shared: Path, tiles) -> None:
    report = audit(tiles(), shared)
    (unknown,) = report.unknown_ids
    assert (unknown.id, unknown.files, len(unknown.examples)) == (255, 9, 5)
    assert "no label" in unknown.note
    assert report.ignored_share["test"] == pytest.approx(0.0248, abs=5e-5)
    assert "test 545727 pixels (2.48 %)" in warned(report)


def test_the_upstream_masks_are_refused_by_file_and_mode(shared: Path, tiles) -> None:
    message = refusal(audit(tiles(masks="masks"), shared))
    assert "masks/train/tile1_part001.png: mode RGB" in message
    assert "masks/train/tile2_part001.png: mode P" in message
    assert "8-bit greyscale" in message


def test_skipping_never_leaves_out_masks_of_the_wrong_kind(shared: Path, tiles) -> None:
    assert "masks/train/tile2_part001.png: mode P" in refusal(audit(tiles(masks="masks", on_bad_file="skip"), shared))


def test_a_table_without_ids_stops_the_run_and_the_ids_to_name_are_told(shared: Path, tiles) -> None:
    report = audit(tiles(classes="classes.upstream.json"), shared)
    message = refusal(report)
    assert "classes.upstream.json" in message
    assert "have no id" in message
    assert "the masks hold ids [0, 1, 2, 3, 4, 5]" in warned(report)


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
    expected = np.full(256, 255)
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
    message = refusal(audit(dataset.splits([0, 255]).config(), dataset.root))
    assert "no two classes to train, only [0]" in message


def test_black_and_white_masks_are_told_as_such(dataset) -> None:
    assert "hold only 0 and 255, as black-and-white masks do" in refusal(
        audit(dataset.splits([0, 255]).config(), dataset.root)
    )


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
    assert report.bad_files["test"] == {"unreadable": ("images/test/no_jpeg.jpg", "masks/test/torn_mask.png")}


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


@pytest.mark.parametrize("mode", ["1", "P", "RGB", "RGBA", "LA"])
def test_a_mask_of_another_mode_is_refused_by_file_and_mode(dataset, mode: str) -> None:
    dataset.splits([0, 1])
    dataset.mask("train", "a", Image.fromarray(np.resize(np.array([0, 1], dtype=np.uint8), (40, 48))).convert(mode))
    assert f"masks/train/a.png: mode {mode}" in refusal(audit(dataset.config(), dataset.root))


def test_16_bit_masks_count_as_ids_as_long_as_they_are(dataset) -> None:
    dataset.splits([0, 1])
    wide = np.resize(np.array([0, 1, 255], dtype=np.uint16), (40, 48))
    dataset.mask("train", "a", Image.fromarray(wide))
    with Image.open(dataset.root / "masks/train/a.png") as mask:
        assert mask.mode == "I;16"
    report = audit(dataset.config(), dataset.root)
    assert report.classes[1].pixels["train"] == 640
    wide[0, 0] = 256
    dataset.mask("train", "a", Image.fromarray(wide))
    assert "values from 0 to 256" in refusal(audit(dataset.config(), dataset.root))


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
    assert "1 images are in train and in val" in warned(audit(dataset.config(val=train), dataset.root))


def test_progress_counts_every_pair_of_every_split(dataset) -> None:
    seen: list[tuple[int, int]] = []
    audit(dataset.splits([0, 1]).config(), dataset.root, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_the_root_is_relative_to_the_base(dataset) -> None:
    config = dataset.splits([0, 1]).config(root="data")
    assert require(audit(config, dataset.root.parent)).root == dataset.root


# --- telling


def test_a_report_is_strict_json_and_survives_the_journey(dataset) -> None:
    report = audit(dataset.splits([0, 1, 9]).config(), dataset.root)
    text = report.model_dump_json()
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert AuditReport.model_validate_json(text) == report


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


@given(st.floats(1e-9, 1.0))
def test_a_share_that_is_not_0_never_reads_as_0(share: float) -> None:
    assert float(percent(share).split()[0]) == pytest.approx(100 * share, rel=0.06)
