"""Which classes a run trains, and of which ids each is made: `use`, `merge` and `ignore` against what masks hold.

PURE: a class table and sets of ids in, classes and problems out. Knows nothing about files, pixels or tensors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from ..errors import ConfigError
from .classes import ClassTable, Colour, as_hex, parse_colour, require_ids
from .config import NO_LABEL, DataConfig
from .problems import Problem
from .resolved import IGNORE_INDEX, Reading

HOW_TO_SHARE = "or join them with data.merge, or leave all of them out with data.ignore"
NOBODY_SAID = f"{NO_LABEL} says that nobody has said what is there, and is no class"


@dataclass(frozen=True)
class UsedClass:
    """A class that is trained and scored."""

    id: int
    name: str
    """Never empty: `class_7` for an id that has no name and is listed in `data.use`."""
    colour: Colour
    """What it is drawn with."""
    ids: tuple[int, ...]
    """Every id that was joined into it, its own among them, ascending."""
    colours: tuple[Colour, ...]
    """The given colours of these ids: what its pixels hold where masks are read by colour."""


@dataclass(frozen=True)
class Selection:
    classes: tuple[UsedClass, ...] = ()
    """In ascending id, which is the order of the training indices; empty where there are errors."""
    ignored_ids: frozenset[int] = frozenset()
    """Left out on purpose by `data.ignore`: no warning need speak of them."""
    ignored_colours: frozenset[Colour] = frozenset()
    """Likewise; of these the class table has none."""
    errors: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()

    @property
    def ids(self) -> tuple[int, ...]:
        """Of the used classes, ascending."""
        return tuple(entry.id for entry in self.classes)

    @property
    def members(self) -> dict[int, int]:
        """Every id that is used -> the class that its pixels belong to."""
        return {member: entry.id for entry in self.classes for member in entry.ids}


def select_classes(
    config: DataConfig,
    table: ClassTable,
    reading: Reading,
    present: Mapping[str, Collection[int]],
    *,
    unlisted_colours: Collection[Colour] = (),
) -> Selection:
    """Settle the classes, or say everything that is wrong with `use`, `merge` and `ignore` at once.

    `present` holds, by split, the ids that its masks hold; masks that are read by colour hold the ids of the table's
    entries whose colour occurs. Without train in it nothing is to be learned: what is present is what the other masks
    hold, and `use` may list ids that no mask holds. `unlisted_colours` are those that occur and that the table does not
    have. A table without ids under a reading of ids, and two classes of one colour under a reading of colours, are
    errors too.
    """
    if reading is not Reading.COLOURS:
        try:
            require_ids(table)
        except ConfigError as error:
            return Selection(errors=(Problem.of(error, "class-ids"),))
    return _Selector(config, table, reading, present, unlisted_colours).select()


def clashing_colours(config: DataConfig, table: ClassTable) -> dict[Colour, tuple[int, ...]]:
    """Colours that several ids of the table share and that become different classes: masks cannot tell these apart.

    Ids that `data.merge` joins, or that are all ignored, may well share one.
    """
    target_of = _targets(config)
    ignored = _ignored(config, table)
    listed = None if config.use == "named-and-present" else config.use

    def outcome(class_id: int) -> int | None:
        target = target_of.get(class_id, class_id)
        entry = table.get(target)
        used = entry is not None and bool(entry.name) if listed is None else target in listed
        return target if used and class_id not in ignored else None

    shared = table.ambiguous_colours.items()
    return {colour: ids for colour, ids in shared if len({outcome(class_id) for class_id in ids}) > 1}


def _targets(config: DataConfig) -> dict[int, int]:
    """Id that `data.merge` joins into another -> where to."""
    found: dict[int, int] = {}
    for target, members in config.merge.items():
        for member in members:
            if member != target:
                found.setdefault(member, target)
    return found


def _ignored(config: DataConfig, table: ClassTable) -> frozenset[int]:
    """Ids that `data.ignore` lists, or whose colour it lists."""
    colours = {_colour(entry) for entry in config.ignore if isinstance(entry, str)}
    by_colour = {entry.id for entry in table.entries if entry.colour_given and entry.colour in colours}
    return frozenset({entry for entry in config.ignore if isinstance(entry, int)} | by_colour)


class _Selector:
    """The facts of one selection, so that the rules below need not pass them on."""

    def __init__(
        self,
        config: DataConfig,
        table: ClassTable,
        reading: Reading,
        present: Mapping[str, Collection[int]],
        unlisted_colours: Collection[Colour],
    ) -> None:
        self._config = config
        self._table = table
        self._by_colour = reading is Reading.COLOURS
        self._trains = "train" in present
        self._train = frozenset(present["train"] if self._trains else (i for ids in present.values() for i in ids))
        self._anywhere = frozenset(class_id for ids in present.values() for class_id in ids)
        self._unlisted_colours = frozenset(unlisted_colours)
        self._listed = None if config.use == "named-and-present" else config.use
        colours = frozenset(_colour(entry) for entry in config.ignore if isinstance(entry, str))
        known = table.colours if self._by_colour else {}
        self._ignored_ids = (
            _ignored(config, table)
            if self._by_colour
            else frozenset(entry for entry in config.ignore if isinstance(entry, int))
        )
        self._ignored_colours = frozenset(colour for colour in colours if colour not in known)
        self._target_of = _targets(config)
        """Id that was merged away -> where to."""

    def select(self) -> Selection:
        wrong = [*self._judge_colours(), *self._judge_merge(), *self._judge_ignore(), *self._judge_use()]
        used = self._used()
        if not wrong:
            wrong += self._judge_number(used)
        return Selection(
            classes=() if wrong else tuple(self._built(class_id) for class_id in used),
            ignored_ids=self._ignored_ids,
            ignored_colours=self._ignored_colours,
            errors=tuple(wrong),
            warnings=tuple(self._remarks()),
        )

    # --- what the words say

    def _used(self) -> list[int]:
        return sorted(set(self._listed)) if self._listed is not None else self._would_work(self._table.named_ids)

    def _would_work(self, ids: Iterable[int]) -> list[int]:
        """Those of `ids` that can be trained."""
        return [
            class_id
            for class_id in ids
            if class_id not in self._ignored_ids
            and class_id not in self._target_of
            and not self._train.isdisjoint(self._members(class_id))
        ]

    def _members(self, class_id: int) -> tuple[int, ...]:
        joined = (member for member, target in self._target_of.items() if target == class_id)
        return tuple(sorted({class_id, *joined}))

    def _built(self, class_id: int) -> UsedClass:
        entry = self._table.get(class_id)
        assert entry is not None  # _judge_use refuses an id that the table does not have
        members = self._members(class_id)
        found = (self._table.get(member) for member in members)
        colours = (member.colour for member in found if member is not None and member.colour_given)
        return UsedClass(
            id=class_id,
            name=entry.name or f"class_{class_id}",  # listed by hand: it needs something to be called by
            colour=entry.colour,
            ids=members,
            colours=tuple(dict.fromkeys(colours)),
        )

    # --- what is wrong with them

    def _judge_colours(self) -> Iterator[Problem]:
        for colour, ids in clashing_colours(self._config, self._table).items() if self._by_colour else ():
            called = ", ".join(f"{class_id} ({self._called(class_id)})" for class_id in ids)
            yield Problem(
                code="ambiguous-colours",
                what=f"the masks are read by colour, and {as_hex(colour)} is the colour of several classes: {called}",
                where=str(self._table.path),
                remedy=f"give each class its own colour, as the masks have it; {HOW_TO_SHARE}",
            )

    def _judge_merge(self) -> Iterator[Problem]:
        merge = self._config.merge
        for target, members in merge.items():
            yield from self._judge_target(target)
            for member, times in Counter(members).items():
                if times > 1:
                    yield _merging(f"lists id {member} {times} times for class {target}", "list each id once")
                yield from self._judge_member(member, target)
        targets = Counter(member for target, members in merge.items() for member in {*members} - {target})
        for member, times in targets.items():
            if times > 1:
                into = [target for target, members in merge.items() if member in members]
                yield _merging(
                    f"joins id {member} into several classes: {into}", "a pixel belongs to one class: keep one"
                )

    def _judge_target(self, target: int) -> Iterator[Problem]:
        entry = self._table.get(target)
        if target == NO_LABEL:
            yield _merging(f"joins ids into {target}, but {NOBODY_SAID}", "to leave ids out, list them in data.ignore")
        elif entry is None:
            yield _merging(
                f"joins ids into {target}, which the class table does not have",
                f"add id {target} to the table, or join into one that it has: {list(self._table.named_ids)}",
                where=str(self._table.path),
            )
        elif not entry.name and target not in (self._listed or ()):
            yield _merging(
                f"joins ids into {target}, which has no name in the class table",
                f"name id {target} there, or list it in data.use",
                where=str(self._table.path),
            )
        if target in self._target_of:
            yield _merging(
                f"joins ids into {target}, and {target} into {self._target_of[target]}",
                f"join all of them into {self._target_of[target]}",
            )

    def _judge_member(self, member: int, target: int) -> Iterator[Problem]:
        if member == target:
            return
        if member == NO_LABEL:
            yield _merging(
                f"joins {member} into class {target}, but {NOBODY_SAID}", f"take {member} out of the list of {target}"
            )
        elif member not in self._table.ids and (self._by_colour or member not in self._anywhere):
            held = "" if self._by_colour else " and no mask holds"
            yield _merging(
                f"joins id {member} into class {target}, an id that the class table does not have{held}",
                f"add id {member} to the table, or take it out of the list of {target}",
                where=str(self._table.path),
            )

    def _judge_ignore(self) -> Iterator[Problem]:
        joined = {*self._target_of, *self._config.merge}
        for class_id in sorted(self._ignored_ids):
            elsewhere = [
                name for name, ids in (("data.use", self._listed or ()), ("data.merge", joined)) if class_id in ids
            ]
            if elsewhere:
                yield Problem(
                    code="class-ignore",
                    what=f"id {class_id} ({self._called(class_id)}) is in data.ignore and in {' and '.join(elsewhere)}",
                    where="data.ignore",
                    remedy="it is either trained or left out: keep it in one of them",
                )
        colours = [entry for entry in self._config.ignore if isinstance(entry, str)]
        if colours and not self._by_colour:
            yield Problem(
                code="class-ignore",
                what=f"data.ignore lists colours ({', '.join(colours)}), but the masks of this data set hold ids",
                where="data.ignore",
                remedy="list ids there",
            )

    def _judge_use(self) -> Iterator[Problem]:
        for class_id, times in Counter(self._listed or ()).items():
            if times > 1:
                yield _using(f"lists id {class_id} {times} times", "list each id once")
            if class_id == NO_LABEL:
                yield _using(f"lists {class_id}, but {NOBODY_SAID}", f"take {class_id} out of data.use")
            elif class_id not in self._table.ids:
                yield _using(
                    f"lists id {class_id}, which the class table does not have",
                    f"add id {class_id} to the table, or take it out of data.use; {self._these_would_work()}",
                    where=str(self._table.path),
                )
            elif class_id in self._target_of:
                target = self._target_of[class_id]
                yield _using(
                    f"lists id {class_id} ({self._called(class_id)}), which data.merge joins into {target}",
                    f"list {target} instead, or take {class_id} out of data.merge; {self._these_would_work()}",
                )
            elif self._trains and self._train.isdisjoint(self._members(class_id)):
                yield _using(
                    f"lists id {class_id} ({self._called(class_id)}), which no training mask holds",
                    f"take id {class_id} out of data.use: it cannot be learned; {self._these_would_work()}",
                    where=self._training_masks(),
                )

    def _judge_number(self, used: list[int]) -> Iterator[Problem]:
        where, remedy = str(self._table.path), "name at least two ids that the {masks} hold"
        if self._listed is not None:
            where = "data.use"
        elif not self._ignored_ids.isdisjoint(self._train):
            where, remedy = "data.ignore", "leave at least two ids that the {masks} hold out of data.ignore"
        verb, masks = ("train", "training masks") if self._trains else ("score", "masks")
        if len(used) < 2:
            yield Problem(
                code="too-few-classes",
                what=f"no two classes to {verb}, only {used}; the {masks} hold ids {sorted(self._train)}",
                where=where,
                remedy=remedy.format(masks=masks),
            )
        if len(used) > IGNORE_INDEX:
            yield Problem(
                code="too-many-classes",
                what=f"{len(used)} classes to {verb}; {IGNORE_INDEX} is the most",
                where=where,
                remedy="list fewer in data.use, or join some with data.merge",
            )

    # --- what is only remarkable

    def _remarks(self) -> Iterator[Problem]:
        for target in self._config.merge:
            if self._listed is not None and target not in self._listed and self._table.get(target) is not None:
                yield _merging(
                    f"joins {list(self._members(target))} into {target}, which data.use does not list: "
                    "all of them are ignored",
                    f"list {target} in data.use, or take it out of data.merge",
                )
        idle = [i for i in sorted(self._ignored_ids - self._anywhere - {NO_LABEL}) if i not in self._table.ids]
        idle_colours = [
            as_hex(colour) for colour in sorted(self._ignored_colours - self._unlisted_colours) if self._by_colour
        ]
        if idle or idle_colours:
            listed = ", ".join([*map(str, idle), *idle_colours])
            yield Problem(
                code="class-ignore",
                what=f"data.ignore lists {listed}, which neither the class table nor any mask has",
                where="data.ignore",
                remedy="a slip of the pen? Take it out if it is none",
            )

    # --- words

    def _these_would_work(self) -> str:
        return f"these would work: {self._would_work(self._table.ids)}"

    def _called(self, class_id: int) -> str:
        entry = self._table.get(class_id)
        return (entry.name if entry else "") or "unnamed"

    def _training_masks(self) -> str:
        table = self._config.train
        if table is not None and table.masks is not None:
            return f"data.train.masks ({table.masks})"
        return f"data.masks ({self._config.masks})" if self._config.masks is not None else "[data.train]"


def _colour(text: str) -> Colour:
    colour = parse_colour(text)
    assert colour is not None  # DataConfig checks the pattern
    return colour


def _merging(what: str, remedy: str, where: str = "data.merge") -> Problem:
    return Problem(code="class-merge", what=f"data.merge {what}", where=where, remedy=remedy)


def _using(what: str, remedy: str, where: str = "data.use") -> Problem:
    return Problem(code="class-use", what=f"data.use {what}", where=where, remedy=remedy)
