from __future__ import annotations

import math

import pytest
import torch
from segwatch.trainer.config import Amp
from segwatch.trainer.contract import Cause
from segwatch.trainer.health import Health, Readback, Reading, Verdict, nan_weights

NAN, INF = math.nan, math.inf


def reading(step: int, *, loss: float = 1.0, grad_norm: float = 0.5, scale: float | None = None) -> Reading:
    return Reading(step, loss, grad_norm, skipped=not math.isfinite(loss + grad_norm), scale=scale)


def verdicts(health: Health, readings: list[Reading]) -> list[Verdict]:
    return [verdict for one in readings if (verdict := health.observe(one)) is not None]


def fp16(grads: str, *, scale: float = 1024.0, first_step: int = 1) -> list[Reading]:
    """A string of steps: `.` fine, `x` skipped."""
    return [
        reading(first_step + at, grad_norm=INF if mark == "x" else 0.5, scale=scale) for at, mark in enumerate(grads)
    ]


@pytest.mark.parametrize("amp", list(Amp))
@pytest.mark.parametrize("loss", [NAN, INF])
def test_a_loss_that_is_not_finite_is_fatal_in_any_precision(amp, loss):
    verdict = Health(amp).observe(reading(7, loss=loss, grad_norm=NAN, scale=65536.0))
    assert verdict is not None
    assert verdict.fatal
    assert verdict.cause is Cause.NAN_LOSS
    assert "step 7" in verdict.message
    assert verdict.evidence["loss"] == str(loss)


@pytest.mark.parametrize("amp", [Amp.OFF, Amp.BF16])
def test_one_inf_gradient_is_told_and_the_third_within_50_steps_is_fatal(amp):
    health = Health(amp)
    found = verdicts(health, [reading(step, grad_norm=INF if step in {1, 30, 50} else 1.0) for step in range(1, 51)])
    assert [verdict.fatal for verdict in found] == [False, False, True]
    assert {verdict.cause for verdict in found} == {Cause.INF_GRADIENTS}
    assert health.skipped_steps == 3


def test_three_inf_gradients_that_lie_further_apart_are_not_fatal():
    found = verdicts(Health(Amp.OFF), [reading(step, grad_norm=INF) for step in (1, 30, 51, 81, 101)])
    assert [verdict.fatal for verdict in found] == [False] * 5


def test_a_new_scaler_may_skip_16_steps_in_a_row():
    health = Health(Amp.FP16)
    scales = [65536.0 / 2**step for step in range(1, 17)]
    assert verdicts(health, [reading(at, grad_norm=INF, scale=scale) for at, scale in enumerate(scales)]) == []
    assert verdicts(health, fp16("." * 60, scale=1.0)) == []
    assert health.skipped_steps == 16


def test_one_skip_per_growth_interval_is_a_scalers_normal_life():
    assert verdicts(Health(Amp.FP16), fp16(("." * 199 + "x") * 20)) == []


def test_eight_skips_in_a_row_after_the_warm_up_are_unstable_and_seven_are_not():
    seven, eight = Health(Amp.FP16), Health(Amp.FP16)
    assert verdicts(seven, fp16("." * 60 + "xxxxxxx.xxxxxxx.")) == []
    (verdict,) = verdicts(eight, fp16("." * 60 + "xxxxxxxx"))
    assert verdict.cause is Cause.AMP_UNSTABLE
    assert verdict.fatal


def test_a_resumed_scaler_gets_no_second_warm_up():
    (verdict,) = verdicts(Health(Amp.FP16, scaler_steps=60), fp16("xxxxxxxx"))
    assert verdict.cause is Cause.AMP_UNSTABLE


def test_a_scale_below_one_is_unstable():
    (verdict,) = verdicts(Health(Amp.FP16), [reading(1, grad_norm=INF, scale=0.5)])
    assert verdict.cause is Cause.AMP_UNSTABLE
    assert "below 1" in verdict.message


