"""The ladder of remedies and its budgets, as a table and as laws that hold for any sequence of endings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from segwatch.daemon.config import RecoveryConfig
from segwatch.daemon.events import Outcome
from segwatch.daemon.policy import Complete, Ending, GiveUp, Past, Restart, Settings, decide, remedy_of, streak
from segwatch.trainer.config import Amp
from segwatch.trainer.contract import Cause

CONFIG = RecoveryConfig()
NUMERIC = (Cause.NAN_LOSS, Cause.INF_GRADIENTS, Cause.NAN_WEIGHTS, Cause.AMP_UNSTABLE)
DIED = {
    Outcome.KILLED: Cause.WORKER_CRASHED,
    Outcome.CRASHED: Cause.WORKER_CRASHED,
    Outcome.HUNG: Cause.WORKER_HUNG,
    Outcome.REMEDY_FAILED: Cause.WORKER_CRASHED,
}
SETTINGS = Settings(lr=1e-3, amp=Amp.OFF, batch_size=4, accumulate=1)


def ending(
    outcome: Outcome = Outcome.UNSTABLE, cause: Cause | None = Cause.NAN_LOSS, *, progress: bool | None = False, **more
) -> Ending:
    facts = {"message": "as it was", "epoch_under_way": 3, "stepped": True, "ever_stepped": True, **more}
    return Ending(outcome=outcome, cause=cause, progress=progress, **facts)


def walk(settings: Settings, endings: Sequence[Ending], config: RecoveryConfig = CONFIG) -> list:
    """The decisions that follow each other when every remedy is carried out; ends where the run does."""
    decisions, past = [], []
    for entry in endings:
        decision = decide(settings, past, entry, config)
        decisions.append(decision)
        if not isinstance(decision, Restart):
            break
        past.append(Past(entry.cause, decision.remedy, entry.progress))
        settings = decision.settings
    return decisions


def remedies(decisions: list) -> list[str]:
    return [entry.remedy if isinstance(entry, Restart) else type(entry).__name__ for entry in decisions]


# --- the ladder ----------------------------------------------------------------------------------------------------


def test_an_attempt_that_trained_its_last_epoch_completes_the_run_whatever_came_before():
    past = [Past(Cause.NAN_LOSS, "lower-lr", False)] * 20
    assert decide(SETTINGS, past, ending(Outcome.FINISHED, None), CONFIG) == Complete()


@pytest.mark.parametrize("cause", NUMERIC)
@pytest.mark.parametrize("amp", [Amp.FP16, Amp.BF16])
def test_first_divergence_under_amp_turns_amp_off_and_keeps_lr(amp, cause):
    decision = decide(replace(SETTINGS, amp=amp), [], ending(cause=cause), CONFIG)
    assert decision.settings == SETTINGS
    assert (decision.remedy, decision.resume, decision.delay_seconds) == ("amp-off", "verified-good", 0.0)
    assert f"AMP {amp} -> off" in decision.because


def test_fp16_falls_back_to_bf16_first_where_configured_and_bf16_then_to_off():
    config = RecoveryConfig(amp_first="bf16")
    first, second, third, *_ = walk(replace(SETTINGS, amp=Amp.FP16), [ending()] * 4, config)
    assert (first.settings.amp, second.settings.amp, third.settings.amp) == (Amp.BF16, Amp.OFF, Amp.OFF)
    assert [entry.settings.lr for entry in (first, second, third)] == [1e-3, 1e-3, 5e-4]


@pytest.mark.parametrize("cause", NUMERIC)
def test_without_amp_the_lr_is_halved_twice_and_then_segwatch_gives_up(cause):
    decisions = walk(SETTINGS, [ending(cause=cause)] * 4)
    assert remedies(decisions) == ["lower-lr", "lower-lr", "GiveUp"]
    assert [entry.settings.lr for entry in decisions[:2]] == [5e-4, 2.5e-4]
    assert {entry.resume for entry in decisions[:2]} == {"verified-good"}
    assert decisions[-1].exit_code == 1


def test_with_amp_there_are_three_remedies_amp_off_then_lr_twice():
    decisions = walk(replace(SETTINGS, amp=Amp.FP16), [ending()] * 6)
    assert remedies(decisions) == ["amp-off", "lower-lr", "lower-lr", "GiveUp"]


def test_the_factor_of_the_lr_is_the_configured_one():
    assert decide(SETTINGS, [], ending(), RecoveryConfig(lr_factor=0.1)).settings.lr == pytest.approx(1e-4)


def test_a_nan_that_shows_itself_in_another_place_is_the_same_trouble():
    causes = [Cause.NAN_LOSS, Cause.NAN_WEIGHTS, Cause.INF_GRADIENTS]
    assert remedies(walk(SETTINGS, [ending(cause=cause) for cause in causes])) == ["lower-lr", "lower-lr", "GiveUp"]
    under_amp = walk(replace(SETTINGS, amp=Amp.FP16), [ending(cause=cause) for cause in (*causes, Cause.AMP_UNSTABLE)])
    assert remedies(under_amp) == ["amp-off", "lower-lr", "lower-lr", "GiveUp"]


@pytest.mark.parametrize("outcome", DIED)
def test_what_merely_died_is_resumed_from_the_latest_state_with_nothing_changed(outcome):
    decision = decide(SETTINGS, [], ending(outcome, DIED[outcome]), CONFIG)
    assert (decision.settings, decision.resume, decision.remedy) == (SETTINGS, "latest", "resume")


def test_a_permanent_failure_gives_up_at_once_with_78_and_the_reason():
    decision = decide(SETTINGS, [], ending(Outcome.PERMANENT, None, message="no module named x"), CONFIG)
    assert decision == GiveUp("trying again cannot help: no module named x", exit_code=78)


def test_a_crash_before_any_first_step_gives_up_at_once():
    decision = decide(
        SETTINGS, [], ending(Outcome.CRASHED, Cause.WORKER_CRASHED, stepped=False, ever_stepped=False), CONFIG
    )
    assert isinstance(decision, GiveUp)
    assert decision.exit_code == 1
    assert "as it was" in decision.reason


def test_a_crash_before_the_first_step_is_resumed_when_an_earlier_attempt_stepped():
    crashed = ending(Outcome.CRASHED, Cause.WORKER_CRASHED, stepped=False, ever_stepped=True)
    assert remedies(walk(SETTINGS, [crashed])) == ["resume"]


@pytest.mark.parametrize("outcome", [Outcome.KILLED, Outcome.HUNG])
def test_a_worker_killed_before_its_first_step_is_resumed_for_that_says_nothing_about_the_code(outcome):
    gone = ending(outcome, DIED[outcome], stepped=False, ever_stepped=False)
    assert remedies(walk(SETTINGS, [gone])) == ["resume"]


# --- out of memory -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((4, 1), (2, 2)),
        ((8, 2), (4, 4)),
        ((2, 3), (1, 6)),
        ((6, 1), (3, 2)),
        ((9, 1), (3, 3)),  # 4 does not divide 9
        ((15, 1), (5, 3)),
        ((7, 1), (1, 7)),  # a prime has no smaller piece but one
        ((13, 1), (1, 13)),
        ((7, 2), (2, 7)),
        ((1024, 1), (512, 2)),
    ],
)
def test_out_of_memory_makes_the_micro_batch_at_most_half_and_keeps_the_effective_batch(before, after):
    settings = replace(SETTINGS, batch_size=before[0], accumulate=before[1])
    decision = decide(settings, [], ending(Outcome.OUT_OF_MEMORY, Cause.OUT_OF_MEMORY), CONFIG)
    assert (decision.settings.batch_size, decision.settings.accumulate) == after
    assert (decision.remedy, decision.resume, decision.settings.lr) == ("micro-batch", "latest", SETTINGS.lr)


def test_out_of_memory_at_batch_1_changes_nothing_says_so_and_ends_with_the_budget():
    out_of_memory = ending(Outcome.OUT_OF_MEMORY, Cause.OUT_OF_MEMORY)
    decisions = walk(replace(SETTINGS, batch_size=1, accumulate=8), [out_of_memory] * 9)
    assert remedies(decisions) == ["resume", "resume", "resume", "GiveUp"]
    assert decisions[0].settings == replace(SETTINGS, batch_size=1, accumulate=8)
    assert "nothing left to halve" in decisions[0].because
    assert [entry.delay_seconds for entry in decisions[:3]] == [5, 10, 20], "whoever has the memory may let go of it"


# --- back-off ------------------------------------------------------------------------------------------------------


def test_the_first_resume_is_at_once_and_then_the_back_off_doubles_from_5_seconds_to_the_cap_of_5_minutes():
    config = RecoveryConfig(same_cause=9, whole_run=9)
    decisions = walk(SETTINGS, [ending(Outcome.KILLED, Cause.WORKER_CRASHED)] * 9, config)
    assert [entry.delay_seconds for entry in decisions] == [0, 5, 10, 20, 40, 80, 160, 300, 300]
    assert "nothing changed, at once" in decisions[0].because
    assert "nothing changed, after 5 s" in decisions[1].because


def test_the_back_off_stays_at_its_cap_however_often_a_worker_dies():
    config = RecoveryConfig(same_cause=5000, whole_run=5000)
    past = [Past(Cause.WORKER_CRASHED, "resume", False)] * 4999
    assert decide(SETTINGS, past, ending(Outcome.KILLED, Cause.WORKER_CRASHED), config).delay_seconds == 300


def test_a_remedy_that_changed_settings_adds_nothing_to_the_back_off():
    past = [Past(Cause.NAN_LOSS, "lower-lr", False), Past(Cause.WORKER_CRASHED, "resume", False)]
    assert decide(SETTINGS, past, ending(Outcome.KILLED, Cause.WORKER_CRASHED), CONFIG).delay_seconds == 5


def test_progress_sets_the_back_off_to_its_beginning():
    past = [Past(Cause.WORKER_CRASHED, "resume", False)] * 2
    killed = ending(Outcome.KILLED, Cause.WORKER_CRASHED, progress=True)
    assert decide(SETTINGS, past, killed, CONFIG).delay_seconds == 0


# --- budgets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("same_cause", [0, 1, 3, 5])
def test_one_cause_is_tried_as_often_as_its_budget_says(same_cause):
    config = RecoveryConfig(same_cause=same_cause, whole_run=100)
    decisions = walk(SETTINGS, [ending(Outcome.KILLED, Cause.WORKER_CRASHED)] * 9, config)
    assert remedies(decisions) == ["resume"] * same_cause + ["GiveUp"]
    assert "recovery.same_cause" in decisions[-1].reason


@pytest.mark.parametrize("whole_run", [0, 1, 8])
def test_the_whole_run_is_restarted_as_often_as_its_budget_says_even_with_progress(whole_run):
    config = RecoveryConfig(whole_run=whole_run)
    decisions = walk(SETTINGS, [ending(Outcome.KILLED, Cause.WORKER_CRASHED, progress=True)] * 20, config)
    assert remedies(decisions) == ["resume"] * whole_run + ["GiveUp"]
    assert "recovery.whole_run" in decisions[-1].reason


def test_budgets_run_side_by_side_each_cause_with_its_own():
    killed, hung = ending(Outcome.KILLED, Cause.WORKER_CRASHED), ending(Outcome.HUNG, Cause.WORKER_HUNG)
    decisions = walk(SETTINGS, [killed, hung, killed, hung, killed, hung, killed])
    assert remedies(decisions) == ["resume"] * 6 + ["GiveUp"]


def test_progress_resets_the_streak_so_that_the_ladder_begins_anew():
    decisions = walk(SETTINGS, [ending(), ending(), ending(progress=True), ending(), ending()])
    assert remedies(decisions) == ["lower-lr", "lower-lr", "lower-lr", "lower-lr", "GiveUp"]


def test_unknown_progress_costs_nothing():
    unknown = ending(progress=None)
    assert remedies(walk(SETTINGS, [unknown] * 9)) == ["lower-lr"] * 8 + ["GiveUp"]
    assert streak([Past(Cause.NAN_LOSS, "lower-lr", False)], unknown) == []


def test_unknown_progress_in_between_neither_counts_nor_forgets_what_was_before():
    past = [Past(Cause.NAN_LOSS, "lower-lr", False), Past(Cause.NAN_LOSS, "lower-lr", None)]
    assert streak(past, ending(progress=False)) == [past[1]]
    assert streak([*past, Past(Cause.NAN_LOSS, "lower-lr", False)], ending(progress=None)) == [past[1]]


def test_that_cuts_brought_no_good_epoch_is_not_said_while_one_between_may_be_good():
    """Where the evaluator is far behind, the epochs of an attempt that died have no scores yet."""
    cuts = [Past(Cause.NAN_LOSS, "lower-lr", False)] * 2
    assert isinstance(decide(SETTINGS, cuts, ending(), CONFIG), GiveUp)
    unscored = Past(Cause.WORKER_CRASHED, "resume", None)
    assert remedies([decide(SETTINGS, [*cuts, unscored], ending(), CONFIG)]) == ["lower-lr"]
    nothing = replace(unscored, progress=False)
    assert isinstance(decide(SETTINGS, [*cuts, nothing], ending(), CONFIG), GiveUp)


def test_a_remedy_that_this_release_does_not_know_is_refused_and_none_stays_none():
    assert remedy_of(None) is None
    assert remedy_of("bf16") == "bf16"
    with pytest.raises(ValueError, match="'pray' is no remedy"):
        remedy_of("pray")


# --- laws ----------------------------------------------------------------------------------------------------------

all_settings = st.builds(
    Settings,
    lr=st.floats(1e-7, 1.0),
    amp=st.sampled_from(Amp),
    batch_size=st.integers(1, 97),
    accumulate=st.integers(1, 9),
)
all_configs = st.builds(
    RecoveryConfig,
    amp_first=st.sampled_from(["off", "bf16"]),
    same_cause=st.integers(0, 5),
    whole_run=st.integers(0, 12),
    lr_factor=st.floats(0.05, 0.95),
)


def endings(progress: st.SearchStrategy[bool | None]) -> st.SearchStrategy[Ending]:
    what = [(Outcome.UNSTABLE, cause) for cause in NUMERIC]
    what += [(Outcome.OUT_OF_MEMORY, Cause.OUT_OF_MEMORY), *DIED.items()]
    return st.builds(
        lambda how, progress, stepped: ending(*how, progress=progress, stepped=stepped),
        st.sampled_from(what),
        progress,
        st.booleans(),
    )


any_ending = endings(st.sampled_from([True, False, None]))


@examples(max_examples=50)
@given(all_settings, st.lists(any_ending, max_size=15), all_configs)
def test_no_remedy_changes_the_effective_batch_raises_lr_or_turns_amp_on(settings, sequence, config):
    before = settings
    for decision in walk(settings, sequence, config):
        if isinstance(decision, Restart):
            after = decision.settings
            assert after.batch_size * after.accumulate == settings.batch_size * settings.accumulate
            assert 0 < after.lr <= before.lr
            assert 1 <= after.batch_size <= before.batch_size
            assert [Amp.FP16, Amp.BF16, Amp.OFF].index(after.amp) >= [Amp.FP16, Amp.BF16, Amp.OFF].index(before.amp)
            before = after


@examples(max_examples=50)
@given(all_settings, st.lists(any_ending, max_size=15), all_configs)
def test_a_remedy_changes_one_thing_at_a_time(settings, sequence, config):
    for decision in walk(settings, sequence, config):
        if isinstance(decision, Restart):
            after = decision.settings
            changed = [
                after.lr != settings.lr,
                after.amp is not settings.amp,
                (after.batch_size, after.accumulate) != (settings.batch_size, settings.accumulate),
            ]
            assert sum(changed) == (decision.remedy != "resume")
            settings = after


@examples(max_examples=50)
@given(all_settings, st.lists(endings(st.just(False)), min_size=40, max_size=40), all_configs)
def test_any_sequence_of_endings_without_progress_gives_up_within_both_budgets(settings, sequence, config):
    decisions = walk(settings, sequence, config)
    restarts = [entry for entry in decisions if isinstance(entry, Restart)]
    roots = 4  # numeric, out of memory, crashed, hung
    assert isinstance(decisions[-1], GiveUp)
    assert len(restarts) <= min(config.whole_run, roots * config.same_cause)


@examples(max_examples=50)
@given(all_settings, st.lists(any_ending, max_size=15), all_configs)
def test_the_same_facts_give_the_same_decisions(settings, sequence, config):
    assert walk(settings, sequence, config) == walk(settings, sequence, config)


@examples(max_examples=50)
@given(all_settings, st.lists(any_ending, min_size=1, max_size=15), all_configs)
def test_every_decision_says_why_in_one_line(settings, sequence, config):
    for decision in walk(settings, sequence, config):
        words = decision.because if isinstance(decision, Restart) else decision.reason
        assert words.strip()
        assert "\n" not in words
        if isinstance(decision, Restart):
            assert 0 <= decision.delay_seconds <= config.backoff_limit_seconds
