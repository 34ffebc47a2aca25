"""PURE: which class each channel of a foreign network is, and whether the data agrees. No torch, no file.

The widespread UNet code sorts the values that occur in its masks and trains the rank as the class: `mask_values[i]` is
what channel i means. A set or an order that differs from the data's would score every class as another one. Of its
own checkpoints segwatch knows the classes from the manifest beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..checkpoints.manifest import Manifest
from ..data.config import NO_LABEL
from ..data.resolved import Reading, ResolvedClass, ResolvedData
from .inspection import UnfitError, printable

MASK_VALUES = "mask_values"
Value = int | tuple[int, ...]
"""An id, or a colour as (red, green, blue)."""
VALUES_LIMIT = 1 << 16
SHOWN = 40
UNCHECKED = "it has no mask_values, so the order of its classes could not be checked"


def refuse_other_classes(mask_values: Any, classes: int, data: ResolvedData, own: Manifest | None = None) -> list[str]:
    """Raises UnfitError unless channel i is class i of `data`; returns what could not be checked, in words.

    `mask_values` is as the file has it, `None` where it has none; `classes` is how many channels the network has;
    `own` is the manifest that segwatch wrote of this very file.
    """
    if own is not None:
        _refuse_other_manifest(own, data)
    if mask_values is None:
        if classes != len(data.classes):
            raise UnfitError(
                f"has {classes} channels, one per class, and no mask_values; this data has {len(data.classes)} "
                f"classes: {_expected(data)}. {_fitting(classes, data)}"
            )
        return [] if own is not None else [UNCHECKED]
    values = _read(mask_values)
    if len(values) != classes:
        raise UnfitError(f"has {classes} classes, but {len(values)} mask_values: {_shown(values)}")
    values = [_alike(value, data.reading) for value in values]
    if len(values) == len(data.classes) and all(
        _is(value, entry, data.reading) for value, entry in zip(values, data.classes, strict=True)
    ):
        return []
    raise UnfitError(
        f"was trained on other classes: its channels are the mask values {_shown(values)}, the classes of this data "
        f"are {_expected(data)}. {_remedy(values, data)}"
    )


def _refuse_other_manifest(own: Manifest, data: ResolvedData) -> None:
    """Names count too: masks that were numbered anew have the same ids for other things."""
    if (own.class_ids, own.class_names) == (data.class_ids, data.class_names):
        return
    theirs, ours = (
        _list([f"{id_} {printable(name, 40)}".rstrip() for id_, name in zip(ids, names, strict=False)])
        for ids, names in ((own.class_ids, own.class_names), (data.class_ids, data.class_names))
    )
    if own.class_ids == data.class_ids:
        remedy = "Give them the same names in the class table, where they are the same classes"
    elif {*own.class_ids} <= {*(data.table_ids or own.class_ids)}:
        remedy = f"Set data.use = {[*own.class_ids]} to score it on its own classes, if they are the same here"
    else:
        remedy = "Score it on the class table and the masks that it was trained with"
    raise UnfitError(
        f"was trained on other classes: its manifest says {theirs}, the classes of this data are {ours}. {remedy}"
    )


def _fitting(classes: int, data: ResolvedData) -> str:
    """Which `data.use` would have as many classes, in words."""
    for ids, what in ((data.table_ids, "the whole class table"), (data.named_ids, "all that have a name there")):
        if len(ids) == classes:
            return f"Set data.use = {[*ids]}, {what}, if those are its channels in ascending id"
    known = f"; the class table has {len(data.table_ids)}: {[*data.table_ids]}" if data.table_ids else ""
    return f"It takes a data.use of {classes} ids, those of its channels in ascending order{known}"


def _read(found: Any) -> list[Value]:
    """Integers or colours, whatever they are wrapped in. Nothing of it is printed before it has passed here."""
    entries = found.tolist() if hasattr(found, "tolist") and found.numel() <= 4 * VALUES_LIMIT else found
    if not isinstance(entries, list | tuple) or not 0 < len(entries) <= VALUES_LIMIT:
        raise UnfitError(f"has mask_values that are no list of ids or colours, but {type(found).__name__}")
    values: list[Value] = []
    for entry in entries:
        parts = entry.tolist() if hasattr(entry, "tolist") and entry.numel() <= 4 else entry
        colour = isinstance(parts, list | tuple)
        whole = [_whole(part) for part in parts] if colour and len(parts) in {3, 4} else [_whole(parts)]
        values.append(tuple(whole) if colour else whole[0])
    return values


def _whole(part: Any) -> int:
    if isinstance(part, bool | int | float) and 0 <= part < VALUES_LIMIT and part == int(part):
        return int(part)
    raise UnfitError(f"has mask_values that are no ids or colours: one is a {type(part).__name__} no mask can hold")


def _alike(value: Value, reading: Reading) -> Value:
    """A grey colour among ids is that id; an opaque colour is that colour."""
    if isinstance(value, int):
        return value
    colour = value[:3] if value[3:] in {(), (255,)} else value
    return colour[0] if reading is not Reading.COLOURS and len({*colour}) == 1 else colour


def _is(value: Value, entry: ResolvedClass, reading: Reading) -> bool:
    match reading:
        case Reading.IDS:
            return value in entry.values
        case Reading.BINARY:
            return isinstance(value, int) and int(value != 0) == entry.id
        case Reading.COLOURS:
            return value in entry.colours


def _expected(data: ResolvedData) -> str:
    match data.reading:
        case Reading.IDS:
            return _list([" or ".join(map(str, entry.values)) for entry in data.classes])
        case Reading.BINARY:
            return "[0, 255]"
        case Reading.COLOURS:
            return _list([" or ".join(map(_hex, entry.colours)) for entry in data.classes])


def _shown(values: Sequence[Value]) -> str:
    return _list([str(value) if isinstance(value, int) else _hex(value) for value in values])


def _list(words: Sequence[str]) -> str:
    more = f", and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return f"[{', '.join(words[:SHOWN])}{more}]"


def _hex(colour: Sequence[int]) -> str:
    return "#" + "".join(f"{part:02X}" for part in colour)


def _remedy_of_binary(values: Sequence[Value]) -> str:
    if len(values) == 2 and 0 in values:
        return (
            "These are the same two the other way round, and black-and-white masks are always 0 first: no setting "
            "turns its channels"
        )
    return "The masks of this data are black and white, two classes, and its masks were not"


def _remedy(values: Sequence[Value], data: ResolvedData) -> str:
    if data.reading is Reading.BINARY:
        return _remedy_of_binary(values)
    ids = [value for value in values if isinstance(value, int)]
    expected = {value for entry in data.classes for value in (entry.values if ids else entry.colours)}
    if data.reading is Reading.COLOURS and ids:
        return "It was trained on ids or palette indices, and the masks of this data are read as colours"
    if data.reading is not Reading.COLOURS and len(ids) < len(values):
        return "It was trained on masks of colours, and the masks of this data are read as ids"
    if len(values) == len(data.classes) and set(values) <= expected:
        order = "which data.use cannot change: classes are always in ascending id"
        return f"They are the same in another order, {order}. Number them in the class table as its channels are"
    if data.reading is Reading.COLOURS:
        return "Give the class table these colours, with ids in this order, and name the ids in data.use"
    if ids == [0, NO_LABEL]:
        return 'It was trained on black-and-white masks: set data.mask_format = "binary" where these are the same'
    if NO_LABEL in ids:
        return "255 means no label here and is no class: it cannot be compared with a network that learnt it as one"
    if ids != sorted(ids):
        return "Classes are always in ascending id: number them in the class table as its channels are"
    merged = " and take data.merge out" if any(len(entry.values) > 1 for entry in data.classes) else ""
    return f"Set data.use = {ids}{merged} to score it on its own classes, where the class table has them"
