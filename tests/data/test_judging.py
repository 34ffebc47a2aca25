"""What the audit makes of files and ids that are wrong in several ways at once: each told once, with its own remedy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from segwatch.data.audit import audit, require
from segwatch.data.resolved import Reading

from .conftest import refusal, shown, warned

TURNED = '[classes]\n0 = { name = "building", rgb = [255, 255, 255] }\n1 = { name = "ground", rgb = [0, 0, 0] }\n'


def black_and_white(dataset, split: str, white_rows: int, *, bits: bool = False) -> None:
    """A mask of so many white rows, of 40, and its image."""
    mask = np.zeros((40, 48), dtype=np.uint8)
    mask[:white_rows] = 255
    dataset.image(split, "a")
    dataset.mask(split, "a", Image.fromarray(mask).convert("1") if bits else mask)


# --- how masks are read


@pytest.mark.parametrize("bits", [False, True])
def test_a_class_that_the_table_calls_white_gets_the_white_pixels(dataset, bits: bool) -> None:
    dataset.table(TURNED)
    for split in ("train", "val", "test"):
        black_and_white(dataset, split, 30, bits=bits)
    report = audit(dataset.config(), dataset.root)
    assert report.reading is Reading.COLOURS
    assert [entry.pixels["train"] for entry in require(report).classes] == [30 * 48, 10 * 48]


def test_two_ways_of_writing_black_and_white_are_told(dataset) -> None:
    dataset.table('[classes]\n0 = "ground"\n1 = "building"\n')
    dataset.splits([0, 1])
    for split in ("train", "val"):
        dataset.pair(split, "white", [0, 255])
    message = refusal(audit(dataset.config(), dataset.root))
    assert "2 of 5 masks hold only 0 and 255, the others only 0 and 1" in message
    assert audit(dataset.config(mask_format="ids"), dataset.root).resolved is not None
    dataset.pair("val", "both", [0, 1, 255])
    assert audit(dataset.config(), dataset.root).resolved is not None


def test_black_and_white_that_cannot_be_read_is_one_error_and_not_one_for_each_split(dataset) -> None:
    assert len(audit(dataset.splits([0, 255]).config(), dataset.root).errors) == 1


# --- ids


def test_255_has_a_sentence_of_its_own_that_asks_for_nothing_impossible(dataset) -> None:
    report = audit(dataset.splits([0, 1, 9, 255]).config(), dataset.root)
    told = {problem.code: problem for problem in report.warnings}
    assert "255 is no label, and ignored: train 480 pixels (25.00 %)" in told["no-label"].what
    assert "data.use" not in told["no-label"].remedy
    assert "ids [9] are ignored" in told["ignored-ids"].what
    assert "train 480 pixels (25.00 %)" in told["ignored-ids"].what


def test_colours_beyond_those_that_are_counted_one_by_one_are_many_more(dataset) -> None:
    rng = np.random.default_rng(0)
    pixels = np.full((400, 400, 3), (226, 169, 41), dtype=np.uint8)
    pixels[200:] = (132, 41, 246)
    pixels[:12] = rng.integers(0, 200, (12, 400, 3))
    for split in ("train", "val", "test"):
        dataset.image(split, "a", (400, 400))
        dataset.mask(split, "a", pixels)
    told = warned(audit(dataset.config(), dataset.root))
    assert "3.00 % of the mask pixels have a colour" in told
    assert ", and many more" in told


# --- files


def test_a_pair_that_is_broken_on_both_sides_is_one_image_skipped(dataset) -> None:
    dataset.splits([0, 1])
    dataset.pair("test", "b", [0, 1])
    for path in ("images/test/b.jpg", "masks/test/b.png"):
        (dataset.root / path).write_bytes(b"")
    dataset.mask("test", "lonely", np.zeros((4, 4), dtype=np.uint8))
    report = audit(dataset.config(on_bad_file="skip"), dataset.root)
    assert require(report).skipped == report.skipped == {"train": 0, "val": 0, "test": 1}
    assert "2 files of test: empty file" in warned(report)


def test_each_fault_has_the_remedy_that_mends_it(dataset) -> None:
    dataset.splits([0, 1])
    dataset.pair("train", "jpeg", [0, 1])
    Image.fromarray(np.zeros((40, 48), dtype=np.uint8)).save(dataset.root / "masks/train/jpeg.png", "JPEG")
    dataset.image("train", "floats")
    np.save(dataset.root / "masks/train/floats.npy", np.zeros((40, 48), dtype=np.float32))
    remedies = {
        problem.files[0].partition(":")[0]: problem.remedy for problem in audit(dataset.config(), dataset.root).errors
    }
    assert "JPEG" in remedies["masks/train/jpeg.png"]
    assert "whole numbers" in remedies["masks/train/floats.npy"]


def test_images_of_16_bits_are_never_skipped(dataset) -> None:
    dataset.splits([0, 1])
    dataset.image("train", "deep")
    dataset.mask("train", "deep", np.zeros((40, 48), dtype=np.uint8))
    (dataset.root / "images/train/deep.jpg").unlink()
    Image.fromarray(np.zeros((40, 48), dtype=np.uint16)).save(dataset.root / "images/train/deep.png")
    message = refusal(audit(dataset.config(on_bad_file="skip"), dataset.root))
    assert "1 file of train: image of more than 8 bits per channel" in message
    assert "convert it to 8 bits" in message


def test_a_split_that_lost_all_its_files_is_not_told_to_mend_their_names(dataset) -> None:
    dataset.splits([0, 1])
    (dataset.root / "images/val/a.jpg").write_bytes(b"")
    report = audit(dataset.config(on_bad_file="skip"), dataset.root)
    (error,) = report.errors
    assert "no pair of val can be used" in error.what
    assert "mend the files that are left out" in error.remedy


@pytest.mark.parametrize(("on_bad_file", "advised"), [("error", True), ("skip", False)])
def test_to_skip_files_is_advised_only_where_they_are_not_skipped(dataset, on_bad_file: str, advised: bool) -> None:
    dataset.splits([0, 1])
    dataset.pair("train", "b", [0, 1])
    dataset.pair("train", "c", [0, 1])
    (dataset.root / "images/train/b.jpg").write_bytes(b"")
    (dataset.root / "masks/train/c.png").unlink()
    (dataset.root / "masks/train/c.npy").write_bytes(b"no array")
    report = audit(dataset.config(on_bad_file=on_bad_file), dataset.root)
    problems = [problem for problem in (*report.errors, *report.warnings) if problem.code == "bad-files"]
    assert len(problems) == 2
    assert all(("on_bad_file" in problem.remedy) is advised for problem in problems)


def test_a_wrong_line_and_a_broken_file_of_the_same_list_are_told_together(dataset) -> None:
    for split in ("train", "val", "test"):
        dataset.pair("", split, [0, 1])
        (dataset.root / f"{split}.txt").write_text(f"{split}\n")
    (dataset.root / "train.txt").write_text("train\nnone\n")
    path: Path = dataset.root / "images/train.jpg"
    path.write_bytes(path.read_bytes()[:-30])
    lists = {split: {"list": f"{split}.txt"} for split in ("train", "val", "test")}
    report = audit(dataset.config(images="images", masks="masks", **lists), dataset.root)
    message = refusal(report)
    assert "line 2: 'none': no image of this name" in message
    assert "images/train.jpg: cannot be decoded" in message


# --- the order of telling


def test_the_errors_stand_last_on_the_screen(dataset) -> None:
    dataset.splits([0, 1, 9])
    dataset.image("train", "alone")
    lines = shown(audit(dataset.config(), dataset.root)).splitlines()
    first_error = next(place for place, line in enumerate(lines) if line.startswith("error:"))
    assert all(not line.startswith("warning:") for line in lines[first_error:])
    assert any(line.startswith("warning:") for line in lines[:first_error])
    assert lines[-1] == "Not ready: 1 error."
