"""How masks are read: every reading that is chosen, and every case in which choosing would be guessing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segwatch.data.classes import ClassEntry, ClassTable
from segwatch.data.config import SPLITS, DataConfig
from segwatch.data.formats import Format, MaskFile, count, settle
from segwatch.data.masks import Kind, MaskFacts
from segwatch.data.resolved import TRANSPARENT, Reading

RED, GREEN, BLUE, BLACK, WHITE = 0xFF0000, 0x00FF00, 0x0000FF, 0x000000, 0xFFFFFF


def config(mask_format: str = "auto", ignore: list[str] | None = None) -> DataConfig:
    splits = {name: {"images": Path("i"), "masks": Path("m")} for name in SPLITS}
    return DataConfig.model_validate({"classes": "c", "mask_format": mask_format, "ignore": ignore or [], **splits})


def table(*colours: int | None, numbered: bool = False, ids: tuple[int, ...] | None = None) -> ClassTable:
    """Classes 0, 1, ... of these colours; `None` where the table gives none."""
    entries = tuple(
        ClassEntry(class_id, f"class {class_id}", ((c or 0) >> 16, (c or 0) >> 8 & 255, (c or 0) & 255), c is not None)
        for class_id, c in zip(ids or range(len(colours)), colours, strict=True)
    )
    return ClassTable(Path("classes.toml"), entries, numbered)


def grey(*values: int, kind: Kind = Kind.IDS) -> MaskFacts:
    return MaskFacts(kind, (1, 100 * len(values)), values=dict.fromkeys(values, 100))


def coloured(*colours: int, kind: Kind = Kind.RGB) -> MaskFacts:
    return MaskFacts(kind, (1, 100 * len(colours)), colours=dict.fromkeys(colours, 100), distinct=len(colours))


def palette(**indices: int) -> MaskFacts:
    """`palette(i0=RED, i2=BLUE)`: 100 pixels of each index."""
    by_index = {int(key[1:]): colour for key, colour in indices.items()}
    return MaskFacts(
        Kind.PALETTE,
        (1, 100 * len(by_index)),
        values=dict.fromkeys(by_index, 100),
        colours={colour: 100 * list(by_index.values()).count(colour) for colour in by_index.values()},
        palette=by_index,
        distinct=len(set(by_index.values())),
    )


def settled(facts: list[MaskFacts], classes: ClassTable, settings: DataConfig | None = None) -> Format:
    masks = [MaskFile("train", f"masks/{name}.png", one) for name, one in zip("abcdefgh", facts, strict=False)]
    return settle(masks, classes, settings or config())


def refusal(facts: list[MaskFacts], classes: ClassTable, settings: DataConfig | None = None) -> str:
    found = settled(facts, classes, settings)
    assert found.reading is None
    assert found.errors
    return "\n".join([f"{e.what}\n{chr(10).join(e.lines)}\n-> {e.remedy}" for e in found.errors])


# --- grey


@pytest.mark.parametrize("kind", [Kind.IDS, Kind.WIDE_IDS, Kind.ARRAY_IDS, Kind.GREY_ALPHA])
def test_numbers_are_ids_and_that_is_stated(kind: Kind) -> None:
    found = settled([grey(0, 1, 255, kind=kind), grey(1, 2)], table(RED, GREEN, BLUE))
    assert found.reading is Reading.IDS
    assert kind.value in found.statement
    assert "2 masks" in found.statement
    assert "read as ids" in found.statement


def test_values_outside_the_table_are_still_ids() -> None:
    assert settled([grey(0, 900, kind=Kind.WIDE_IDS)], table(None, None)).reading is Reading.IDS


def test_greys_that_are_colours_of_the_table_and_no_ids_of_it_are_not_guessed() -> None:
    message = refusal([grey(80, 160)], table(0x505050, 0xA0A0A0))
    assert 'mask_format = "colours"' in message


@pytest.mark.parametrize("values", [(0, 50, 100), (0, 50), (0, 50, 255)])
def test_greys_of_the_table_are_not_guessed_for_the_0_that_is_an_id_as_well(values: tuple[int, ...]) -> None:
    classes = table(0x000000, 0x323232, 0x646464, WHITE)
    message = refusal([grey(*values)], classes)
    assert "as greys they are its colours" in message
    assert 'mask_format = "colours"' in message
    assert settled([grey(*values)], classes, config("colours")).reading is Reading.COLOURS


def test_greys_that_are_ids_and_colours_of_other_classes_are_told_unless_somebody_said_which() -> None:
    turned = table(0x000000, 0x020202, 0x010101)
    found = settled([grey(0, 1, 2)], turned)
    assert found.reading is Reading.IDS
    (warning,) = found.warnings
    assert "ids of the class table, and as greys its colours, of other classes" in warning.what
    assert 'mask_format = "ids" or "colours"' in warning.remedy
    assert not settled([grey(0, 1, 2)], turned, config("ids")).warnings
    assert not settled([grey(0, 1, 2, 255)], table(0x000000, 0x010101, 0x020202)).warnings


def test_grey_of_few_bits_is_an_id_by_its_value_and_a_colour_as_viewers_show_it() -> None:
    two_bits = replace(grey(0, 3), step=85)
    assert settled([two_bits], table(RED, GREEN, BLUE, RED)).reading is Reading.IDS, "0 and 3 are not black and white"
    own = table(0x000000, 0x555555, 0xAAAAAA, WHITE)
    assert not settled([replace(grey(0, 1, 2, 3), step=85)], own).warnings, "ids and colours say the same"
    assert settled([replace(grey(0, 1, 2), step=85)], table(0x000000, 0xAAAAAA, 0x555555)).warnings
    assert count(two_bits, Reading.COLOURS, {0: 0, WHITE: 3}).ids == {0: 100, 3: 100}
    assert count(two_bits, Reading.IDS, {}).ids == {0: 100, 3: 100}


def test_greys_of_a_table_without_ids_can_only_be_its_colours() -> None:
    classes = table(0x000000, 0x323232, numbered=True)
    assert settled([grey(0, 50)], classes).reading is Reading.COLOURS


# --- black and white


@pytest.mark.parametrize(
    "facts",
    [
        [grey(0, 255), grey(0), grey(255)],
        [grey(0, 1, kind=Kind.BITS)],
        [grey(0, 1, kind=Kind.BITS), grey(0, 255)],
        [coloured(BLACK, WHITE)],
        [palette(i0=WHITE, i1=BLACK)],
    ],
)
def test_black_and_white_is_read_as_the_ids_0_and_1_where_the_table_has_just_these(facts: list[MaskFacts]) -> None:
    found = settled(facts, table(None, None))
    assert found.reading is Reading.BINARY
    assert "black and white" in found.statement
    message = refusal(facts, table(None, None, None))
    assert 'mask_format = "binary"' in message
    assert 'mask_format = "ids"' in message


def test_black_and_white_that_the_table_gives_as_colours_is_read_by_colour() -> None:
    assert settled([coloured(BLACK, WHITE)], table(BLACK, WHITE)).reading is Reading.COLOURS


@pytest.mark.parametrize(
    "facts", [[grey(0, 255)], [grey(0, 1, kind=Kind.BITS)], [grey(0, 1, kind=Kind.BITS), grey(0, 255)]]
)
def test_grey_black_and_white_goes_by_the_colours_of_a_table_that_turns_them_round(facts: list[MaskFacts]) -> None:
    found = settled(facts, table(WHITE, BLACK))
    assert found.reading is Reading.COLOURS
    assert "black and white are colours of the class table" in found.statement
    assert [count(one, Reading.COLOURS, {WHITE: 0, BLACK: 1}).ids for one in facts] == [{0: 100, 1: 100}] * len(facts)
    assert settled(facts, table(BLACK, WHITE)).reading is Reading.BINARY
    assert settled(facts, table(BLACK, RED)).reading is Reading.BINARY


def test_a_table_that_turns_one_of_black_and_white_round_is_not_guessed_with() -> None:
    for classes in (table(WHITE, RED), table(RED, BLACK)):
        message = refusal([grey(0, 255)], classes)
        assert "black is id 0 and white is id 1, but in the class table" in message
        assert 'mask_format = "colours"' in message
    assert "#000000 is id 1 and #FFFFFF" not in refusal([grey(0, 255)], table(WHITE, RED))


def test_binary_by_request_is_refused_against_the_colours_of_the_table() -> None:
    message = refusal([grey(0, 255)], table(WHITE, BLACK), config("binary"))
    assert "#000000 is id 1 and #FFFFFF is id 0" in message
    assert 'mask_format = "colours"' in message


@pytest.mark.parametrize(
    "facts",
    [[grey(0, 1, 2, 3)], [grey(0, 1, 255)], [grey(0, 255), grey(0, 7)], [coloured(0, 0x010101, WHITE)]],
)
def test_binary_by_request_refuses_more_than_one_value_besides_0(facts: list[MaskFacts]) -> None:
    message = refusal(facts, table(None, None), config("binary"))
    assert "hold one value besides 0" in message
    assert "masks/a.png" in message
    assert 'mask_format = "ids"' in message


def test_one_bit_counts_as_whatever_the_other_masks_hold() -> None:
    facts = [grey(0, 1, kind=Kind.BITS), grey(0, 255)]
    assert settled(facts, table(None, None), config("binary")).reading is Reading.BINARY


def test_another_value_anywhere_makes_255_no_label_again() -> None:
    assert settled([grey(0, 255), grey(0, 1, 255)], table(None, None)).reading is Reading.IDS


def test_bits_among_numbers_are_not_guessed() -> None:
    message = refusal([grey(0, 1, kind=Kind.BITS), grey(0, 1, 2)], table(None, None, None))
    assert "masks/a.png" in message
    assert "masks/b.png" in message


def test_binary_by_request_takes_any_value_and_refuses_colours() -> None:
    assert settled([grey(0, 3)], table(None, None), config("binary")).reading is Reading.BINARY
    assert "hold more than black and white" in refusal([coloured(RED, BLACK)], table(None, None), config("binary"))


# --- colours


@pytest.mark.parametrize("kind", [Kind.RGB, Kind.RGBA, Kind.ARRAY_COLOURS])
def test_colours_of_the_table_are_read_by_colour_also_from_palettes_among_them(kind: Kind) -> None:
    found = settled([coloured(RED, GREEN, kind=kind), palette(i0=GREEN, i1=RED)], table(RED, GREEN))
    assert found.reading is Reading.COLOURS
    assert "read by colour" in found.statement


def test_grey_among_colours_is_not_guessed_and_both_groups_are_named() -> None:
    message = refusal([coloured(RED, GREEN), grey(0, 1)], table(RED, GREEN))
    assert "1 8-bit grey, such as masks/b.png" in message
    assert "1 RGB, such as masks/a.png" in message
    assert 'mask_format = "colours"' in message
    asked = settled([coloured(RED, GREEN), grey(0)], table(RED, GREEN, BLACK), config("colours"))
    assert asked.reading is Reading.COLOURS


def test_three_equal_channels_of_ids_are_not_guessed() -> None:
    facts = [coloured(0x000000, 0x010101, 0x020202)]
    assert 'mask_format = "ids"' in refusal(facts, table(RED, GREEN, BLUE))
    assert settled(facts, table(RED, GREEN, BLUE), config("ids")).reading is Reading.IDS
    assert settled(facts, table(0x000000, 0x010101, 0x020202)).reading is Reading.COLOURS


def test_five_percent_of_unknown_colours_are_an_accident_and_more_a_wrong_table() -> None:
    facts = MaskFacts(Kind.RGB, (1, 1000), colours={RED: 500, GREEN: 450, BLUE: 50}, distinct=3)
    assert settled([facts], table(RED, GREEN)).reading is Reading.COLOURS
    facts = MaskFacts(Kind.RGB, (1, 1000), colours={RED: 500, GREEN: 449, BLUE: 51}, distinct=3)
    message = refusal([facts], table(RED, GREEN, WHITE))
    assert "5.10 % of the mask pixels" in message
    assert "of its 3 colours 2 occur" in message
    assert "In no mask: #FFFFFF class 2" in message
    assert '0 = { name = "class 0", colour = "#FF0000" }' in message
    assert '2 = { name = "", colour = "#0000FF" }' in message
    assert settled([facts], table(RED, GREEN), config(ignore=["#0000FF"])).reading is Reading.COLOURS


def test_a_table_of_which_one_colour_occurs_is_the_table_of_other_masks() -> None:
    facts = MaskFacts(Kind.RGB, (1, 1000), colours={RED: 990, BLUE: 10}, distinct=2)
    assert "only #FF0000 class 0 occurs" in refusal([facts], table(RED, GREEN))
    assert "none occurs" in refusal([coloured(BLUE, WHITE, 0x111111)], table(RED, GREEN))
    assert "the class table gives none" in refusal([coloured(BLUE, RED)], table(None, None))


def test_the_lines_to_paste_are_a_class_table(tmp_path: Path) -> None:
    from segwatch.data.classes import load_class_table

    odd = ClassTable(Path("t"), (ClassEntry(0, 'a "quoted\\" name', (255, 0, 0)), ClassEntry(1, "b", (0, 255, 0))))
    (error,) = settled([coloured(RED, BLUE, WHITE, BLACK)], odd).errors
    (tmp_path / "classes.toml").write_text("\n".join(error.lines))
    pasted = load_class_table(tmp_path / "classes.toml")
    assert pasted.colours == {(255, 0, 0): 0, (0, 0, 0): 1, (0, 0, 255): 2, (255, 255, 255): 3}
    assert pasted.entries[0].name == 'a "quoted\\" name'


def test_smoothed_edges_do_not_flood_the_lines_to_paste() -> None:
    edges = dict.fromkeys(range(300, 4200), 1)
    facts = MaskFacts(Kind.RGB, (1, 200_000), colours={RED: 100_000, GREEN: 90_000, **edges}, distinct=3902)
    (error,) = settled([facts], table(BLUE, WHITE)).errors
    assert len(error.lines) < 8
    assert "3900 more colours" in error.lines[-1]
    assert "5.00 %" in error.lines[-1]


def test_two_classes_of_one_colour_are_refused_only_where_colours_matter() -> None:
    message = refusal([coloured(RED, GREEN)], table(RED, GREEN, RED))
    assert "the ids [0, 2] have the same one: #FF0000" in message
    assert settled([grey(0, 1, 2)], table(RED, GREEN, RED)).reading is Reading.IDS


@pytest.mark.parametrize(
    ("settings", "clash"),
    [
        ({}, True),
        ({"merge": {1: [1, 2]}}, False),
        ({"merge": {2: [1, 2]}}, False),
        ({"ignore": [1, 2]}, False),
        ({"ignore": ["#FF0000"]}, False),
        ({"ignore": [2]}, True),
        ({"merge": {1: [1, 3]}}, True),
        ({"use": [0, 3]}, False),
        ({"use": [0, 1, 3]}, True),
    ],
)
def test_classes_of_one_colour_are_refused_where_they_become_different_classes(
    settings: dict[str, object], clash: bool
) -> None:
    said = config("colours").model_copy(update=settings)
    found = settled([coloured(RED, GREEN, BLUE)], table(GREEN, RED, RED, BLUE), said)
    if clash:
        (problem,) = found.errors
        assert "the ids [1, 2] have the same one: #FF0000" in problem.what
        assert "data.merge" in problem.remedy
        assert "data.ignore" in problem.remedy
    else:
        assert found.reading is Reading.COLOURS


def test_16_bit_masks_are_no_colours() -> None:
    assert "above 255" in refusal([grey(0, 300, kind=Kind.WIDE_IDS)], table(RED, GREEN), config("colours"))


def test_16_bit_files_are_no_colours_whatever_they_hold() -> None:
    """They would be refused by the reader, after the audit had said that all is well."""
    for settings in (config("colours"), config()):
        assert "16 bits" in refusal([grey(0, 255, kind=Kind.WIDE_IDS)], table(WHITE, BLACK), settings)


def test_a_table_without_ids_is_said_to_be_numbered_by_place() -> None:
    assert "numbered by their place" in settled([coloured(RED, GREEN)], table(RED, GREEN, numbered=True)).statement


# --- palettes


def test_palettes_in_the_colours_of_the_table_are_read_by_colour() -> None:
    assert settled([palette(i0=RED, i1=GREEN)], table(RED, GREEN)).reading is Reading.COLOURS


def test_palettes_whose_indices_are_ids_of_other_classes_than_their_colours_are_told() -> None:
    classes = table(BLACK, RED, GREEN)
    turned = palette(i0=BLACK, i1=GREEN, i2=RED)
    told = (
        "index 1 is that of 1 (class 1), and has the colour of 2 (class 2); "
        "index 2 is that of 2 (class 2), and has the colour of 1 (class 1); they are read by "
    )
    for settings, reading, how in (
        (config(), Reading.COLOURS, "colour"),
        (config("ids"), Reading.IDS, "index, as mask_format says"),
    ):
        found = settled([turned, turned], classes, settings)
        assert found.reading is reading
        (warning,) = found.warnings
        assert warning.what.endswith(told + how)
        assert 'mask_format = "ids" or "colours"' in warning.remedy
    assert not settled([turned], classes, config("colours")).warnings, "somebody has said it"
    assert not settled([palette(i0=BLACK, i1=RED)], classes).warnings
    assert not settled([palette(i0=BLACK, i1=RED)], classes, config("ids")).warnings
    assert not settled([palette(i0=BLACK, i7=RED)], classes).warnings, "7 is no id"
    meaningless = palette(i0=0x101010, i1=0x202020)
    assert not settled([meaningless], classes, config("ids")).warnings


def test_palettes_that_agree_are_ids_where_the_table_gives_no_colours() -> None:
    found = settled([palette(i0=RED, i1=GREEN), palette(i1=GREEN, i2=BLUE)], table(None, None, None))
    assert found.reading is Reading.IDS
    assert "the index is the id" in found.statement


def test_palettes_that_agree_but_have_other_colours_than_the_table_are_not_guessed() -> None:
    facts = [palette(i0=RED, i1=GREEN)]
    assert 'mask_format = "ids"' in refusal(facts, table(BLUE, WHITE))
    assert settled(facts, table(BLUE, WHITE), config("ids")).reading is Reading.IDS


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (palette(i0=GREEN, i1=RED), "index 0 is #FF0000 in masks/a.png and #00FF00 in masks/b.png"),
        (palette(i2=GREEN), "#00FF00 is index 1 in masks/a.png and 2 in masks/b.png"),
    ],
)
@pytest.mark.parametrize("classes", [table(None, None, None), table(BLUE, WHITE, BLACK)])
def test_palettes_of_another_order_are_never_read_as_index(other: MaskFacts, told: str, classes: ClassTable) -> None:
    facts = [palette(i0=RED, i1=GREEN), other]
    found = settled(facts, classes)
    assert found.reading is None
    assert told in found.statement
    assert "plausible nonsense" in found.statement
    message = refusal(facts, classes, config("ids"))
    assert told in message
    assert "plausible nonsense" in message
    assert settled(facts, table(RED, GREEN)).reading is Reading.COLOURS


def test_ids_by_request_are_refused_for_colours_and_for_palettes_at_once() -> None:
    facts = [coloured(RED, GREEN), palette(i0=RED, i1=GREEN), palette(i0=GREEN, i1=RED)]
    message = refusal(facts, table(RED, GREEN), config("ids"))
    assert "1 masks hold colours: masks/a.png" in message
    assert "index 0 is #FF0000 in masks/b.png and #00FF00 in masks/c.png" in message


def test_one_colour_twice_in_one_palette_is_no_difference_between_files() -> None:
    assert settled([palette(i0=RED, i1=RED), palette(i0=RED, i1=RED)], table(None, None)).reading is Reading.IDS


# --- counting


def test_pixels_are_counted_as_they_will_be_read() -> None:
    assert count(grey(0, 3, 255), Reading.IDS, {}).ids == {0: 100, 3: 100, 255: 100}
    assert count(grey(0, 3, 255), Reading.BINARY, {}).ids == {0: 100, 1: 200}
    assert count(palette(i0=RED, i4=BLUE), Reading.IDS, {}).ids == {0: 100, 4: 100}
    assert count(palette(i0=RED, i4=TRANSPARENT), Reading.IDS, {}).ids == {0: 100, 255: 100}
    assert count(palette(i0=WHITE, i1=BLACK), Reading.BINARY, {}).ids == {1: 100, 0: 100}
    assert count(coloured(0x070707, TRANSPARENT), Reading.IDS, {}).ids == {7: 100, 255: 100}
    clear = MaskFacts(Kind.GREY_ALPHA, (1, 150), values={255: 100}, clear=50)
    assert count(clear, Reading.BINARY, {}).ids == {1: 100, 255: 50}
    assert count(clear, Reading.COLOURS, {WHITE: 4}).ids == {4: 100}
    assert count(clear, Reading.COLOURS, {WHITE: 4}).transparent == 50


@given(st.dictionaries(st.integers(0, TRANSPARENT), st.integers(1, 1000), min_size=1), st.integers(0, 500))
def test_no_pixel_is_lost_or_counted_twice(colours: dict[int, int], beyond: int) -> None:
    facts = MaskFacts(Kind.RGBA, (1, sum(colours.values()) + beyond), colours=colours, distinct=len(colours))
    known = {colour: colour % 5 for colour in list(colours)[::2] if colour != TRANSPARENT}
    found = count(facts, Reading.COLOURS, known)
    assert found.rest == beyond
    assert found.ids.total() + found.unknown.total() + found.transparent + found.rest == facts.pixels
    assert found.transparent == colours.get(TRANSPARENT, 0)


def test_no_mask_at_all_settles_nothing_and_is_no_error_of_its_own() -> None:
    assert settle([], table(RED, GREEN), config()) == Format(None, "no mask has been read")
