"""Which class a channel is, under every way of reading masks."""

from __future__ import annotations

from pathlib import Path

import pytest
from segwatch.data.resolved import Reading, ResolvedClass, ResolvedData
from segwatch.evaluator.channels import refuse_other_classes
from segwatch.evaluator.inspection import UnfitError

RED, GREEN = (255, 0, 0), (0, 255, 0)


def data(*classes: ResolvedClass, reading: Reading = Reading.IDS) -> ResolvedData:
    return ResolvedData(root=Path("/"), scale=1.0, classes=classes, splits={}, reading=reading)


def a_class(id_: int, **fields: object) -> ResolvedClass:
    return ResolvedClass(id=id_, name=f"c{id_}", colour=(id_, id_, id_), pixels={}, **fields)


def why_not(values: object, of: ResolvedData) -> str:
    with pytest.raises(UnfitError) as caught:
        refuse_other_classes(values, len(values), of)
    return str(caught.value)


MERGED = data(a_class(0), a_class(1, ids=(1, 17)), a_class(5))
COLOURED = data(a_class(0, colours=(GREEN,)), a_class(1, colours=(RED,)), reading=Reading.COLOURS)
BINARY = data(a_class(0), a_class(1), reading=Reading.BINARY)


@pytest.mark.parametrize("values", [[0, 1, 5], [0, 17, 5]])
def test_a_merged_class_may_have_been_trained_under_any_of_its_ids(values):
    assert refuse_other_classes(values, 3, MERGED) == []


def test_a_network_of_the_unmerged_classes_is_refused_and_told_to_unmerge():
    message = why_not([0, 1, 5, 17], MERGED)
    assert "[0, 1 or 17, 5]" in message
    assert "Set data.use = [0, 1, 5, 17] and take data.merge out" in message


@pytest.mark.parametrize("values", [[[0, 255, 0], [255, 0, 0]], [[0, 255, 0, 255], [255, 0, 0, 255]]])
def test_colours_are_compared_with_the_colours_of_the_classes(values):
    assert refuse_other_classes(values, 2, COLOURED) == []


def test_sorted_colours_that_are_not_in_the_order_of_the_ids_are_refused():
    """The widespread code sorts by colour, the class table by id: silently two different orders."""
    swapped = data(a_class(0, colours=(RED,)), a_class(1, colours=(GREEN,)), reading=Reading.COLOURS)
    message = why_not([[0, 255, 0], [255, 0, 0]], swapped)
    assert "[#00FF00, #FF0000]" in message
    assert "[#FF0000, #00FF00]" in message
    assert "same in another order" in message


def test_palette_indices_are_no_colours():
    assert "masks of this data are read as colours" in why_not([0, 1], COLOURED)


@pytest.mark.parametrize("values", [[0, 255], [0, 1], [False, True]])
def test_black_and_white_is_the_ids_0_and_1(values):
    assert refuse_other_classes(values, 2, BINARY) == []
    assert "[0, 255]" in why_not([255, 0], BINARY)


def test_another_order_that_no_setting_can_mend_is_not_promised_to_be_mended_by_data_use():
    message = why_not([3, 1, 2], data(a_class(0), a_class(1), a_class(2)))
    assert "data.use" not in message
    assert "number them in the class table" in message
