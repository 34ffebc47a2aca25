"""`use`, `merge` and `ignore` against the class table and what the masks hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segwatch.data.classes import ClassEntry, ClassTable, load_class_table
from segwatch.data.config import SPLITS, DataConfig
from segwatch.data.resolved import Reading
from segwatch.data.selection import Selection, UsedClass, select_classes

NAMES = {0: "water", 1: "roof", 2: "", 3: "road", 7: "sand", 17: "glass_roof", 300: "far"}
TABLE = ClassTable(
    Path("/data/classes.toml"),
    tuple(ClassEntry(i, name, (i % 256, 0, 9), colour_given=i != 7) for i, name in NAMES.items()),
)
EVERYTHING = frozenset(NAMES)


def config(**settings: Any) -> DataConfig:
    tables = {name: {"images": f"images/{name}", "masks": f"masks/{name}"} for name in SPLITS}
    return DataConfig.model_validate({"classes": "classes.toml", **tables, **settings})


def select(
    train: set[int] | frozenset[int] = EVERYTHING,
    *,
    table: ClassTable = TABLE,
    reading: Reading = Reading.IDS,
    test: set[int] | None = None,
    colours: set[tuple[int, int, int]] | None = None,
    **settings: Any,
) -> Selection:
    present = {"train": train, "val": set(), "test": test or set()}
    return select_classes(config(**settings), table, reading, present, unlisted_colours=colours or set())


def errors(found: Selection) -> list[str]:
    assert found.errors
    assert not found.classes
    assert all(problem.remedy and problem.where for problem in found.errors)
    return [problem.what for problem in found.errors]


def members(found: Selection) -> dict[int, tuple[int, ...]]:
    assert not found.errors
    return {entry.id: entry.ids for entry in found.classes}


# --- use -----------------------------------------------------------------------------------------------------------


def test_named_and_present_takes_named_ids_of_the_training_masks_in_ascending_order() -> None:
    found = select({300, 3, 2, 0, 99, 255}, test={1})
    assert found.ids == (0, 3, 300)
    assert found.classes[1] == UsedClass(3, "road", (3, 0, 9), (3,), ((3, 0, 9),))


def test_a_listed_id_may_lack_a_name_and_gets_one() -> None:
    assert [entry.name for entry in select(use=[2, 0]).classes] == ["water", "class_2"]


def test_every_wrong_id_of_the_list_is_told_at_once_with_those_that_would_work() -> None:
    found = select({0, 2, 3}, use=[0, 0, 1, 99, 255])
    assert errors(found) == [
        "data.use lists id 0 2 times",
        "data.use lists id 1 (roof), which no training mask holds",
        "data.use lists id 99, which the class table does not have",
        "data.use lists 255, but 255 says that nobody has said what is there, and is no class",
    ]
    assert "these would work: [0, 2, 3]" in found.errors[1].remedy
    assert found.errors[1].where == "data.train.masks (masks/train)"


@pytest.mark.parametrize("use", ["named-and-present", [0]])
def test_one_class_is_none(use: object) -> None:
    (what,) = errors(select({0, 2}, use=use))
    assert what == "no two classes to train, only [0]; the training masks hold ids [0, 2]"


def test_more_classes_than_training_values_are_refused() -> None:
    table = ClassTable(Path("c"), tuple(ClassEntry(i, f"c{i}", (0, 0, 0)) for i in range(300, 600)))
    ids = frozenset(table.ids)
    assert len(select(ids - set(range(300, 345)), table=table).classes) == 255
    assert "256 classes to train; 255 is the most" in errors(select(ids - set(range(300, 344)), table=table))[0]


# --- merge ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listed", [[1, 17], [17]])
def test_a_target_keeps_its_own_pixels_whether_it_is_listed_or_not(listed: list[int]) -> None:
    found = select(merge={1: listed})
    assert members(found) == {0: (0,), 1: (1, 17), 3: (3,), 7: (7,), 300: (300,)}
    assert found.classes[1].name == "roof"
    assert found.classes[1].colours == ((1, 0, 9), (17, 0, 9))
    assert found.members[17] == 1


def test_a_merged_class_is_present_with_any_of_its_ids() -> None:
    assert members(select({0, 17}, merge={1: [17]})) == {0: (0,), 1: (1, 17)}
    assert members(select({0, 17}, merge={1: [17]}, use=[0, 1])) == {0: (0,), 1: (1, 17)}


def test_an_id_without_entry_may_be_merged_where_masks_hold_it() -> None:
    assert members(select({0, 1, 99}, merge={1: [99]}))[1] == (1, 99)
    assert members(select({0, 1}, test={99}, merge={1: [99]}))[1] == (1, 99)
    (what,) = errors(select({0, 1}, merge={1: [99]}))
    assert what == "data.merge joins id 99 into class 1, an id that the class table does not have and no mask holds"


@pytest.mark.parametrize(
    ("merge", "said"),
    [
        ({99: [1]}, "joins ids into 99, which the class table does not have"),
        ({2: [1]}, "joins ids into 2, which has no name"),
        ({255: [1]}, "joins ids into 255, but 255 says"),
        ({0: [255]}, "joins 255 into class 0, but 255 says"),
        ({0: [17], 1: [17]}, "joins id 17 into several classes: [0, 1]"),
        ({0: [17, 17]}, "lists id 17 2 times for class 0"),
        ({0: [1], 1: [17]}, "joins ids into 1, and 1 into 0"),
    ],
)
def test_a_merge_that_cannot_be_meant_is_refused(merge: dict[int, list[int]], said: str) -> None:
    (what,) = errors(select(merge=merge))
    assert said in what


def test_an_unnamed_target_may_be_listed_by_hand() -> None:
    assert members(select(merge={2: [3]}, use=[0, 2])) == {0: (0,), 2: (2, 3)}


def test_what_was_merged_away_cannot_be_used() -> None:
    found = select(merge={1: [17]}, use=[0, 1, 17])
    assert errors(found) == ["data.use lists id 17 (glass_roof), which data.merge joins into 1"]
    assert "these would work: [0, 1, 2, 3, 7, 300]" in found.errors[0].remedy


def test_a_merge_into_a_class_that_is_not_used_is_said() -> None:
    found = select(merge={1: [17]}, use=[0, 3])
    assert found.ids == (0, 3)
    assert [problem.what for problem in found.warnings] == [
        "data.merge joins [1, 17] into 1, which data.use does not list: all of them are ignored"
    ]


# --- ignore --------------------------------------------------------------------------------------------------------


def test_an_ignored_id_is_not_used_and_no_warning_speaks_of_it() -> None:
    found = select({0, 1, 3, 25}, ignore=[3, 25, 255])
    assert found.ids == (0, 1)
    assert found.ignored_ids == {3, 25, 255}
    assert not found.warnings


def test_ignored_and_used_or_merged_at_once_is_an_error_and_neither_wins() -> None:
    found = select(use=[0, 1, 3], merge={1: [17]}, ignore=[3, 17, 1])
    assert errors(found) == [
        "id 1 (roof) is in data.ignore and in data.use and data.merge",
        "id 3 (road) is in data.ignore and in data.use",
        "id 17 (glass_roof) is in data.ignore and in data.merge",
    ]


def test_an_ignored_id_that_nothing_has_is_a_slip_of_the_pen() -> None:
    (warning,) = select({0, 1}, ignore=[99, 7]).warnings
    assert warning.what == "data.ignore lists 99, which neither the class table nor any mask has"


def test_colours_may_be_ignored_only_where_masks_hold_colours() -> None:
    (what,) = errors(select(ignore=["#000000"]))
    assert "lists colours (#000000), but the masks of this data set hold ids" in what
    found = select(ignore=["#000000"], reading=Reading.COLOURS, colours={(0, 0, 0)})
    assert found.ignored_colours == {(0, 0, 0)}
    assert not found.warnings
    (warning,) = select(ignore=["#ff0000"], reading=Reading.COLOURS, colours={(0, 0, 0)}).warnings
    assert "#FF0000" in warning.what


def test_the_colour_of_a_class_ignores_the_class() -> None:
    found = select(ignore=["#030009"], reading=Reading.COLOURS)
    assert found.ignored_ids == {3}
    assert 3 not in found.ids
    (what,) = errors(select(use=[0, 3], ignore=["#030009"], reading=Reading.COLOURS))
    assert "id 3 (road)" in what


# --- tables --------------------------------------------------------------------------------------------------------


def test_a_table_without_ids_serves_colours_only(shared: Path) -> None:
    table = load_class_table(shared / "data" / "dubai_aerial" / "classes.upstream.json")
    assert len(select({0, 1, 2}, table=table, reading=Reading.COLOURS).classes) == 3
    assert "6 of 6 entries have no id" in errors(select({0, 1, 2}, table=table))[0]


def test_two_classes_of_one_colour_cannot_be_told_apart_by_it() -> None:
    table = ClassTable(Path("c"), tuple(ClassEntry(i, f"c{i}", (1, 2, 3)) for i in range(2)))
    assert select({0, 1}, table=table).ids == (0, 1)
    (what,) = errors(select({0, 1}, table=table, reading=Reading.COLOURS))
    assert "#010203 is the colour of several classes: 0 (c0), 1 (c1)" in what


def test_classes_of_one_colour_may_be_joined_or_left_out_together() -> None:
    colours = ((1, 2, 3), (1, 2, 3), (4, 5, 6), (7, 8, 9))
    table = ClassTable(Path("c"), tuple(ClassEntry(i, f"c{i}", colour) for i, colour in enumerate(colours)))
    joined = select({0, 2, 3}, table=table, reading=Reading.COLOURS, merge={1: [0, 1]})
    assert [(entry.id, entry.colours) for entry in joined.classes] == [
        (1, ((1, 2, 3),)),
        (2, ((4, 5, 6),)),
        (3, ((7, 8, 9),)),
    ]
    for ignore in ([0, 1], ["#010203"]):
        found = select({0, 2, 3}, table=table, reading=Reading.COLOURS, ignore=ignore)
        assert (found.ids, found.ignored_ids) == ((2, 3), {0, 1})
    (what,) = errors(select({0, 2, 3}, table=table, reading=Reading.COLOURS, ignore=[1]))
    assert "#010203 is the colour of several classes" in what


def test_a_colour_that_was_invented_is_none_to_read_by() -> None:
    (sand,) = [entry for entry in select(reading=Reading.COLOURS).classes if entry.id == 7]
    assert sand.colours == ()


def test_mistakes_of_all_three_settings_are_told_at_once() -> None:
    found = select(use=[0, 98], merge={97: [1]}, ignore=["#000000"])
    assert {problem.code for problem in found.errors} == {"class-use", "class-merge", "class-ignore"}


IDS = st.sampled_from(sorted(NAMES))


@given(
    st.dictionaries(IDS, st.lists(IDS, max_size=3), max_size=3),
    st.lists(IDS, max_size=3),
    st.one_of(st.just("named-and-present"), st.lists(IDS, max_size=5)),
    st.frozensets(IDS),
)
def test_no_pixel_belongs_to_two_classes_and_none_that_is_ignored_to_one(
    merge: dict[int, list[int]], ignore: list[int], use: object, train: frozenset[int]
) -> None:
    found = select(train, merge=merge, ignore=ignore, use=use)
    assert bool(found.classes) != bool(found.errors)
    owned = [member for entry in found.classes for member in entry.ids]
    assert len(owned) == len(set(owned))
    assert found.ignored_ids.isdisjoint(owned)
    assert list(found.ids) == sorted(found.ids)
    for entry in found.classes:
        assert entry.id in entry.ids
        assert not train.isdisjoint(entry.ids)
        assert entry.name
