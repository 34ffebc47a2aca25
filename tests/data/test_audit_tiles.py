"""The audit of 72 real aerial tiles, whose class table and palettes are wrong in ways that no loss would show."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from segwatch.data import audit as audit_module
from segwatch.data.audit import audit, require
from segwatch.data.cache import open_cache
from segwatch.data.config import SPLITS, DataConfig
from segwatch.data.masks import read_mask
from segwatch.data.resolved import Reading
from segwatch.data.scan import Scan

from .conftest import refusal, shown, warned

SCANS: dict[tuple[object, ...], Scan] = {}


@pytest.fixture
def tiles(tiles, monkeypatch: pytest.MonkeyPatch) -> Callable[..., DataConfig]:
    """The real tiles, whose files are read once for all tests of this module; each test judges them anew."""
    real = audit_module.scan_splits

    def remembered(config: DataConfig, root: Path, **options: object) -> Scan:
        key = (root, config.table("train"), config.scale)
        if key not in SCANS:
            SCANS[key] = real(config, root, **options)
        return SCANS[key]

    monkeypatch.setattr(audit_module, "scan_splits", remembered)
    return tiles


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


def test_the_real_colour_masks_are_read_by_colour_and_count_as_their_ids(shared: Path, tiles) -> None:
    by_colour, by_id = audit(tiles(masks="masks"), shared), audit(tiles(), shared)
    assert by_colour.reading is Reading.COLOURS
    assert "72 masks: 54 RGB, 18 palette; read by colour" in by_colour.statement
    assert "order of the palettes differs between files" in by_colour.statement
    for one, other in zip(require(by_colour).classes, require(by_id).classes, strict=True):
        assert (one.id, one.name, one.pixels, one.seen) == (other.id, other.name, other.pixels, other.seen)
    (black,) = by_colour.unknown_colours
    assert (black.colour, black.files, len(black.examples), black.ignored) == ("#000000", 9, 5, False)
    assert 100 * (black.share["test"] or 0) == pytest.approx(2.48, abs=0.0051)
    assert "#000000 (0.56 %, 9 masks)" in warned(by_colour)
    assert by_colour.ignored_share["test"] == pytest.approx(by_id.ignored_share["test"])


def test_the_cache_of_the_real_colour_masks_holds_exactly_the_ids(shared: Path, tiles, tmp_path: Path) -> None:
    data = require(audit(tiles(masks="masks"), shared)).model_copy(update={"scale": 1.0})
    for split in ("val", "test"):
        cache = open_cache(data, split, tmp_path)
        for index, pair in enumerate(data.splits[split]):
            ids = read_mask(data.root / pair.mask.replace("masks/", "masks_id/"))
            np.testing.assert_array_equal(cache.item(index)[..., 3], ids)


def test_an_ignored_colour_is_warned_of_no_more(shared: Path, tiles) -> None:
    report = audit(tiles(masks="masks", ignore=["#000000"]), shared)
    assert report.unknown_colours[0].ignored
    assert "#000000" not in warned(report)
    assert report.ignored_share["test"] == pytest.approx(0.0248, abs=5e-5)


def test_the_trap_of_the_upstream_masks_and_table_is_explained_on_one_screen(shared: Path, tiles) -> None:
    report = audit(tiles(masks="masks", classes="classes.upstream.json"), shared)
    assert report.resolved is None
    text = shown(report, width=100)
    assert text.index("error:") > text.index("warning:")
    assert 24 <= len(text.splitlines()) <= 40
    assert max(map(len, text.splitlines())) <= 100
    words = " ".join(text.split())
    for colour, share in {
        "#8429F6": "52.36 %",
        "#E2A929": "13.61 %",
        "#3C1098": "13.31 %",
        "#FEDD3A": "10.31 %",
        "#6EC1E4": "9.35 %",
        "#000000": "0.56 %",
    }.items():
        assert re.search(rf'\d = {{ name = "", colour = "{colour}" }} +# {share} of the pixels', text)
    assert '5 = { name = "Unlabeled", colour = "#9B9B9B" }' in text
    assert "of its 6 colours only #9B9B9B Unlabeled occurs" in words
    assert "In no mask: #50E3C2 Water, #F5A623 Land (unpaved area), #DE597F Road, #D0021B Building" in words
    assert "the order of the palettes differs between files (index 0 is #" in words
    assert "plausible nonsense" in words


def test_the_refusal_of_the_upstream_table_can_be_pasted(shared: Path, tiles) -> None:
    message = refusal(audit(tiles(masks="masks", classes="classes.upstream.json"), shared))
    table = tomllib.loads(message[message.index("[classes]") : message.index("  ->")])
    assert {entry["colour"] for entry in table["classes"].values()} > {"#8429F6", "#6EC1E4", "#9B9B9B"}


def test_the_raw_index_of_the_real_palettes_is_refused_by_request_too(shared: Path, tiles) -> None:
    message = refusal(audit(tiles(masks="masks", mask_format="ids"), shared))
    assert "54 masks hold colours" in message


def test_a_table_without_ids_serves_colours_and_stops_masks_of_ids(shared: Path, tiles) -> None:
    message = refusal(audit(tiles(classes="classes.upstream.json"), shared))
    assert "classes.upstream.json" in message
    assert "have no id" in message


def test_without_a_table_the_ids_or_colours_to_name_are_told(shared: Path, tiles) -> None:
    report = audit(tiles(classes="none.json"), shared)
    assert "the masks hold ids [0, 1, 2, 3, 4, 5]" in warned(report)
    report = audit(tiles(classes="none.json", masks="masks"), shared)
    assert any('0 = { name = "", colour = "#8429F6" }' in line for p in report.warnings for line in p.lines)
    assert "none.json" in refusal(report)
