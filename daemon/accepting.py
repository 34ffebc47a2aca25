"""`segwatch run --accept-data`: a run goes on with its files as they are now, and begins a new series of scores.

Knows what may be taken over and how it is frozen; which scores compare is up to `series`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..data.audit import AuditReport
from ..data.config import SPLITS
from ..data.frozen import Change, FrozenFile, counted, differences, fingerprint, read_frozen
from ..data.resolved import ResolvedData
from ..errors import ConfigError
from .config import RunConfig
from .events import AcceptedSplit, DataAccepted
from .freezing import freeze_again, frozen_data
from .history import History
from .recording import Recorder
from .rundir import FILES, RunDir

NAMED = 50
"""Files of a split that the fact names; `files.jsonl` has what each holds now."""
MOVED_NAMED = 5
_ANOTHER_RUN = "put it back, or begin another run on the data as it is, with --name"


@dataclass(frozen=True)
class Accepted:
    """The data as the audit found it now, and what became of the files since the run began."""

    data: ResolvedData
    files: tuple[FrozenFile, ...]
    splits: tuple[AcceptedSplit, ...]


def compare_with_frozen(run: RunDir, history: History, report: AuditReport, data: ResolvedData) -> Accepted | None:
    """What there is to accept; `None` where every file holds what it held.

    Raises ConfigError where the data is no continuation of this run: other classes, or images that changed sides.
    """
    known = frozen_data(run)
    _require_same_classes(run, known, data)
    _require_same_sides(run, known, data)
    if not (run.path / FILES).exists():
        return Accepted(data, report.files, _unknown(history, data, report.files))
    files = read_frozen(run.path / FILES)
    changes = differences(files, report.files)
    splits = tuple(
        AcceptedSplit(
            split=split,
            before=fingerprint(known, split, files),
            after=fingerprint(data, split, report.files),
            count=counted(split, found),
            files=tuple(f"{change.file.path}: {change.what}" for change in found[:NAMED]),
        )
        for split, found in _by_split(changes).items()
    )
    return Accepted(data, report.files, splits) if splits else None


def record_accepted(run: RunDir, recorder: Recorder, *, config: RunConfig, accepted: Accepted) -> None:
    """The fact first, then the files: whoever dies in between finds the files refused, and accepts them again.

    What was recorded already is not recorded again.
    """
    series = recorder.history.series
    if any(series.now(told.split) != told.after for told in accepted.splits):
        recorder.record(DataAccepted(splits=accepted.splits))
    freeze_again(run, config, accepted.data, accepted.files)


def _by_split(changes: Sequence[Change]) -> Mapping[str, list[Change]]:
    found = {split: [change for change in changes if change.file.split == split] for split in SPLITS}
    return {split: of_split for split, of_split in found.items() if of_split}


def _unknown(history: History, data: ResolvedData, files: Sequence[FrozenFile]) -> tuple[AcceptedSplit, ...]:
    """An older release began the run and froze no file: any of them may have changed."""
    return tuple(
        AcceptedSplit(
            split=split,
            before=history.series.now(split) or "",
            after=fingerprint(data, split, files),
            count=f"which files of {split} changed is not known: an older release began this run",
        )
        for split in SPLITS
    )


def _require_same_classes(run: RunDir, known: ResolvedData, data: ResolvedData) -> None:
    before, after = ([(entry.id, entry.name) for entry in one.classes] for one in (known, data))
    if before != after:
        told = ["; ".join(f"{number} {name}" for number, name in classes) for classes in (before, after)]
        raise ConfigError(
            f"the classes are others now, and the network of this run has a channel for each of its own:\n"
            f"    when it began: {told[0]}\n    now: {told[1]}",
            where=run.path,
            remedy=_ANOTHER_RUN,
        )


def _require_same_sides(run: RunDir, known: ResolvedData, data: ResolvedData) -> None:
    """A draw over other files may be another draw: what was trained on must not be scored on."""
    side = {pair.image: split for split, pairs in known.splits.items() for pair in pairs}
    moved = [
        f"    {pair.image}: {side[pair.image]} -> {split}"
        for split, pairs in data.splits.items()
        for pair in pairs
        if side.get(pair.image, split) != split
    ]
    if moved:
        shown = moved[:MOVED_NAMED] + ([f"    and {len(moved) - MOVED_NAMED} more"] if len(moved) > MOVED_NAMED else [])
        raise ConfigError(
            f"{len(moved)} images would change from one split to another, so that scores would be of images that were "
            "trained on:\n" + "\n".join(shown),
            where=run.path,
            remedy=_ANOTHER_RUN,
        )
