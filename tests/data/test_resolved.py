"""What a run's data is, frozen: which pixel value is which training index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from segwatch.data.resolved import COLOURS_END, TRANSPARENT, Reading, ResolvedClass, ResolvedData, pack

RED, GREEN, ROSE = (255, 0, 0), (0, 255, 0), (255, 0, 128)


def data(reading: Reading, *, merged: bool = False) -> ResolvedData:
    classes = (
        ResolvedClass(
            id=3, name="a", colour=RED, pixels={"train": 30}, ids=(3, 700) if merged else (), colours=(RED, ROSE)
        ),
        ResolvedClass(id=9, name="b", colour=GREEN, pixels={"train": 10}, colours=(GREEN,)),
    )
    return ResolvedData(root=Path("/"), scale=1.0, classes=classes, splits={}, reading=reading)


@pytest.mark.parametrize("reading", [Reading.IDS, Reading.BINARY])
def test_every_id_of_16_bits_is_mapped_and_those_not_used_are_ignored(reading: Reading) -> None:
    lookup = data(reading, merged=True).lookup
    assert lookup.shape == (65536,)
    assert lookup.dtype == np.uint8
    assert [int(lookup[value]) for value in (3, 700, 9)] == [0, 0, 1]
    assert (lookup == 255).sum() == 65536 - 3


def test_every_colour_is_mapped_exactly_and_what_cannot_be_seen_is_ignored() -> None:
    lookup = data(Reading.COLOURS).lookup
    assert lookup.shape == (COLOURS_END + 1,)
    assert [int(lookup[pack(colour)]) for colour in (RED, ROSE, GREEN)] == [0, 0, 1]
    assert lookup[TRANSPARENT] == 255
    assert lookup[pack((255, 0, 1))] == 255
    assert (lookup != 255).sum() == 3


def test_how_masks_are_read_and_what_is_joined_makes_another_score_series(tmp_path: Path) -> None:
    found = {
        one.model_copy(update={"splits": {"test": ()}}).fingerprint("test")
        for one in (data(Reading.IDS), data(Reading.IDS, merged=True), data(Reading.COLOURS), data(Reading.BINARY))
    }
    assert len(found) == 4


def test_a_share_is_of_the_counted_pixels_and_unknown_without_any() -> None:
    assert data(Reading.IDS).share(0, "train") == 0.75
    assert data(Reading.IDS).share(0, "test") is None
