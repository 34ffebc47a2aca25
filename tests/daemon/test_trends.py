"""A plateau in the tail of a schedule, val and test that part, settings that are known for trouble."""

from __future__ import annotations

import pytest
from segwatch.daemon.config import AlertsConfig
from segwatch.daemon.events import RunFinished, Severity
from segwatch.daemon.rules import current_alerts
from segwatch.trainer.config import TrainerConfig
from segwatch.trainer.schedules import rate_share

CONFIG = AlertsConfig(patience=6, min_delta=0.01)


@pytest.fixture
def run(a_run):
    run = a_run()
    run.begins(epochs=100)
    return run


def holding(run, **settings: object):
    trainer = TrainerConfig.model_validate(settings)
    return {alert.code: alert for alert in current_alerts(run.history, CONFIG, trainer=trainer)}


# --- the tail of a schedule ----------------------------------------------------------------------------------------


def plateau(run, until: int) -> None:
    """Flat for the last seven epochs up to this one."""
    run.trains(until - 7, 0.5)
    for number in range(until - 6, until + 1):
        run.trains(number, 0.5)


@pytest.mark.parametrize(
    ("schedule", "epoch", "severity"),
    [
        ("constant", 99, Severity.WARNING),
        ("cosine", 70, Severity.WARNING),
        ("cosine", 71, Severity.INFO),
        ("poly", 83, Severity.WARNING),
        ("poly", 84, Severity.INFO),
    ],
)
def test_a_plateau_below_a_fifth_of_the_rate_is_what_the_schedule_is_for(run, schedule, epoch, severity):
    plateau(run, epoch)
    stall = holding(run, schedule=schedule)["miou-stall"]
    assert (stall.severity, stall.pending) == (severity, False)
    assert ("a plateau is what its tail is for" in stall.cause) == (severity is Severity.INFO)
    share = stall.evidence.get("lr_share")
    assert share is None or share == round(rate_share(epoch / 100, schedule), 4) <= 0.2
    assert ("None is needed" in stall.advice) == (severity is Severity.INFO)


# --- val against test ----------------------------------------------------------------------------------------------


def parts(run, val: float, test: float, epochs: int = 12) -> bool:
    for number in range(1, epochs + 1):
        jitter = 0.001 * (number % 2)
        run.trains(number, test=0.5 + test * number + jitter, val=0.5 + val * number - jitter)
    return "splits-part" in holding(run)


@pytest.mark.parametrize(
    ("val", "test", "told"),
    [
        (0.005, -0.005, True),
        (0.005, 0.005, False),
        (-0.005, -0.005, False),
        (0.005, 0.0, False),
        (0.005, -0.002, False),  # 1.2 points in a patience: less than alerts.best_gap
        (0.001, -0.005, False),  # val hardly rises
    ],
)
def test_val_that_rises_while_test_falls_is_told_with_both_gains(run, val, test, told):
    assert parts(run, val, test) == told


def test_what_parted_is_told_until_one_of_the_two_turns(run):
    assert parts(run, 0.005, -0.005)
    alert = holding(run)["splits-part"]
    assert alert.severity is Severity.INFO
    assert alert.evidence["val_gain"] == pytest.approx(0.03, abs=0.002)
    assert alert.evidence["test_gain"] == pytest.approx(-0.03, abs=0.002)
    for number in range(13, 20):
        run.trains(number, test=0.44 + 0.01 * (number - 12), val=0.56)
    assert "splits-part" not in holding(run)


def test_a_few_epochs_say_nothing_about_where_the_two_go(run):
    assert not parts(run, 0.02, -0.02, epochs=5)


# --- settings that are known for trouble ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "severity", "words"),
    [
        ({"optimizer": "rmsprop", "momentum": 0.999}, Severity.WARNING, "adds up the last 1000 steps"),
        ({"optimizer": "rmsprop", "momentum": 0.99}, Severity.WARNING, "known road to NaN"),
        ({"optimizer": "rmsprop", "momentum": 0.98}, None, ""),
        ({"optimizer": "sgd", "momentum": 0.999}, None, ""),
        ({"optimizer": "adamw", "momentum": 0.999}, None, ""),
    ],
)
def test_rmsprop_with_a_long_momentum_is_warned_about_at_the_start(run, settings, severity, words):
    alert = holding(run, **settings).get("risky-settings")
    assert (alert and alert.severity) == severity
    if alert:
        assert words in alert.cause
        assert "trainer.momentum = 0.9" in alert.action


def test_fp16_is_told_at_the_start_and_over_when_a_remedy_has_turned_it_off(run):
    run.plans(amp="fp16")
    alert = holding(run, amp="fp16")["risky-settings"]
    assert alert.severity is Severity.INFO
    assert "65504" in alert.cause
    assert 'trainer.amp = "bf16"' in alert.action
    run.plans(amp="off")
    assert holding(run, amp="fp16") == {}


def test_both_together_are_one_warning_with_both_reasons(run):
    run.plans(amp="fp16")
    alert = holding(run, amp="fp16", optimizer="rmsprop", momentum=0.999)["risky-settings"]
    assert alert.severity is Severity.WARNING
    assert "momentum" in alert.cause
    assert "65504" in alert.cause


def test_a_run_that_came_through_is_not_warned_about_its_settings_any_more(run):
    run.plans(amp="fp16")
    run.tell(RunFinished(trained=1, unscored=0))
    assert holding(run, amp="fp16") == {}
