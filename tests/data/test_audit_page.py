"""What an audit leaves behind: a page that holds all of it, a picture that shows masks on images, and JSON."""

from __future__ import annotations

import io
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from segwatch.data.audit import AuditReport, audit
from segwatch.data.audit_page import READY, page, verdict_in, write_audit
from segwatch.data.audit_picture import CELL, STRIPES, WIDTH, chosen, draw_audit
from segwatch.data.resolved import Pair
from segwatch.errors import ConfigError


@pytest.fixture
def report(dataset) -> AuditReport:
    dataset.table(
        '[classes]\n0 = { name = "a|b *c*", rgb = [226, 169, 41] }\n1 = { name = "land", rgb = [9, 41, 246] }'
    )
    dataset.splits([0, 1, 255])
    dataset.pair("train", "b", [0, 1, 1, 7])
    return audit(dataset.config(), dataset.root)


def test_the_page_has_a_table_for_each_split_with_pixels_shares_and_images(report: AuditReport) -> None:
    text = page(report)
    assert "## train: 2 images, 3,840 pixels, 29.17 % of them ignored" in text
    assert "| `#0929F6` | 1 | land | 1,600 | 41.67 % | 2 | used |" in text
    assert "## val: 1 images, 1,920 pixels" in text
    assert "| `#0929F6` | 1 | land | 640 | 33.33 % | 1 | used |" in text
    assert "## test: 1 images" in text


def test_a_name_breaks_no_table(report: AuditReport) -> None:
    assert r"a\|b \*c\*" in page(report)
    for line in page(report).splitlines():
        if line.startswith("| `#"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 8


def test_the_page_tells_what_the_table_does_not_have_and_where(report: AuditReport) -> None:
    assert "| 7 | 12.50 % | - | - | 1 |  | masks/train/b.png |" in page(report)
    assert "| 255 | 16.67 % | 33.33 % | 33.33 % | 3 | no label |" in page(report)
    assert "ids [7] are ignored" in page(report)


def test_the_page_gives_the_weights_and_what_to_write_into_run_toml(report: AuditReport) -> None:
    text = page(report)
    assert (
        "| 1 | land | 0.9 | 0.9 |" in text.replace("0.8889", "0.9").replace("0.7273", "0.9") or "| 1 | land |" in text
    )
    (block,) = re.findall(r"```toml\n(.*?)```", text, flags=re.DOTALL)
    assert tomllib.loads(block)["data"]["use"] == [0, 1]
    weights = re.search(r"# class_weights = \[(.*)\]", block)
    assert weights is not None
    assert [float(word) for word in weights[1].split(",")] == pytest.approx(
        report.class_weights["median-frequency"], rel=1e-3
    )


def test_every_bad_file_of_a_failed_audit_is_on_the_page_and_no_picture(dataset, tmp_path: Path) -> None:
    dataset.splits([0, 1])
    for number in range(60):
        dataset.image("train", f"alone{number}")
    (tmp_path / "audit.png").write_bytes(b"of an earlier audit")
    written = write_audit(audit(dataset.config(), dataset.root), tmp_path)
    assert written == (tmp_path / "audit.md",)
    assert not (tmp_path / "audit.png").exists()
    text = written[0].read_text()
    assert "**Not ready: errors: 1.**" in text
    assert verdict_in(tmp_path) == "Not ready: errors: 1."
    assert text.count("- images/train/alone") == 60
    assert "audit.png" not in text


def test_skipped_files_and_leaks_are_on_the_page(dataset) -> None:
    dataset.splits([0, 1])
    dataset.image("train", "alone")
    text = page(audit(dataset.config(on_bad_file="skip"), dataset.root))
    assert "Left out: 1 image (1 bad file)." in text
    assert "Left out: 0 images (0 bad files)." in text
    assert "images/train/alone.jpg: no mask" in text
    assert "### leak-identical" in text


def test_lines_of_an_error_stay_lines(dataset) -> None:
    dataset.splits([0, 1])
    dataset.mask("train", "a", np.zeros((40, 48, 3), dtype=np.uint8))
    for split in ("val", "test"):
        dataset.mask(split, "a", np.full((40, 48, 3), 9, dtype=np.uint8))
    text = page(audit(dataset.config(), dataset.root))
    assert "none occurs  \nIn no mask: " in text


def test_lines_to_paste_stand_in_a_block_of_their_own(shared: Path, tiles) -> None:
    tiny = {name: {"images": f"images/{name}", "masks": f"masks/{name}"} for name in ("val", "test")}
    report = audit(tiles(classes="classes.upstream.json", train=tiny["val"], val=tiny["val"], test=tiny["val"]), shared)
    (block,) = re.findall(r"```toml\n(.*?)```", page(report), flags=re.DOTALL)
    assert {entry["colour"] for entry in tomllib.loads(block)["classes"].values()} > {"#8429F6", "#6EC1E4"}


# --- the picture


def test_the_picture_shows_images_beside_their_masks_in_class_colours(report: AuditReport, tmp_path: Path) -> None:
    write_audit(report, tmp_path)
    with Image.open(tmp_path / "audit.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1] == WIDTH
    colours = {
        tuple(colour): int(count)
        for colour, count in zip(*np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True), strict=True)
    }
    mask_area = CELL * round(CELL * 40 / 48)
    for entry in report.classes:
        assert colours[entry.colour] > 0.3 * mask_area
    for stripe in STRIPES:
        assert colours[stripe] > 0.05 * mask_area
    assert colours[(90, 90, 90)] > mask_area


def test_of_many_images_the_same_four_are_drawn_spread_evenly() -> None:
    pairs = [Pair(image=str(number), mask="") for number in range(100)]
    assert [int(pair.image) for pair in chosen(pairs)] == [12, 37, 62, 87]
    assert chosen(pairs[:3]) == pairs[:3]


def test_40_classes_and_odd_sizes_still_fit(dataset) -> None:
    rows = "\n".join(f'{number} = "a class of a rather long name, number {number}"' for number in range(40))
    dataset.table(f"[classes]\n{rows}")
    dataset.splits(list(range(40)))
    dataset.pair("train", "wide", [0, 1], (33, 400))
    dataset.pair("train", "tall", [0, 1], (400, 33))
    picture = draw_audit(audit(dataset.config(), dataset.root))
    assert picture.width == WIDTH
    assert picture.height < 2000


def test_a_file_that_is_gone_meanwhile_is_told_by_name(report: AuditReport) -> None:
    (report.root / "masks/train/a.png").unlink()
    with pytest.raises(ConfigError, match=r"a\.png"):
        draw_audit(report)


def test_a_directory_that_cannot_be_written_to_stops_nothing(report: AuditReport, tmp_path: Path) -> None:
    from segwatch.daemon.auditing import keep_audit

    (tmp_path / "file").write_text("no directory")
    console = Console(file=io.StringIO(), width=200)
    keep_audit(report, tmp_path / "file" / "below", console)
    assert isinstance(console.file, io.StringIO)
    assert "audit.md is not written" in console.file.getvalue()
    keep_audit(report, tmp_path / "new", console)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["audit.md", "audit.png"]
    assert verdict_in(tmp_path / "new") == READY
    assert verdict_in(tmp_path) is None
    keep_audit(report, tmp_path / "new", console, refused="loss.class_weights has 3 weights")
    assert verdict_in(tmp_path / "new") == "Not ready: loss.class_weights has 3 weights"
    assert str(tmp_path / "new" / "audit.png") in console.file.getvalue()
