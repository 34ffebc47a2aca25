"""PURE: which files of the committed epochs may go. The caller removes: knows nothing about disks. No torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from .manifest import Manifest, Role

Key = tuple[int, int]
"""(attempt, epoch): which checkpoint, and in this order also which is newer."""

VERIFIED_GOOD_KEPT = 2
"""So many to roll back to: the newest may already carry what is about to go wrong."""


@dataclass(frozen=True)
class Stored:
    """A committed epoch of the live line; what a roll-back moved to superseded/ is not part of it."""

    attempt: int
    epoch: int
    weights: str
    """File name, beside the manifest."""
    state: str | None
    """File name of the training state; `None` where there is none any more."""
    manifest: str
    evaluated: bool
    """Every split was scored, or the reason why not was recorded: it is judged."""
    verified_good: bool
    """Judged and found good: hash matches, all finite, evaluated without collapse."""

    def __post_init__(self) -> None:
        assert self.evaluated or not self.verified_good, "nothing is good before it is evaluated"

    @property
    def key(self) -> Key:
        return self.attempt, self.epoch

    @classmethod
    def of(cls, manifest: Manifest, *, evaluated: bool, verified_good: bool, has_state: bool = True) -> Stored:
        """`has_state` is False once the state file was removed: the manifest goes on naming it."""
        assert manifest.role is Role.EPOCH
        return cls(
            attempt=manifest.attempt,
            epoch=manifest.epoch,
            weights=manifest.weights.name,
            state=manifest.state.name if manifest.state and has_state else None,
            manifest=f"{manifest.stem}.json",
            evaluated=evaluated,
            verified_good=verified_good,
        )


def plan(
    committed: Sequence[Stored],
    *,
    keep_epochs: int | None = None,
    best_by_val: Key | None = None,
    best_by_test: Key | None = None,
    in_use: Collection[Key] = (),
) -> tuple[str, ...]:
    """The files to remove, in the order to remove them; removing only some of them leaves nothing broken.

    Training state goes first and by itself: it is needed only where a worker may resume. Weights go only where
    `keep_epochs` is set, each after its manifest, so that a checkpoint is uncommitted before it is taken apart.
    `in_use` are epochs that a worker is about to resume from.
    """
    in_order = sorted(committed, key=lambda stored: stored.key)
    resumable = _may_be_resumed(in_order) | set(in_use)
    states = [stored.state for stored in in_order if stored.state is not None and stored.key not in resumable]
    if keep_epochs is None:
        return tuple(states)
    newest = {stored.key for stored in in_order[max(0, len(in_order) - keep_epochs) :]}
    best = {key for key in (best_by_val, best_by_test) if key is not None}
    kept = newest | best | set(in_use) | _not_judged(in_order) | set(_newest_good(in_order))
    gone = [stored for stored in in_order if stored.key not in kept]
    return (*states, *(name for stored in gone for name in _in_order_of_removal(stored)))


def _may_be_resumed(in_order: Sequence[Stored]) -> set[Key]:
    """The newest verified good, and what may yet become one of them."""
    good = _newest_good(in_order)
    oldest_good = min(good) if len(good) == VERIFIED_GOOD_KEPT else None
    return set(good) | {key for key in _not_judged(in_order) if oldest_good is None or key > oldest_good}


def _newest_good(in_order: Sequence[Stored]) -> list[Key]:
    return [stored.key for stored in in_order if stored.verified_good][-VERIFIED_GOOD_KEPT:]


def _not_judged(in_order: Sequence[Stored]) -> set[Key]:
    return {stored.key for stored in in_order if not stored.evaluated}


def _in_order_of_removal(stored: Stored) -> Iterator[str]:
    yield stored.manifest
    yield stored.weights
