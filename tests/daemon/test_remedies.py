"""What is done about what a replay has found: the cheapest remedy that suffices, and a guess only where it must be."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from segwatch.daemon.config import RecoveryConfig
from segwatch.daemon.events import Diagnosed, Outcome
from segwatch.daemon.policy import Ending, GiveUp, Past, Restart, Settings, decide
from segwatch.trainer.config import Amp
from segwatch.trainer.contract import Cause
from segwatch.trainer.diagnosis import Finding

CONFIG = RecoveryConfig()
SETTINGS = Settings(lr=1e-3, amp=Amp.FP16, batch_size=4, accumulate=1)


def ending(cause: Cause = Cause.NAN_LOSS, outcome: Outcome = Outcome.UNSTABLE, **more: int) -> Ending:
    return Ending(
        outcome=outcome,
        cause=cause,
        message="as it was",
        epoch_under_way=3,
        stepped=True,
        ever_stepped=True,
        progress=False,
        **{"step": 100, **more},
    )


def found(finding: str, **more) -> Diagnosed:
    return Diagnosed(**{"incident": 1, "finding": finding, "because": "the numbers say so.", **more})


def answered(finding: str, *, past=(), amp: Amp = Amp.FP16, end: Ending | None = None, **more):
    return decide(replace(SETTINGS, amp=amp), list(past), end or ending(), CONFIG, found(finding, **more))


def transient(step: int) -> Past:
    return Past(Cause.NAN_LOSS, "resume", progress=True, step=step, finding=Finding.TRANSIENT)


def test_a_transient_is_resumed_from_the_newest_state_with_nothing_changed_and_at_once():
    answer = answered("transient")
    assert (answer.settings, answer.resume, answer.remedy, answer.delay_seconds) == (SETTINGS, "latest", "resume", 0.0)
    assert answer.because == "nan-loss in epoch 3 is transient, it does not come back: resume with nothing changed"


def test_the_second_transient_in_one_place_is_still_resumed_and_says_whom_to_suspect():
    answer = answered("transient", past=[transient(100)])
    assert (answer.remedy, answer.settings) == ("resume", SETTINGS)
    assert "which points at the device" in answer.because


@pytest.mark.parametrize(
    ("steps", "late_steps", "remedy"),
    [
        ((100, 100), 0, "amp-off"),
        ((101, 99), 0, "resume"),
        ((108, 92), 8, "amp-off"),
        ((109, 92), 8, "resume"),
    ],
)
def test_the_third_in_one_place_is_no_accident_and_the_ladder_guesses(steps, late_steps, remedy):
    end = ending(late_steps=late_steps)
    answer = answered("transient", past=[transient(step) for step in steps], end=end)
    assert answer.remedy == remedy
    assert ("this is time 3 in one place; guessed: " in answer.because) == (remedy == "amp-off")


@pytest.mark.parametrize("cause", [Cause.LOSS_SPIKE, Cause.NAN_LOSS])
def test_what_does_not_come_back_is_resumed_from_before_anything_grew(cause):
    answer = answered("transient", end=ending(cause), onset_step=90)
    assert (answer.resume, answer.before_step, answer.remedy) == ("latest", 90, "resume")
    assert answered("transient", end=ending(cause)).before_step is None


@pytest.mark.parametrize(
    ("amp", "bf16_is_finite", "after", "remedy"),
    [
        (Amp.FP16, True, Amp.BF16, "bf16"),
        (Amp.FP16, False, Amp.OFF, "amp-off"),
        (Amp.FP16, None, Amp.OFF, "amp-off"),
        (Amp.BF16, True, Amp.OFF, "amp-off"),
    ],
)
def test_precision_is_answered_by_a_wider_range_and_the_rate_is_kept(amp, bf16_is_finite, after, remedy):
    answer = answered("precision", amp=amp, bf16_is_finite=bf16_is_finite)
    assert (answer.settings, answer.remedy, answer.resume) == (replace(SETTINGS, amp=after), remedy, "latest")


def test_files_that_are_broken_are_left_out_and_nothing_else_is_changed():
    answer = answered("data", files=("a.png", "b.png"))
    assert (answer.settings, answer.remedy, answer.resume) == (SETTINGS, "leave-out", "latest")
    assert answer.leave_out == ("a.png", "b.png")
    assert "a.png, b.png left out from here on" in answer.because


def test_a_crash_on_a_broken_file_is_answered_by_leaving_it_out():
    crash = ending(Cause.WORKER_CRASHED, Outcome.CRASHED)
    assert answered("data", files=("a.png",), end=crash).leave_out == ("a.png",)


def test_a_crash_of_which_nothing_was_found_out_is_resumed_as_ever():
    crash = ending(Cause.WORKER_CRASHED, Outcome.CRASHED)
    for finding in ("transient", "unknown", "learning-rate", "data"):
        answer = answered(finding, end=crash)
        assert (answer.remedy, answer.settings, answer.delay_seconds) == ("resume", SETTINGS, 0.0)
        assert answer.guessed == ("guessed: " in answer.because) == (finding != "transient")


@pytest.mark.parametrize(("onset", "before"), [(70, 70), (None, 100)])
def test_the_rate_is_lowered_from_before_the_onset_and_rises_over_a_warm_up(onset, before):
    answer = answered("learning-rate", onset_step=onset)
    assert (answer.settings, answer.remedy) == (replace(SETTINGS, lr=5e-4), "lower-lr")
    assert (answer.resume, answer.before_step, answer.warm_up_steps) == ("verified-good", before, 50)


def test_out_of_memory_in_the_replay_halves_the_micro_batch():
    assert answered("capacity").remedy == "micro-batch"


@pytest.mark.parametrize(
    ("finding", "amp", "remedy"),
    [
        ("unknown", Amp.FP16, "amp-off"),
        ("unknown", Amp.OFF, "lower-lr"),
        ("data", Amp.OFF, "lower-lr"),
        ("precision", Amp.OFF, "lower-lr"),
    ],
)
def test_where_it_cannot_be_found_out_the_ladder_decides_and_says_that_it_guesses(finding, amp, remedy):
    answer = answered(finding, amp=amp)
    assert (answer.remedy, answer.resume) == (remedy, "verified-good")
    assert "guessed: nan-loss in epoch 3" in answer.because
    assert "(the numbers say so)" in answer.because


def test_without_a_replay_a_remedy_for_numbers_is_a_guess_and_says_so():
    answer = decide(SETTINGS, [], ending(), CONFIG)
    assert answer.guessed
    assert answer.because.startswith("nothing was replayed; guessed: nan-loss in epoch 3")


@pytest.mark.parametrize("outcome", [Outcome.KILLED, Outcome.HUNG, Outcome.CRASHED])
def test_what_merely_died_is_resumed_and_nothing_of_it_is_guessed(outcome):
    answer = decide(SETTINGS, [], ending(Cause.WORKER_CRASHED, outcome), CONFIG)
    assert (answer.remedy, answer.guessed) == ("resume", False)


def test_what_a_finding_asks_for_is_no_guess():
    assert not any(answered(finding, files=("a.png",)).guessed for finding in Finding if finding != "unknown")


@pytest.mark.parametrize("cause", [Cause.LOSS_SPIKE, Cause.MIOU_COLLAPSE])
def test_what_was_finite_all_the_time_lowers_the_rate_and_leaves_precision_alone(cause):
    answer = decide(SETTINGS, [], ending(cause), CONFIG)
    assert (answer.remedy, answer.settings.amp, answer.warm_up_steps) == ("lower-lr", Amp.FP16, 50)


def test_giving_up_says_what_was_not_found_out():
    past = [Past(Cause.NAN_LOSS, "lower-lr", progress=False)] * 2
    answer = answered("unknown", past=past, amp=Amp.OFF)
    assert isinstance(answer, GiveUp)
    assert "could not be found out (the numbers say so)" in answer.reason


def test_a_guess_passes_bf16_over_where_the_replay_says_that_it_would_not_do():
    config = CONFIG.model_copy(update={"amp_first": "bf16"})
    for bf16_is_finite, amp in ((None, Amp.BF16), (False, Amp.OFF)):
        diagnosis = found("unknown", bf16_is_finite=bf16_is_finite)
        answer = decide(SETTINGS, [], ending(), config, diagnosis)
        assert answer.settings.amp is amp


@pytest.mark.parametrize("finding", list(Finding))
def test_budgets_bound_every_finding(finding):
    past = [Past(Cause.NAN_LOSS, "resume", progress=False)] * 3
    assert isinstance(answered(finding, past=past, files=("a.png",)), GiveUp)


@examples(max_examples=100)
@given(
    st.builds(
        found,
        st.sampled_from(list(Finding)),
        bf16_is_finite=st.sampled_from([True, False, None]),
        files=st.lists(st.sampled_from(["a.png", "b.png"]), max_size=2).map(tuple),
    ),
    st.sampled_from(list(Amp)),
    st.lists(st.integers(60, 140), max_size=3),
    st.sampled_from([(Cause.NAN_LOSS, Outcome.UNSTABLE), (Cause.WORKER_CRASHED, Outcome.CRASHED)]),
)
def test_whatever_is_found_one_thing_is_changed_for_one_reason_in_one_line(told, amp, steps, how):
    settings = replace(SETTINGS, amp=amp)
    answer = decide(settings, [transient(step) for step in steps], ending(*how), CONFIG, told)
    assert isinstance(answer, Restart)
    after = answer.settings
    changed = [after.lr != settings.lr, after.amp is not amp, after.batch_size != 4, bool(answer.leave_out)]
    assert sum(changed) == (answer.remedy != "resume")
    assert after.lr <= settings.lr
    assert after.batch_size * after.accumulate == 4
    assert "\n" not in answer.because
