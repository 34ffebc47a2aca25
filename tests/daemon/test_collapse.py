"""When scores that fall are told, and when a worker has to go for them: just at each threshold and beside it."""

from __future__ import annotations

import pytest
from segwatch.daemon.config import AlertsConfig
from segwatch.daemon.events import IncidentOpened, Outcome, ProbationEnded
from segwatch.daemon.rules import Rules
from segwatch.trainer.contract import Cause

CONFIG = AlertsConfig()


@pytest.fixture
def run(a_run):
    run = a_run()
    run.begins(names=("field", "road", "pool"))
    return run


def due(run):
    return Rules(CONFIG, rolls_back=True).collapse(run.history)


def alerts(run, *, rolls_back: bool = False) -> dict[str, bool]:
    """Code -> whether it is pending, of what the scores' fall makes."""
    found = Rules(CONFIG, rolls_back=rolls_back).current_alerts(run.history)
    return {alert.code: alert.pending for alert in found if "collapse" in alert.code}


def scores(run, *mious: float, first: int = 1) -> None:
    for number, miou in enumerate(mious, start=first):
        run.trains(number, miou)


# --- the mean ------------------------------------------------------------------------------------------------------


def test_two_scores_far_below_the_best_are_worth_a_roll_back_and_one_is_not(run):
    scores(run, 0.3, 0.4, 0.5, 0.34)
    assert due(run) is None
    scores(run, 0.34, first=5)
    collapse = due(run)
    assert (collapse.name, collapse.since.epoch, collapse.scores) == (None, 4, 2)
    assert "fell from 50.0% (epoch 3) to 34.0%" in collapse.message


@pytest.mark.parametrize(
    ("mious", "why"),
    [
        ((0.3, 0.4, 0.5, 0.36, 0.36), "a fall by less than the share"),
        ((0.3, 0.4, 0.5, 0.3, 0.4, 0.3), "a good one between"),
        ((0.05, 0.1, 0.19, 0.05, 0.05), "training has only begun"),
        ((0.3, 0.5, 0.1, 0.1), "too few scores"),
    ],
)
def test_what_is_no_collapse_or_too_early_costs_no_restart(run, mious, why):
    scores(run, *mious)
    assert due(run) is None, why


@pytest.mark.parametrize(("high", "sure"), [(-0.01, True), (0.0, False), (0.05, False)])
def test_a_fall_within_the_noise_of_the_same_images_is_told_and_costs_no_restart(run, high, sure):
    scores(run, 0.3, 0.4, 0.5, 0.3)
    best = run.history.epochs[1, 3]
    run.trains(5, 0.3, gain=run.over(best, -0.2, -0.5, high))
    assert (due(run) is not None) == sure
    assert alerts(run) == {"miou-collapse": False}


@pytest.mark.parametrize(("high", "sure"), [(0.39, True), (0.41, False)])
def test_without_a_comparison_the_two_intervals_must_lie_apart(run, high, sure):
    scores(run, 0.2, 0.3)
    run.trains(3, 0.5, interval=(0.40, 0.60))
    for number in (4, 5):
        run.trains(number, 0.3, interval=(0.2, high))
    assert (due(run) is not None) == sure


def test_where_a_roll_back_follows_its_incident_tells_it_and_nothing_is_told_twice(run):
    scores(run, 0.3, 0.4, 0.5, 0.2, 0.2)
    assert alerts(run, rolls_back=True) == {"miou-collapse": True}
    collapses(run)
    found = Rules(CONFIG, rolls_back=True).current_alerts(run.history)
    assert [alert.fingerprint for alert in found] == ["incident:1"]


def test_with_nothing_to_stop_any_more_the_collapse_is_told(run):
    scores(run, 0.3, 0.4, 0.5, 0.2, 0.2)
    run.ends(Outcome.FINISHED, epoch=5)
    assert alerts(run, rolls_back=True) == {"miou-collapse": False}


def collapses(run, onset_step: int = 40, **evidence: object) -> None:
    """The incident that the supervisor opens."""
    run.ends(Outcome.UNSTABLE, cause=Cause.MIOU_COLLAPSE, epoch=5)
    run.tell(
        IncidentOpened(
            number=len(run.history.incidents) + 1,
            attempt=run.attempt,
            cause=Cause.MIOU_COLLAPSE,
            step=55,
            epoch=6,
            message="it collapsed",
            evidence={"onset_step": onset_step, **evidence},
            fatal=True,
        )
    )


