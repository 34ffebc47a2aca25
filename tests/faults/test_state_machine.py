"""Random histories of a run, fault upon fault, against a small model of what was promised (design section 11)."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import sqlite3
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from segwatch.checkpoints.manifest import Role
from segwatch.daemon.events import (
    AttemptPlanned,
    Diagnosed,
    EpochCommitted,
    IncidentOpened,
    ProbationEnded,
    ScoreRecorded,
)
from segwatch.daemon.history import History
from segwatch.daemon.members import SCORED_SPLITS
from segwatch.evaluator.report import Verdict
from segwatch.trainer.contract import Cause, ExitCode, Phase

from .in_process import Killed, SimDaemon, World
from .matrix import fault

SHM = Path("/dev/shm")  # files in memory: the promise under test is about order, and an fsync costs 5 ms on a disk
RANDOM = os.environ.get("SEGWATCH_RANDOM_NIGHTS") == "1"
"""Other nights each time, as `make faults` asks for. One that breaks a promise is printed as a program."""
FAULTS = Counter[str]()
ENDS = Counter[str]()
FINDS = Counter[str]()
UNDONE = Counter[str]()
FINDINGS = (
    {"finding": "transient"},
    {"finding": "precision", "bf16_is_finite": True},
    {"finding": "data", "files": [{"image": "b.png"}]},
    {"finding": "learning-rate"},
    {"finding": "unknown"},
)


class Night(RuleBasedStateMachine):
    """What may happen to a run, and what has to hold after each of it."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="night-", dir=SHM if SHM.is_dir() else None))
        self.world = World(self.place / "x", extra="probation_epochs = 1\nwhole_run = 4")
        self.patch = self.world.real()
        self.patch.__enter__()
        self.seen_incidents: dict[int, str] = {}

    # --- the daemon ------------------------------------------------------------------------------------------------

    def daemon_dies(self) -> None:
        daemon, self.world.daemon = self.world.daemon, None
        self.world.kill_in = None
        for process in (self.world.worker, self.world.diagnosis):
            if process is not None:
                process.tell = None
        if daemon is not None:
            daemon.vanish()

    def tick(self) -> None:
        """A turn of the loop, or the start of a new daemon; a full disk or a kill is its end."""
        try:
            if self.world.daemon is None:
                self.world.daemon = SimDaemon(self.world)
            self.world.daemon.tick()
        except (Killed, OSError, sqlite3.Error):
            self.daemon_dies()

    @property
    def over(self) -> bool:
        return self.world.daemon is not None and self.world.daemon.exit_code is not None

    @rule()
    def time_passes(self):
        self.world.now += 1.0
        self.world.wall += 1.0
        self.tick_unless_over()

    def tick_unless_over(self) -> None:
        if not self.over:
            self.tick()

    @rule(point=st.integers(1, 12))
    def daemon_is_killed_at_a_point(self, point: int):
        FAULTS["daemon killed"] += 1
        self.world.kill_in = point
        self.tick_unless_over()

    @rule()
    def daemon_is_killed_between_turns(self):
        FAULTS["daemon killed"] += 1
        self.daemon_dies()

    @rule(how=st.sampled_from(["before", "torn", "database"]))
    def disk_is_full_for_a_turn(self, how: str):
        FAULTS["disk full"] += 1
        self.world.disk.full = how
        self.tick_unless_over()
        self.world.disk.full = None

    @rule(seconds=st.sampled_from([-3600.0, 3600.0, -86400.0]))
    def clock_jumps(self, seconds: float):
        FAULTS["clock jump"] += 1
        self.world.wall += seconds
        self.tick_unless_over()

    # --- the worker ------------------------------------------------------------------------------------------------

    def worker_runs(self) -> bool:
        return self.world.worker is not None and not self.world.worker.hung

    def begin_worker(self) -> None:
        assert self.world.worker is not None
        if not self.world.worker.begun:
            self.world.worker.begin()

    @rule(finite=st.sampled_from([True, True, False]))
    @precondition(worker_runs)
    def worker_trains_an_epoch(self, finite: bool):
        self.train(finite=finite)
        self.tick_unless_over()

    def train(self, *, finite: bool = True) -> None:
        worker = self.world.worker
        assert worker is not None
        self.begin_worker()
        if worker.complete:
            self.world.worker_leaves(ExitCode.FINISHED, "all epochs are complete")
            return
        while worker.step_in_epoch < worker.steps_per_epoch:
            assert worker.take_step() is None
        worker.epoch, worker.step_in_epoch = worker.epoch + 1, 0
        worker.write(Phase(time=0.0, phase="saving"))
        if not finite:
            FAULTS["NaN in a checkpoint"] += 1
            worker.scenario["not_finite"] = [f"{worker.spec.attempt}:{worker.epoch}"]
        worker.commit(Role.EPOCH)
        worker.write(Phase(time=0.0, phase="training"))
        if worker.complete:
            self.world.worker_leaves(ExitCode.FINISHED, "all epochs are complete")

    @rule(steps=st.integers(0, 1))
    @precondition(worker_runs)
    def worker_is_killed(self, steps: int):
        FAULTS["worker killed"] += 1
        self.begin_worker()
        for _ in range(steps):
            if not self.world.worker.complete and self.world.worker.step_in_epoch < 2:
                self.world.worker.take_step()
        self.world.worker_dies(-signal.SIGKILL)
        self.tick_unless_over()

    @rule(leaves_batch=st.booleans())
    @precondition(worker_runs)
    def worker_meets_a_nan(self, leaves_batch: bool):
        self.meet_a_nan(leaves_batch=leaves_batch)

    def meet_a_nan(self, *, leaves_batch: bool) -> None:
        FAULTS["NaN loss"] += 1
        self.begin_worker()
        self.world.worker.take_step()
        self.world.worker.meets_a_nan(leaves_batch=leaves_batch)
        self.world.worker_leaves(ExitCode.UNSTABLE, "the loss became NaN", Cause.NAN_LOSS)
        self.tick_unless_over()

    @rule()
    @precondition(worker_runs)
    def worker_skips_a_step(self):
        FAULTS["Inf gradients"] += 1
        self.begin_worker()
        self.world.worker.trouble(Cause.INF_GRADIENTS, "the gradients are Inf", fatal=False)
        self.tick_unless_over()

    @rule()
    @precondition(worker_runs)
    def worker_hangs(self):
        FAULTS["worker hangs"] += 1
        self.begin_worker()
        self.world.worker.hung = True

    @rule()
    def hours_pass(self):
        self.tick_unless_over()
        self.world.now += 7200.0
        self.tick_unless_over()

    # --- the diagnosis ---------------------------------------------------------------------------------------------

    def is_replayed(self) -> bool:
        return self.world.diagnosis is not None

    @rule(found=st.sampled_from(FINDINGS))
    @precondition(is_replayed)
    def diagnosis_ends(self, found: dict):
        self.finds(found)
        self.tick_unless_over()

    def finds(self, found: dict) -> None:
        FINDS[found["finding"]] += 1
        self.world.diagnosis_finds(**found)

    @rule(found=st.sampled_from(FINDINGS))
    @precondition(worker_runs)
    def worker_meets_a_nan_of_which_this_is_found(self, found: dict):
        self.meet_a_nan(leaves_batch=True)
        self.tick_unless_over()
        if self.is_replayed():
            self.finds(found)
            self.tick_unless_over()

    @rule()
    @precondition(is_replayed)
    def diagnosis_dies(self):
        FAULTS["diagnosis dies"] += 1
        self.world.diagnosis_dies(-signal.SIGKILL)
        self.tick_unless_over()

    # --- the evaluator ---------------------------------------------------------------------------------------------

    def is_asked(self) -> bool:
        return self.world.daemon is not None and self.world.daemon.scorer.in_flight is not None

    @rule(miou=st.sampled_from([0.2, 0.5, 0.6]), verdict=st.sampled_from(["ok", "ok", "ok", "not-finite"]))
    @precondition(is_asked)
    def evaluator_answers(self, miou: float, verdict: str):
        self.world.daemon.scorer.answers(self.world.run.path, miou, Verdict(verdict))
        self.tick_unless_over()

    @rule()
    @precondition(is_asked)
    def evaluator_dies(self):
        FAULTS["evaluator dies"] += 1
        self.world.daemon.scorer.dies()
        self.tick_unless_over()

    # --- what holds ------------------------------------------------------------------------------------------------

    @invariant()
    def what_is_recorded_holds(self):
        facts = [event for _, event in self.world.recorded]
        history = History.of(self.world.recorded)
        self.each_epoch_is_scored_once(facts)
        self.incidents_are_kept(facts)
        self.budgets_hold(facts)
        self.workers_follow_each_other(facts)
        self.diagnoses_follow_each_other(facts)
        self.undoing_holds_its_word(facts)
        daemon = self.world.daemon
        if daemon is not None:
            self.results_are_the_fold(history)
            assert daemon.history.epochs == history.epochs, "the daemon believes what is not on disk"

    def each_epoch_is_scored_once(self, facts) -> None:
        """P1. One that could not be scored is tried again by the next daemon: that is no second score."""
        committed = Counter((e.attempt, e.epoch) for e in facts if isinstance(e, EpochCommitted))
        scored = Counter((e.attempt, e.epoch, e.split) for e in facts if _is_score(e) and e.verdict != "failed")
        assert set(committed.values()) <= {1}
        assert set(scored.values()) <= {1}
        assert {key[:2] for key in scored} <= set(committed)

    def incidents_are_kept(self, facts) -> None:
        """P3: what was once recorded is recorded for ever, and lies in its directory."""
        now = {e.number: e.cause.value for e in facts if isinstance(e, IncidentOpened)}
        assert len(now) == sum(isinstance(e, IncidentOpened) for e in facts), "one number for two incidents"
        assert self.seen_incidents.items() <= now.items()
        fatal = Counter(e.attempt for e in facts if isinstance(e, IncidentOpened) and e.fatal)
        assert set(fatal.values()) <= {1}, "the end of one attempt was counted twice"
        for number in now.keys() - self.seen_incidents.keys():
            path = self.world.run.path / "incidents" / f"{number:03d}" / "incident.json"
            assert json.loads(path.read_text())["number"] == number
        self.seen_incidents = now

    def budgets_hold(self, facts) -> None:
        """P5: no more restarts than the run has, however many daemons decided on them."""
        plans = [e for e in facts if isinstance(e, AttemptPlanned)]
        assert [plan.attempt for plan in plans] == list(range(1, len(plans) + 1))
        answers = [plan.incident for plan in plans if plan.incident is not None]
        assert len(answers) == len(set(answers)), "one incident was answered twice"
        own = sum(plan.puts_back is not None for plan in plans)  # brought about by segwatch itself: no budget pays
        assert len(answers) <= self.world.config.recovery.whole_run + own

    def diagnoses_follow_each_other(self, facts) -> None:
        """One answer for each incident, after it was opened; `World.spawn` refuses a second process beside one."""
        told = [e.incident for e in facts if isinstance(e, Diagnosed)]
        assert len(told) == len(set(told))
        assert set(told) <= {e.number for e in facts if isinstance(e, IncidentOpened)}

    def undoing_holds_its_word(self, facts) -> None:
        """One at a time, each twice at most, and never again what was seen to be needed."""
        trying, tries, needed, in_force = None, Counter[int](), set(), []
        for event in facts:
            if isinstance(event, ProbationEnded) and trying is not None and event.attempt == trying.attempt:
                remedy = _newest(in_force, trying.undoes)
                if event.passed:
                    in_force.remove(remedy)
                elif not event.guessed:
                    needed.add(remedy.attempt)
                trying = None
            if isinstance(event, AttemptPlanned) and event.undoes is not None:
                UNDONE[event.undoes] += 1
                assert trying is None, "two remedies were taken back at once"
                remedy = _newest(in_force, event.undoes)
                assert remedy.attempt not in needed, "what is needed is latched"
                trying, tries = event, tries + Counter([remedy.attempt])
            elif isinstance(event, AttemptPlanned) and event.remedy is not None and event.puts_back is None:
                in_force.append(event)
        assert all(times <= 2 for times in tries.values())

    def workers_follow_each_other(self, facts) -> None:
        """P4 and P5: every worker ran once, after its plan was recorded. `World.spawn` refuses a second one beside."""
        planned = {e.attempt: e for e in facts if isinstance(e, AttemptPlanned)}
        assert len(self.world.spawned) == len(set(self.world.spawned))
        assert set(self.world.spawned) <= set(planned)
        if self.world.worker is not None:
            spec = self.world.worker.spec
            plan = planned[spec.attempt]
            assert (spec.lr, spec.amp, spec.resume_from) == (plan.lr, plan.amp, plan.resume_from)

    def results_are_the_fold(self, history: History) -> None:
        with (self.world.run.path / "results.csv").open() as file:
            rows = [(int(r["attempt"]), int(r["epoch"]), r["split"], r["verdict"]) for r in csv.DictReader(file)]
        known = [(*key, split, s.verdict) for key, e in history.epochs.items() for split, s in e.scores.items()]
        assert sorted(rows) == sorted(known)

    # --- the end of the night --------------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            self.let_it_end()
        finally:
            self.daemon_dies()
            self.world.close()
            self.patch.__exit__(None, None, None)
            shutil.rmtree(self.place)

    def let_it_end(self) -> None:
        """Without further faults every run comes to its end, with a score or a reason for every epoch."""
        for _ in range(200):
            if self.over:
                break
            self.world.now += 1.0
            if self.worker_runs():
                self.train()
            if self.is_replayed():
                self.finds(FINDINGS[int(self.world.now) % len(FINDINGS)])
            if self.is_asked():
                self.world.daemon.scorer.answers(self.world.run.path, 0.5)
            elif self.world.worker is not None and self.world.worker.hung:
                self.world.now += 7200.0
            self.tick()
        assert self.over, "the run did not end"
        self.what_is_recorded_holds()
        history = self.world.daemon.history
        assert history.unscored == {}
        assert all(set(epoch.scores) == set(SCORED_SPLITS) for epoch in history.epochs.values())
        assert self.world.worker is None
        ended_badly = {a.number for a in history.attempts if a.ended is not None and a.ended.cause is not None}
        assert ended_badly == {incident.opened.attempt for incident in history.fatal_incidents()}
        gave_up = history.gave_up is not None
        ENDS["gave up" if gave_up else "finished"] += 1
        assert gave_up or [epoch.epoch for epoch in history.lineage()] == [1, 2, 3, 4]


