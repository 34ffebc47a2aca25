"""The class table: every format, and every mistake named at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segwatch.data.classes import EXAMPLES, _coloured, as_hex, load_class_table, parse_colour, require_ids
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


def test_a_table_without_ids_serves_colours_but_is_refused_for_ids(shared: Path) -> None:
    table = load_class_table(shared / "data" / "dubai_aerial" / "classes.upstream.json")
    assert table.numbered
    assert [(entry.id, entry.name) for entry in table.entries][-1] == (5, "Unlabeled")
    assert table.colours[0x9B, 0x9B, 0x9B] == 5
    with pytest.raises(ConfigError) as caught:
        require_ids(table)
    assert "6 of 6 entries have no id" in str(caught.value)
    assert "entry 6 (Unlabeled)" in str(caught.value)


def test_a_table_with_ids_is_not_numbered(shared: Path) -> None:
    table = load_class_table(shared / "data" / "dubai_aerial" / "classes.true.json")
    assert not table.numbered
    require_ids(table)


@pytest.mark.parametrize(
    "rows",
    [
        [{"name": "a"}, {"name": "b"}],  # nothing to know them by
        [{"name": "a", "color": "#000000"}, {"name": "b"}],
        [{"id": 0, "name": "a", "color": "#000000"}, {"name": "b", "color": "#000001"}],
    ],
)
def test_a_table_is_not_numbered_by_its_order_where_it_says_anything_else(tmp_path: Path, rows: list[object]) -> None:
    assert "entries have no id" in refusal(write(tmp_path, {"classes": rows}))


def test_numbers_that_segwatch_gives_leave_out_255(tmp_path: Path) -> None:
    rows = [{"name": f"c{i}", "color": [0, i // 256, i % 256]} for i in range(257)]
    assert load_class_table(write(tmp_path, rows)).ids == (*range(255), 256, 257)


def test_ids_end_at_65535_and_255_is_no_class(tmp_path: Path) -> None:
    assert load_class_table(write(tmp_path, {"classes": {"65535": {"name": "a"}, "256": {"name": "b"}}})).ids == (
        256,
        65535,
    )
    message = refusal(write(tmp_path, {"classes": [{"id": 255, "name": "a"}, {"id": 65536, "name": "b"}]}))
    assert "entry 1: id 255 says in masks that nothing is known there" in message
    assert "entry 2: id 65536 is not a whole number from 0 to 65535" in message


def test_a_given_colour_is_told_from_an_invented_one(tmp_path: Path) -> None:
    table = load_class_table(write(tmp_path, {"classes": {"0": {"name": "a", "rgb": [1, 2, 3]}, "1": {"name": "b"}}}))
    assert [entry.colour_given for entry in table.entries] == [True, False]
    assert table.colours == {(1, 2, 3): 0}


def test_a_colour_of_two_classes_is_told_and_harms_no_ids(tmp_path: Path) -> None:
    rows = [{"id": i, "name": name, "rgb": rgb} for i, name, rgb in ((3, "a", [1, 2, 3]), (7, "b", [1, 2, 3]))]
    table = load_class_table(write(tmp_path, {"classes": rows}))
    assert table.ambiguous_colours == {(1, 2, 3): (3, 7)}


def test_two_colours_of_one_class_are_refused_unless_they_are_the_same(tmp_path: Path) -> None:
    row = {"id": 0, "name": "a", "color": "#010203", "rgb": [1, 2, 3]}
    assert load_class_table(write(tmp_path, [row])).entries[0].colour == (1, 2, 3)
    assert "color and rgb are two different colours" in refusal(write(tmp_path, [{**row, "rgb": [1, 2, 4]}]))


@pytest.mark.parametrize("keys", ["name rgb", "title color", "Name RGB", "TITLE Colour"])
def test_names_and_colours_are_found_under_every_usual_key(tmp_path: Path, keys: str) -> None:
    name, colour = keys.split()
    (entry,) = load_class_table(write(tmp_path, {"classes": [{"id": 1, name: "a", colour: [1, 2, 3]}]})).entries
    assert (entry.name, entry.colour) == ("a", (1, 2, 3))


def test_a_key_in_capitals_and_not_is_no_choice(tmp_path: Path) -> None:
    assert "one key twice" in refusal(write(tmp_path, [{"id": 1, "name": "a", "NAME": "b"}]))


# --- dictionaries of research repositories -------------------------------------------------------------------------

CMAP = "cmap = {0: {'name': 'background', 'RGB': [0, 0, 0]}, 7: {'name': '', 'RGB': (1, 2, 3)}}"


def cmap_file(tmp_path: Path, text: str) -> Path:
    return write(tmp_path, text, "cmap.py")


@pytest.mark.parametrize(
    "text",
    [
        CMAP,
        f"#!/usr/bin/env python\nimport numpy as np\n{CMAP}\nnames = [c['name'] for c in cmap.values()]\n",
        CMAP.replace("cmap =", "cmap: dict[int, dict] =") + "\nprint(cmap[0]['RGB'], '\\d')\n",
        "class Data:\n    " + CMAP,
        CMAP.replace("'name'", "'title'").replace("'RGB'", "'color'"),
        CMAP.replace("0:", "'0':").replace("7:", "'7':"),
        f"{CMAP}\nremap = {{0: 1, 7: 2}}\nwords = {{0: 'background', 7: 'other'}}\nsizes = {{'a': 3}}",
    ],
)
def test_a_dictionary_is_found_among_other_code(tmp_path: Path, text: str) -> None:
    entries = load_class_table(cmap_file(tmp_path, text)).entries
    assert [(entry.id, entry.name, entry.colour) for entry in entries] == [
        (0, "background", (0, 0, 0)),
        (7, "", (1, 2, 3)),
    ]


def test_words_alone_are_a_table_too(tmp_path: Path) -> None:
    table = load_class_table(cmap_file(tmp_path, "CLASSES = {0: 'sky', 1: 'sea'}\nlut = {0: 3, 1: 4}"))
    assert [entry.name for entry in table.entries] == ["sky", "sea"]
    assert not table.colours


def test_a_py_file_is_never_executed(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    text = (
        f"open({str(marker)!r}, 'w').close()\nraise SystemExit('executed')\n{CMAP}\nopen({str(marker)!r}, 'w').close()"
    )
    assert load_class_table(cmap_file(tmp_path, text)).ids == (0, 7)
    inside = CMAP.replace("[0, 0, 0]", f"open({str(marker)!r}, 'w')")
    assert "holds code, `open(" in refusal(cmap_file(tmp_path, inside))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cmap = dict(a=1)", "cmap (line 1) is built by code"),
        ("ids = [0]\ncmap = {i: {'name': ''} for i in ids}", "cmap (line 2) is built by code"),
        ("cmap = {**other, 1: {'name': 'a'}}", "cmap (line 1) is built by code"),
        ("cmap = {0: make('a')}", "cmap (line 1) holds code, `make('a')` on line 1"),
        ("x = 3", "no dictionary such as"),
        ("", "no dictionary such as"),
        ("cmap = {0: {'name': 'a'}", "not Python"),
        ("cmap = {0: {'name': 'a'}, 0: {'name': 'b'}}", "the key 0 2 times"),
        ("cmap = {0: {'name': 'a', 'name': 'b'}}", "the key 'name' 2 times"),
        ("a = {0: {'name': 'a'}}\nb = {1: {'name': 'b'}}", "could be the class table: a (line 1), b (line 2)"),
        ("a = {0: 'a'}\nb = {1: 'b'}", "could be the class table: a (line 1), b (line 2)"),
        (f"{CMAP}\ncmap[9] = {{'name': 'more'}}", "changed by code on line 2"),
        (f"{CMAP}\nfor c in cmap:\n    cmap[c]['RGB'] = cmap[c]['RGB'][::-1]", "changed by code on line 3"),
        (f"{CMAP}\nfor v in cmap.values():\n    v['RGB'] = v['RGB'][::-1]", "changed by code on line 3"),
        (f"{CMAP}\nfor k, v in cmap.items():\n    v['RGB'].reverse()", "changed by code on line 3"),
        (f"{CMAP}\ncmap.update(other)", "changed by code on line 2"),
        (f"{CMAP}\ncmap |= other", "changed by code on line 2"),
        (f"{CMAP}\ndel cmap[7]", "changed by code on line 2"),
        (f"{CMAP}\ncmap = reordered(cmap)", "changed by code on line 2"),
        ("cmap = {-1: {'name': 'a'}}", "id -1 is not a whole number"),
        ("cmap = {0: {'RGB': [0, 0, 0], 'title': 3}}", "name 3 is not text"),
        ("\x00", "not Python"),
    ],
)
def test_a_dictionary_that_cannot_be_trusted_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal(cmap_file(tmp_path, text))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.toml", '[classes]\n1 = { name = "b", rgb = [1, 2, 3] }\n0 = { name = "a", color = "#0a0B0c" }'),
        (
            "b.toml",
            '[[classes]]\nid = 1\nname = "b"\ncolour = [1, 2, 3]\n[[classes]]\nid = 0\nname = "a"\nrgb = "0a0b0c"',
        ),
        ("e.json", '[{"id": 1, "name": "b", "rgb": [1,2,3]}, {"id": 0, "name": "a", "rgb": [10,11,12]}]'),
        ("f.json", '{"0": {"title": "a", "color": "#0A0B0C"}, "1": {"name": "b", "rgb": [1, 2, 3]}}'),
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


def test_a_loop_that_only_reads_the_dictionary_changes_nothing(tmp_path: Path) -> None:
    text = f"{CMAP}\nlut = {{}}\nfor k, v in cmap.items():\n    lut[k] = v['RGB']\nv = []\nv.append(3)"
    assert load_class_table(cmap_file(tmp_path, text)).ids == (0, 7)


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
                    {"id": 7, "name": "whole"},
                    {"id": 7, "name": "whole", "rgb": "wrong as well"},
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
        "id '7' stands there 2 times",
        "name 'whole' stands there 2 times",
    ):
        assert expected in message


def test_many_ids_may_be_without_a_name(tmp_path: Path) -> None:
    table = load_class_table(write(tmp_path, {"classes": [{"id": i, "name": ""} for i in (4, 2)]}))
    assert table.ids == (2, 4)
    assert table.named_ids == ()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.toml", "[classes\n", "not a valid TOML"),
        ("a.toml", "[classes]\n0 = {name='a'}\n0 = {name='b'}", "not a valid TOML"),
        ("a.json", "{", "not a valid JSON"),
        ("a.json", '{"classes": {"0": {"name": "a"}, "0": {"name": "b"}}}', "key '0' stands there 2 times"),
        ("a.json", "[]", "empty"),
        ("a.json", '{"water": 0}', 'no "classes"'),
        ("a.json", "3", 'no "classes"'),
        ("a.json", '{"classes": []}', "empty"),
        ("a.json", '{"classes": 3}', "a int"),
        ("a.json", '{"classes": [3]}', "entry 1 is 3"),
        ("a.toml", '[classes]\nwater = { name = "a" }', "class water: id 'water'"),
        ("a.csv", "0,a", ".toml, a .json or a .py"),
    ],
)
def test_a_file_that_is_no_table_is_refused_by_name(tmp_path: Path, name: str, text: str, said: str) -> None:
    assert said in refusal(write(tmp_path, text, name))


def test_bytes_that_are_not_text_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "classes.toml"
    assert "cannot read" in refusal(path)
    path.write_bytes(b"\xff\xfe\x00")
    assert "not a valid TOML" in refusal(path)


@given(st.sets(st.integers(0, 65535), min_size=1), st.sampled_from([None, (242, 109, 109)]))
def test_made_up_colours_are_distinct_and_always_the_same(
    ids: set[int], given_colour: tuple[int, int, int] | None
) -> None:
    drafts = [(i, "", given_colour if i == min(ids) else None) for i in sorted(ids)]
    entries = _coloured(drafts)
    assert len({entry.colour for entry in entries}) == len(ids)
    assert entries == _coloured(drafts)


def test_colours_do_not_run_out_with_thousands_of_classes() -> None:
    entries = _coloured([(i, "", None) for i in range(5_000)])
    assert len({entry.colour for entry in entries}) == 5_000


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_a_colour_written_out_is_the_same_colour(colour: tuple[int, int, int]) -> None:
    assert parse_colour(as_hex(colour)) == colour == parse_colour(list(colour))


@pytest.mark.parametrize(
    ("name", "text", "example"),
    [
        ("classes.toml", "[classes]\n", '0 = { name = "water", colour = "#E2A929" } under [classes]'),
        ("classes.json", '{"classes": []}', '{"id": 0, "name": "water", "colour": "#E2A929"}'),
        ("cmap.py", "cmap = {0: 5}\n", '0: {"name": "water", "RGB": [226, 169, 41]}'),
    ],
)
def test_an_example_is_written_as_the_file_is(tmp_path: Path, name: str, text: str, example: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_class_table(tmp_path / name)
    assert str(caught.value).count(example) == 1
    for kind in ("toml", "json", "py"):
        shown = EXAMPLES[f".{kind}"]
        assert (shown in str(caught.value)) == (shown == example)
