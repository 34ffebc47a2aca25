"""Which alerts hold while a remedy is on probation, and what the findings of replays add to them."""

from __future__ import annotations

import pytest
from segwatch.daemon.alert import Alert
from segwatch.daemon.config import AlertsConfig
from segwatch.daemon.events import AttemptStarted, Diagnosed, ProbationEnded
from segwatch.daemon.rules import current_alerts
from segwatch.trainer.contract import Cause

CONFIG = AlertsConfig()
STALL = AlertsConfig(patience=6, min_delta=0.01)


def holding(run, config: AlertsConfig = CONFIG) -> dict[str, Alert]:
    """By code; of several incidents of one cause the last."""
    return {alert.code: alert for alert in current_alerts(run.history, config)}


def firing(run, config: AlertsConfig = CONFIG) -> set[str]:
    return {code for code, alert in holding(run, config).items() if not (alert.pending or alert.inhibited)}


@pytest.fixture
def run(a_run):
    run = a_run()
    run.begins()
    return run


def test_numbers_that_went_wrong_are_told_until_their_remedy_has_proved_itself(run):
    run.trains(1, 0.5)
    run.suffers(Cause.NAN_LOSS)
    run.plans(incident=1, remedy="lower-lr")
    run.trains(2, 0.5)
    assert firing(run) == {"nan-loss"}
    run.tell(ProbationEnded(attempt=2, incident=1, passed=True, because="as told"))
    assert holding(run) == {}


def test_a_remedy_on_probation_hides_no_trend_for_training_runs_again(run):
    for epoch in range(1, 8):
        run.trains(epoch, 0.5)
    run.suffers(Cause.NAN_LOSS)
    run.plans(incident=1, remedy="lower-lr")
    assert firing(run, STALL) == {"nan-loss"}
    run.trains(8, 0.5)
    assert firing(run, STALL) == {"nan-loss", "miou-stall"}


def transient(run, *steps: int, device: str = "cpu") -> None:
    run.tell(AttemptStarted(attempt=run.attempt, lr=1e-3, amp="off", device=device, parameters=1, steps_per_epoch=4))
    for number, step in enumerate(steps, start=1):
        run.suffers(Cause.NAN_LOSS, step=step)
        run.tell(Diagnosed(incident=number, finding="transient", because="finite", seconds=1.0))
        run.plans(incident=number, remedy="resume")
        run.tell(
            AttemptStarted(attempt=run.attempt, lr=1e-3, amp="off", device=device, parameters=1, steps_per_epoch=4)
        )


@pytest.mark.parametrize(
    ("device", "first", "second", "told"),
    [
        ("cpu", 100, 100, True),
        ("cpu", 6, 11, False),  # another step of another epoch, where an epoch has four
        ("cuda:0", 100, 108, True),
        ("cuda:0", 100, 109, False),
        ("cuda:0", 108, 100, True),
    ],
)
def test_the_second_transient_in_one_place_points_at_the_device(run, device, first, second, told):
    """On the CPU a place is a step; a GPU's figures arrive up to eight steps late."""
    transient(run, first, second, device=device)
    alerts = holding(run)
    assert ("device-suspect" in alerts) == told
    if told:
        assert f"step {first}" in alerts["device-suspect"].cause
        assert "Xid" in alerts["device-suspect"].advice


def test_the_alert_says_what_the_device_made_of_a_task_whose_answer_is_known(run):
    transient(run, 100)
    run.suffers(Cause.NAN_LOSS, step=100)
    told = {"finding": "transient", "because": "finite", "device_check": "cuda:0: 3 of 8 matrix products are wrong"}
    run.tell(Diagnosed(incident=2, **told))
    assert holding(run)["device-suspect"].evidence["device_check"] == told["device_check"]


def test_scores_that_fell_in_the_same_epoch_fell_in_one_place_whenever_that_was_seen(run):
    for number, step in ((1, 140), (2, 161)):
        run.suffers(Cause.MIOU_COLLAPSE, step=step, onset_step=120)
        run.tell(Diagnosed(incident=number, finding="transient", because="it does not fall", seconds=1.0))
        run.plans(incident=number, remedy="resume")
    assert "device-suspect" in holding(run)


def test_one_transient_or_two_of_which_one_could_be_repeated_say_nothing_of_the_device(run):
    transient(run, 100)
    assert firing(run) == {"nan-loss"}
    run.suffers(Cause.NAN_LOSS, step=101)
    run.tell(Diagnosed(incident=2, finding="learning-rate", because="it grew", seconds=1.0))
    assert "device-suspect" not in holding(run)


def test_the_device_is_no_suspect_any_more_once_its_incident_is_over(run):
    transient(run, 100, 100)
    run.tell(ProbationEnded(attempt=3, incident=2, passed=True, because="as told"))
    assert "device-suspect" not in holding(run)


def test_of_an_entry_that_only_the_cache_has_wrong_nobody_is_asked_to_mend_the_file(run):
    run.suffers(Cause.NAN_LOSS)
    run.tell(Diagnosed(incident=1, finding="data", because="mask value 137", decode_again=("tile_3.png",)))
    advice = holding(run)["nan-loss"].advice
    assert "The files are sound: tile_3.png" in advice
    assert "Mend the files" not in advice


def test_an_incident_of_the_data_names_the_files_and_where_they_are_shown(run):
    run.suffers(Cause.NAN_LOSS)
    run.tell(Diagnosed(incident=1, finding="data", because="mask value 137", files=("tile_3.png",), seconds=1.0))
    alert = holding(run)["nan-loss"]
    assert "tile_3.png" in alert.advice
    assert "incidents/001/" in alert.advice
    assert "mask value 137" in alert.action  # until it is answered