@pytest.mark.parametrize(("fall", "count"), [(32.0, 0), (64.0, 1)])
def test_a_fall_of_64_below_the_long_run_median_is_unstable(fall, count):
    health = Health(Amp.FP16)
    assert verdicts(health, fp16("." * 300, scale=4096.0)) == []
    assert len(verdicts(health, [reading(301, grad_norm=INF, scale=4096.0 / fall)])) == count


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("down1.maxpool_conv.1.double_conv.1.running_var", "BatchNorm running statistic down1"),
        ("inc.double_conv.1.running_var < 0", "running variance inc.double_conv.1.running_var and 1 more"),
        ("inc.double_conv.0.weight", "weight inc"),
        ("optimizer.3.exp_avg", "optimizer state optimizer.3.exp_avg"),
    ],
)
def test_nan_weights_names_the_tensor_and_what_it_is(name, words):
    verdict = nan_weights(40, [name, "another"], when="at a routine check")
    assert words in verdict.message
    assert verdict.fatal
    assert verdict.evidence["nonfinite_tensors"] == 2


def test_figures_on_the_cpu_are_read_back_at_once_and_in_order():
    readback: Readback[str] = Readback(torch.device("cpu"))
    readback.put(torch.tensor([1.0, 2.0]), "first")
    readback.put(torch.tensor([NAN, 4.0]), "second")
    (first, (one, two)), (second, (three, four)) = readback.take()
    assert (first, one, two) == ("first", 1.0, 2.0)
    assert second == "second"
    assert math.isnan(three)
    assert four == 4.0
    assert list(readback.take(wait=True)) == []


# --- a loss that rises and stays -----------------------------------------------------------------------------------


def risen(level: float, *, usual: int = 300, high: int = 100) -> list[Reading]:
    """A loss around 1 for `usual` steps, then `level`."""
    wave = [1 + 0.1 * math.sin(step) for step in range(usual + high)]
    return [reading(at, loss=one * (level if at > usual else 1)) for at, one in enumerate(wave, start=1)]


@pytest.mark.parametrize("amp", [Amp.OFF, Amp.BF16])
def test_a_loss_that_stays_high_is_fatal_with_its_numbers_and_since_when(amp):
    verdict = verdicts(Health(amp), risen(5.0))[0]
    assert (verdict.cause, verdict.fatal) == (Cause.LOSS_SPIKE, True)
    assert verdict.evidence["onset_step"] == 301
    assert verdict.evidence["usual_loss"] == pytest.approx(1.0, abs=0.05)
    assert verdict.evidence["z"] > 8
    assert {"usual_mad", "loss_level", "high_from"} <= verdict.evidence.keys()
    assert "since step 301" in verdict.message


def test_a_loss_that_is_high_for_a_while_is_counted_and_shown_and_no_trouble():
    health = Health(Amp.OFF)
    assert verdicts(health, risen(5.0, high=40)) == []
    assert (health.signs.loss_spikes, health.signs.loss_high_since) == (40, 301)
    assert verdicts(health, [reading(step) for step in range(341, 400)]) == []
    assert (health.signs.loss_spikes, health.signs.loss_high_since) == (40, None)


def test_norms_that_grow_are_shown_with_their_onset_and_are_evidence_but_no_trouble():
    health = Health(Amp.OFF)
    calm = [reading(step, grad_norm=0.5 + 0.01 * (step % 7)) for step in range(1, 301)]
    grown = [reading(step, grad_norm=5.0) for step in range(301, 500)]
    assert verdicts(health, calm + grown[:60]) == []
    assert health.signs.grad_norm_high_since == 301
    (verdict,) = verdicts(health, [reading(361, loss=NAN)])
    assert verdict.evidence["grad_norm_high_since"] == 301
    assert "loss_high_since" not in verdict.evidence
    assert verdicts(health, grown[61:]) == []


def test_losses_of_the_attempt_before_let_a_spike_that_comes_back_be_found_at_once():
    first = Health(Amp.OFF)
    for one in risen(1.0, high=0):
        first.observe(one)
    again = Health(Amp.OFF, usual_losses=first.losses.known())
    verdict = verdicts(again, [reading(step, loss=5.0) for step in range(301, 350)])[0]
    assert verdict.evidence["onset_step"] == 301