def proves(run) -> None:
    """The end of the probation of attempt 2."""
    run.tell(ProbationEnded(attempt=2, incident=1, passed=True, because="it held", epochs=2, miou=0.5))


def test_after_the_roll_back_the_collapse_is_over_and_a_new_one_is_a_new_one(run):
    scores(run, 0.3, 0.4, 0.5, 0.2, 0.2)
    collapses(run)
    run.moves(1, 4)
    run.moves(1, 5)
    run.plans(incident=1)
    assert due(run) is None
    scores(run, 0.5, 0.5, first=4)
    proves(run)
    assert alerts(run) == {}
    scores(run, 0.2, first=6)
    assert due(run) is None
    scores(run, 0.2, first=7)
    assert due(run).since.key == (2, 6)


@pytest.mark.parametrize("cause", [Cause.MIOU_COLLAPSE, Cause.LOSS_SPIKE])
def test_no_epoch_past_the_onset_is_a_place_to_go_back_to_however_good_its_score(run, cause):
    scores(run, 0.3, 0.4, 0.5, 0.49, 0.51)
    run.ends(Outcome.UNSTABLE, cause=cause, epoch=5)
    opened = run.suffers(cause)
    run.tell(opened.model_copy(update={"number": 2, "evidence": {"onset_step": 40}}))
    assert [epoch.verified_good for epoch in run.history.lineage()] == [True, True, True, False, False]


# --- one class -----------------------------------------------------------------------------------------------------


def classes(run, *pools: float | None, first: int = 1, mean: float = 0.5) -> None:
    """Test scores whose third class has these IoUs, and whose mean hardly moves."""
    for number, pool in enumerate(pools, start=first):
        epoch = run.commits(number)
        for split in ("val", "test"):
            score = run.scores(epoch, split, mean)
            del run.told[-1]
            run.history.apply(0.0, score.model_copy(update={"class_iou": (0.7, 0.6, pool)}))


@pytest.mark.parametrize(
    ("pools", "pending"),
    [
        ((0.3, 0.3, 0.3, 0.005), True),
        ((0.3, 0.3, 0.3, 0.005, 0.0), False),
        ((0.3, 0.3, 0.3, 0.0, None, 0.0), False),
        ((0.3, 0.3, 0.3, 0.0, 0.0, 0.05), False),
    ],
)
def test_a_class_that_was_known_and_is_gone_is_pending_once_and_told_from_the_second_on(run, pools, pending):
    classes(run, *pools)
    assert alerts(run) == {"class-collapse": pending}


@pytest.mark.parametrize(
    "pools",
    [
        (0.0, 0.0, 0.0, 0.0),
        (0.3, 0.0, 0.3, 0.0, 0.0),
        (0.2, 0.2, 0.2, 0.0, 0.0),
        (0.3, 0.3, 0.01, 0.01),
        (0.3, 0.3, 0.0, 0.02, 0.0, 0.02),
        (0.3, 0.3, 0.0, 0.0, 0.1),
    ],
    ids=["never known", "known once", "never above 20 %", "not under 1 %", "flickers", "known again"],
)
def test_a_class_that_was_never_known_or_is_not_gone_is_no_collapse(run, pools):
    classes(run, *pools)
    assert not [code for code, pending in alerts(run).items() if not pending]


def test_a_lost_class_costs_one_restart_and_when_it_is_lost_again_it_is_only_told(run):
    classes(run, 0.3, 0.3, 0.3, 0.0, 0.0)
    lost = due(run)
    assert (lost.name, lost.since.epoch) == ("pool", 4)
    assert "lost the class pool: test IoU 30.0% (epoch 2), and under 1% since epoch 4" in lost.message
    collapses(run, **{"class": "pool"})
    run.moves(1, 4)
    run.moves(1, 5)
    run.plans(incident=1)
    classes(run, 0.3, 0.3, first=4)
    proves(run)
    classes(run, 0.0, 0.0, first=6)
    assert due(run) is None
    assert alerts(run, rolls_back=True) == {"class-collapse": False}


def test_a_run_is_not_restarted_for_a_third_class(run):
    for name in ("field", "road"):
        collapses(run, **{"class": name})
        run.plans(incident=len(run.history.incidents))
    classes(run, 0.3, 0.3, 0.3, 0.0, 0.0)
    assert due(run) is None
