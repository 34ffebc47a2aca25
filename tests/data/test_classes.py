"""The class table: both formats, and every mistake named at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segwatch.data.classes import _coloured, load_class_table
from segwatch.errors import ConfigError


def write(tmp_path: Path, content: object, name: str = "classes.json") -> Path:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_class_table(path)
    assert caught.value.exit_code == 78
    assert str(path) in str(caught.value)
    assert caught.value.remedy
    return str(caught.value)


def test_the_uavscenes_table_has_26_ids_of_which_19_have_a_name(shared: Path) -> None:
    table = load_class_table(shared / "oracles" / "uavscenes_classes.toml")
    assert table.ids == tuple(range(26))
    assert set(table.ids) - set(table.named_ids) == {7, 8, 12, 21, 22, 23, 25}
    entry = table.get(13)
    assert entry is not None
    assert (entry.name, entry.colour) == ("green_field", (107, 142, 35))


def test_the_json_table_of_the_tiles_is_read_and_its_extra_keys_are_let_be(shared: Path) -> None:
    table = load_class_table(shared / "data" / "dubai_aerial" / "classes.true.json")
    assert [entry.name for entry in table.entries][:3] == ["Water", "Land (unpaved area)", "Road"]
    assert table.entries[0].colour == (0xE2, 0xA9, 0x29)


def test_a_table_without_ids_is_refused_and_not_numbered_by_its_order(shared: Path) -> None:
    message = refusal(shared / "data" / "dubai_aerial" / "classes.upstream.json")
    assert "6 of 6 entries have no id" in message
    assert "entry 6 (Unlabeled)" in message


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.toml", '[classes]\n1 = { name = "b", rgb = [1, 2, 3] }\n0 = { name = "a", color = "#0a0B0c" }'),
        (
            "b.toml",
            '[[classes]]\nid = 1\nname = "b"\ncolour = [1, 2, 3]\n[[classes]]\nid = 0\nname = "a"\nrgb = "0a0b0c"',
        ),
        ("c.json", '{"classes": {"0": {"name": "a", "rgb": [10, 11, 12]}, "1": {"name": "b", "rgb": [1, 2, 3]}}}'),
        (
            "d.json",
            '\ufeff{"classes": [{"id": 1, "name": " b ", "rgb": [1,2,3]}, {"id": 0, "name": "a", "rgb": [10,11,12]}]}',
        ),
    ],
)
def test_all_shapes_of_a_table_mean_the_same_and_come_in_ascending_id(tmp_path: Path, name: str, text: str) -> None:
    entries = load_class_table(write(tmp_path, text, name)).entries
    assert [(entry.id, entry.name, entry.colour) for entry in entries] == [(0, "a", (10, 11, 12)), (1, "b", (1, 2, 3))]


def test_all_mistakes_of_a_table_are_told_at_once_each_with_its_entry(tmp_path: Path) -> None:
    message = refusal(
        write(
            tmp_path,
            {
                "classes": [
                    {"id": 255, "name": "a"},
                    {"id": True, "name": "b"},
                    {"id": 3},
                    {"id": 4, "name": "c", "colour": "blue"},
                    {"id": 5, "name": "d", "rgb": [0, 0, 256]},
                    {"id": 6, "name": "same"},
                    {"id": 6, "name": "same"},
                ]
            },
        )
    )
    for expected in (
        "entry 1: id 255",
        "entry 2: id True",
        "entry 3: has no name",
        "entry 4: colour 'blue'",
        "entry 5: rgb [0, 0, 256]",
        "id '6' stands there 2 times",
        "name 'same' stands there 2 times",
    ):
        assert expected in message


def test_many_ids_may_be_without_a_name(tmp_path: Path) -> None:
    table = load_class_table(write(tmp_path, {"classes": [{"id": i, "name": ""} for i in (4, 2)]}))
    assert table.ids == (2, 4)
    assert table.named_ids == ()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.toml", "[classes\n", "not valid TOML"),
        ("a.toml", "[classes]\n0 = {name='a'}\n0 = {name='b'}", "not valid TOML"),
        ("a.json", "{", "not valid JSON"),
        ("a.json", '{"classes": {"0": {"name": "a"}, "0": {"name": "b"}}}', "key '0' stands there 2 times"),
        ("a.json", "[]", 'no "classes"'),
        ("a.json", '{"classes": []}', "empty"),
        ("a.json", '{"classes": 3}', "a int"),
        ("a.json", '{"classes": [3]}', "entry 1 is 3"),
        ("a.toml", '[classes]\nwater = { name = "a" }', "class water: id 'water'"),
        ("a.csv", "0,a", ".toml or a .json"),
    ],
)
def test_a_file_that_is_no_table_is_refused_by_name(tmp_path: Path, name: str, text: str, said: str) -> None:
    assert said in refusal(write(tmp_path, text, name))


def test_bytes_that_are_not_text_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "classes.toml"
    assert "cannot read" in refusal(path)
    path.write_bytes(b"\xff\xfe\x00")
    assert "not valid TOML" in refusal(path)


@given(st.sets(st.integers(0, 254), min_size=1), st.sampled_from([None, (242, 109, 109)]))
def test_made_up_colours_are_distinct_and_always_the_same(
    ids: set[int], given_colour: tuple[int, int, int] | None
) -> None:
    drafts = [(i, "", given_colour if i == min(ids) else None) for i in sorted(ids)]
    entries = _coloured(drafts)
    assert len({entry.colour for entry in entries}) == len(ids)
    assert entries == _coloured(drafts)
