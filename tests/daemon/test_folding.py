"""What is folded fact by fact is what counting everything again would give, whatever the run went through."""

from __future__ import annotations

from copy import copy

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from segwatch.daemon import gains
from segwatch.daemon.config import AlertsConfig
from segwatch.daemon.events import BudgetsForgiven, ConfigChanged, Gain, Outcome, RescoreWanted, RunFinished
from segwatch.daemon.history import History
from segwatch.daemon.rules import Rules, current_alerts
from segwatch.trainer.contract import Cause

PATIENCE, DELTA, DROP = 4, 0.02, 0.3
CONFIG = AlertsConfig(patience=PATIENCE, min_delta=DELTA, collapse_drop=DROP)
MIOUS = st.sampled_from([None, 0.05, 0.3, 0.31, 0.32, 0.33, 0.35, 0.4, 0.5, 0.6])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("trains"), MIOUS, st.booleans(), st.sampled_from(["ok", "ok", "ok", "single-class"])),
        st.tuples(st.just("climbs"), st.integers(4, 12)),
        st.tuples(st.just("fails")),
        st.tuples(st.just("not-finite")),
        st.tuples(st.just("rescore")),
        st.tuples(st.just("waits")),
        st.tuples(st.just("late")),
        st.tuples(st.just("incident"), st.booleans()),
        st.tuples(st.just("old-trouble")),
        st.tuples(st.just("back"), st.integers(0, 4)),
        st.tuples(st.just("quarantine"), st.integers(0, 3)),
        st.tuples(st.just("forgive")),
        st.tuples(st.just("finish")),
        st.tuples(st.just("extend")),
    ),
    max_size=40,
)


class Ups:
    """Carries out one step after the other on a story."""

    def __init__(self, run) -> None:
        self.run = run
        self.run.begins()
        self.epoch = 0
        self.waiting = []

    def does(self, what: str, *how) -> None:
        getattr(self, "does_" + what.replace("-", "_"))(*how)

    def does_trains(self, miou: float | None, compared: bool, verdict: str) -> None:
        self.epoch += 1
        line = self.run.history.scored_lineage()
        gain = None
        verdict = verdict if miou is not None else "corrupt"
        if compared and line and miou is not None:
            than, level = plain_reference(line, DELTA)
            gain = Gain(
                against_attempt=than.attempt,
                against_epoch=than.epoch,
                difference=miou - level,
                low=miou - level - 0.05,
                high=miou - level + 0.05,
            )
        self.run.trains(self.epoch, miou, gain=gain, verdict=verdict)

    def does_climbs(self, epochs: int) -> None:
        """Too slowly for any one epoch to be surely better."""
        for step in range(epochs):
            self.does_trains(0.4 + 0.008 * step, True, "ok")

    def does_fails(self) -> None:
        self.epoch += 1
        self.run.trains(self.epoch, None, verdict="failed")

    def does_not_finite(self) -> None:
        self.epoch += 1
        self.run.trains(self.epoch, None, verdict="not-finite")

    def does_rescore(self) -> None:
        self.run.tell(RescoreWanted())
        self.waiting = list(self.run.history.unscored.values())

    def does_waits(self) -> None:
        self.epoch += 1
        self.waiting.append(self.run.commits(self.epoch))

    def does_late(self) -> None:
        for epoch in self.waiting[:1]:
            for split in ("val", "test"):
                if split not in epoch.scores:
                    self.run.scores(epoch, split, 0.45)
        self.waiting = self.waiting[1:]

    def does_incident(self, fatal: bool) -> None:
        self.run.suffers(Cause.NAN_LOSS if fatal else Cause.INF_GRADIENTS, step=10 * self.epoch + 5, fatal=fatal)
        if fatal:
            self._next(self.epoch)

    def does_old_trouble(self) -> None:
        """Read late: what the worker trained since was scored already."""
        self.run.suffers(Cause.INF_GRADIENTS, step=5, fatal=False)

    def does_back(self, epochs: int) -> None:
        self._next(max(0, self.epoch - epochs))

    def _next(self, epoch: int) -> None:
        self.run.ends(Outcome.UNSTABLE, cause=Cause.NAN_LOSS)
        for later in list(self.run.history.lineage()):
            if later.epoch > epoch:
                self.run.moves(later.attempt, later.epoch)
        self.epoch = epoch
        self.run.plans(resume_epoch=epoch, resume_step=10 * epoch)

    def does_quarantine(self, back: int) -> None:
        line = self.run.history.lineage()
        if len(line) > back:
            self.run.moves(line[-1 - back].attempt, line[-1 - back].epoch, "quarantined")

    def does_forgive(self) -> None:
        self.run.tell(BudgetsForgiven())

    def does_finish(self) -> None:
        self.run.tell(RunFinished(trained=self.epoch))

    def does_extend(self) -> None:
        self.run.tell(ConfigChanged(changes={}, epochs=self.run.history.epochs_wanted + 1))


