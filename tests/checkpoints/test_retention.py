"""What retention may never remove, for every history; and what it does remove, for a few."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segwatch.checkpoints.manifest import Architecture, Manifest, Role, StoredFile
from segwatch.checkpoints.retention import Key, Stored, plan


def stored(epoch: int, judged: str, *, attempt: int = 1, state: bool = True) -> Stored:
    """`judged` is good, bad or waiting."""
    name = f"checkpoint_epoch{epoch}"
    return Stored(
        attempt=attempt,
        epoch=epoch,
        weights=f"{name}.pth",
        state=f"{name}.state.pth" if state else None,
        manifest=f"{name}.json",
        evaluated=judged != "waiting",
        verified_good=judged == "good",
    )


def epochs(*judged: str) -> list[Stored]:
    return [stored(epoch, word) for epoch, word in enumerate(judged, start=1)]


Situation = tuple[list[Stored], dict[str, Key | None]]


@st.composite
def histories(draw: st.DrawFn) -> list[Stored]:
    """Epochs of one live line: attempts never go back, and the list comes in any order."""
    words = draw(st.lists(st.sampled_from(["good", "bad", "waiting"]), max_size=12))
    attempts = sorted(draw(st.lists(st.integers(1, 4), min_size=len(words), max_size=len(words))))
    line = [
        stored(epoch, word, attempt=attempt, state=draw(st.booleans()))
        for epoch, (word, attempt) in enumerate(zip(words, attempts, strict=True), start=1)
    ]
    return draw(st.permutations(line))


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    """A history, and the keyword arguments that name epochs of it."""
    history = draw(histories())
    keys = st.none() | st.sampled_from([entry.key for entry in history]) if history else st.none()
    return history, {"best_by_val": draw(keys), "best_by_test": draw(keys)}


limits = st.none() | st.integers(1, 5)


def newest_good(history: list[Stored]) -> list[Stored]:
    return sorted((entry for entry in history if entry.verified_good), key=lambda entry: entry.key)[-2:]


@given(situations(), limits)
def test_the_newest_two_verified_good_are_never_touched(situation: Situation, keep: int | None) -> None:
    history, best = situation
    removed = plan(history, keep_epochs=keep, **best)
    for entry in newest_good(history):
        assert not {entry.weights, entry.state, entry.manifest} & set(removed)


@given(situations(), limits)
def test_what_is_not_yet_evaluated_keeps_its_weights_and_manifest(situation: Situation, keep: int | None) -> None:
    history, best = situation
    removed = plan(history, keep_epochs=keep, **best)
    for entry in history:
        if not entry.evaluated:
            assert not {entry.weights, entry.manifest} & set(removed)


@given(situations(), limits)
def test_best_by_val_and_best_by_test_keep_their_weights_and_manifest(situation: Situation, keep: int | None) -> None:
    history, best = situation
    removed = plan(history, keep_epochs=keep, **best)
    for entry in history:
        if entry.key in best.values():
            assert not {entry.weights, entry.manifest} & set(removed)


@given(situations(), limits)
def test_what_a_worker_is_about_to_resume_from_is_never_touched(situation: Situation, keep: int | None) -> None:
    history, named = situation
    resumed = named["best_by_val"]
    removed = plan(history, keep_epochs=keep, in_use=() if resumed is None else (resumed,))
    for entry in history:
        if entry.key == resumed:
            assert not {entry.weights, entry.state, entry.manifest} & set(removed)


@given(situations())
def test_without_a_limit_only_training_state_goes(situation: Situation) -> None:
    history, best = situation
    removed = plan(history, **best)
    assert set(removed) <= {entry.state for entry in history}


@given(histories(), limits)
def test_state_stays_for_the_newest_two_good_and_for_newer_ones_that_are_not_judged_and_for_nothing_else(
    history: list[Stored], keep: int | None
) -> None:
    removed = set(plan(history, keep_epochs=keep))
    good = newest_good(history)
    for entry in history:
        behind_two_good = len(good) == 2 and entry.key < good[0].key
        resumable = entry in good or (not entry.evaluated and not behind_two_good)
        if entry.state is not None:
            assert (entry.state in removed) is not resumable


@given(histories(), st.integers(1, 5))
def test_the_newest_epochs_up_to_the_limit_keep_their_weights(history: list[Stored], keep: int) -> None:
    removed = plan(history, keep_epochs=keep)
    for entry in sorted(history, key=lambda entry: entry.key)[-keep:]:
        assert entry.weights not in removed


@given(situations(), limits)
def test_a_manifest_goes_right_before_its_weights_and_after_every_state(situation: Situation, keep: int | None) -> None:
    history, best = situation
    removed = plan(history, keep_epochs=keep, **best)
    assert len(set(removed)) == len(removed)
    for entry in history:
        assert (entry.weights in removed) == (entry.manifest in removed)
        if entry.weights in removed:
            assert removed.index(entry.weights) == removed.index(entry.manifest) + 1
            assert entry.state is None or removed.index(entry.state) < removed.index(entry.manifest)


@given(histories(), limits)
def test_a_second_plan_after_the_first_was_carried_out_removes_nothing(history: list[Stored], keep: int | None) -> None:
    removed = plan(history, keep_epochs=keep)
    left = [
        replace(entry, state=None if entry.state in removed else entry.state)
        for entry in history
        if entry.manifest not in removed
    ]
    assert plan(left, keep_epochs=keep) == ()


@pytest.mark.parametrize(
    ("history", "keep", "removed"),
    [
        ([], 1, ()),
        (epochs("good", "good"), None, ()),
        (epochs("good", "good", "good"), None, ("checkpoint_epoch1.state.pth",)),
        (epochs("good", "good", "bad", "waiting"), None, ("checkpoint_epoch3.state.pth",)),
        (
            epochs("good", "good", "good"),
            1,
            ("checkpoint_epoch1.state.pth", "checkpoint_epoch1.json", "checkpoint_epoch1.pth"),
        ),
    ],
)
def test_what_goes(history: list[Stored], keep: int | None, removed: tuple[str, ...]) -> None:
    assert plan(history, keep_epochs=keep) == removed


def test_epochs_are_compared_as_numbers() -> None:
    history = [stored(epoch, "good") for epoch in (2, 9, 10, 11)]
    assert plan(history) == ("checkpoint_epoch2.state.pth", "checkpoint_epoch9.state.pth")


def test_nothing_is_good_before_it_is_evaluated() -> None:
    with pytest.raises(AssertionError, match="before it is evaluated"):
        replace(stored(1, "waiting"), verified_good=True)


def test_a_manifest_tells_which_files_there_are() -> None:
    manifest = Manifest(
        role=Role.EPOCH,
        attempt=2,
        epoch=7,
        step=70,
        step_in_epoch=0,
        weights=StoredFile(name="checkpoint_epoch7.pth", sha256="0", size=1),
        state=StoredFile(name="checkpoint_epoch7.state.pth", sha256="0", size=1),
        finite=True,
        class_ids=(0, 1),
        class_names=("a", "b"),
        architecture=Architecture(base_channels=2, classes=2),
        config_hash="0",
        created="2026-01-01T00:00:00+00:00",
    )
    entry = Stored.of(manifest, evaluated=True, verified_good=True)
    assert entry == stored(7, "good", attempt=2)
    assert Stored.of(manifest, evaluated=True, verified_good=True, has_state=False).state is None