def _newest(plans: list[AttemptPlanned], remedy: str) -> AttemptPlanned:
    return next(plan for plan in reversed(plans) if plan.remedy == remedy)


def _is_score(event) -> bool:
    return isinstance(event, ScoreRecorded)


@fault(
    "state-machine",
    area="Beyond single faults",
    fault="random sequences of epoch, evaluation, crash, hang, daemon kill, disk full, clock jump",
    promise="P1 P3 P4 P5 P6",
    provoked="hypothesis drives the real supervisor, store and policy in one process",
)
def test_no_sequence_of_faults_breaks_a_promise(provoked):
    for counter in (FAULTS, ENDS, FINDS, UNDONE):
        counter.clear()
    run_state_machine_as_test(
        Night,
        settings=settings(
            max_examples=100,
            stateful_step_count=30,
            deadline=None,
            derandomize=not RANDOM,  # the same nights each time: whoever changes a rule meets the same weather
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    kinds = {
        "daemon killed",
        "disk full",
        "clock jump",
        "NaN in a checkpoint",
        "worker killed",
        "NaN loss",
        "Inf gradients",
        "worker hangs",
        "evaluator dies",
        "diagnosis dies",
    }
    assert kinds == set(FAULTS), "a kind of fault was never made"
    assert min(ENDS["finished"], ENDS["gave up"]) >= 5, "both ends are to be seen"
    assert {found["finding"] for found in FINDINGS} == set(FINDS), "a finding never came"
    assert UNDONE, "no remedy was ever taken back"
    provoked(FAULTS.total())