def plain_reference(scored, min_delta: float):
    found = None
    for one in scored:
        gain = found and gains.gain_over(one[0], found[0])
        better = (
            gain.low > 0 and gain.difference >= min_delta if gain else found is None or one[1] > found[1] + min_delta
        )
        found = one if better else found
    return found


def plain_stalled(scored) -> bool:
    found = plain_reference(scored, DELTA)
    late = [place for place, (epoch, _) in enumerate(scored) if epoch.epoch - found[0].epoch >= PATIENCE]
    rises = [gains.still_rises(scored[: place + 1], PATIENCE, DELTA) for place in late]
    return scored[-1][0].epoch - found[0].epoch >= PATIENCE and not all(rises)


def assert_trend_is_plain(trend: gains.Trend, scored) -> None:
    assert trend.count == len(scored)
    if not scored:
        return
    found, best = plain_reference(scored, DELTA), max(scored, key=lambda one: one[1])
    assert (trend.reference, trend.best, trend.latest) == (found, best, scored[-1][0])
    since = [one for one in scored if one[0].epoch > found[0].epoch]
    assert trend.best_since == (max(since, key=lambda one: one[1]) if since else None)
    assert trend.stalled == plain_stalled(scored)
    if 2 * trend.waited >= PATIENCE:
        assert trend.rises == gains.still_rises(scored, PATIENCE, DELTA)
    assert trend.low == trailing(scored, lambda e, miou: e.epoch > best[0].epoch and miou < (1 - DROP) * best[1])
    assert trend.single_class == trailing(scored, lambda e, _: e.scores["test"].verdict == "single-class")


def trailing(scored, holds) -> int:
    number = 0
    for epoch, miou in reversed(scored):
        if not holds(epoch, miou):
            break
        number += 1
    return number


def plain_recovered(history: History, opened) -> bool:
    good = [epoch for epoch in history.epochs.values() if epoch.verified_good]
    if opened.fatal:
        return history.finished or any(epoch.attempt > opened.attempt for epoch in good)
    return history.finished or any(e.attempt >= opened.attempt and e.step > opened.step for e in good)


def assert_history_is_plain(history: History) -> None:
    epochs = list(history.epochs.values())
    standing = sorted((epoch for epoch in epochs if epoch.moved is None), key=lambda epoch: epoch.epoch)
    assert history.lineage() == standing
    assert set(history.standing) == {epoch.manifest for epoch in standing}
    assert history.scored_lineage() == [(e, e.miou("test")) for e in standing if e.miou("test") is not None]
    assert history.failed_epochs() == [e for e in epochs if any(s.verdict == "failed" for s in e.scores.values())]
    assert history.quarantined == [epoch for epoch in history.quarantined if epoch.moved == "quarantined"]
    assert {e.key for e in history.quarantined} == {epoch.key for epoch in epochs if epoch.moved == "quarantined"}
    recovered = [plain_recovered(history, incident.opened) for incident in history.incidents]
    assert [history.recovered(incident) for incident in history.incidents] == recovered
    still = [incident for incident, over in zip(history.incidents, recovered, strict=True) if not over]
    assert history.open_incidents() == still
    attempts = [attempt.number for attempt in history.attempts]
    for until in attempts:
        verdicts = {epoch.verified_good for epoch in epochs if until - 2 < epoch.attempt <= until}
        plain = True if True in verdicts else None if None in verdicts else False
        assert history.progressed(until - 2, until) is plain


@pytest.fixture
def begin(a_run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gains, "COPIED_EVERY", 3)  # roll-backs over several of them
    return lambda: Ups(a_run())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_after_every_fact_the_folds_say_what_the_plain_definitions_say(begin, steps):
    ups = begin()
    history = ups.run.history
    rules = Rules(CONFIG)
    kept = gains.KeptUp(lambda: gains.Trend(patience=PATIENCE, min_delta=DELTA, collapse_drop=DROP))
    for step in steps:
        ups.does(*step)
        assert_history_is_plain(history)
        assert_trend_is_plain(kept.with_(history), history.scored_lineage())
        assert rules.current_alerts(history) == current_alerts(History.of(ups.run.told), CONFIG)


class Counted:
    """A fold that knows how much was folded, into it and into every copy of it."""

    def __init__(self, added: list[int]) -> None:
        self.added, self.count = added, 0

    def add(self, one: gains.Scored) -> None:
        self.count += 1
        self.added.append(one[0].epoch)

    def copied(self) -> Counted:
        return copy(self)


def test_a_roll_back_late_in_a_long_run_folds_a_few_scores_again_and_not_all(a_run):
    ups, added = Ups(a_run()), []
    kept = gains.KeptUp(lambda: Counted(added))
    for _ in range(1000):
        ups.does_trains(0.5, False, "ok")
    kept.with_(ups.run.history)
    assert added == list(range(1, 1001))
    for _ in range(3):
        added.clear()
        ups.does_back(2)
        ups.does_trains(0.5, False, "ok")
        assert kept.with_(ups.run.history).count == len(ups.run.history.scored_lineage())
        assert 0 < len(added) <= gains.COPIED_EVERY + 1
