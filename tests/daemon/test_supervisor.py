"""The real daemon, in a process of its own, around a worker and an evaluator that do what the test says."""

from __future__ import annotations

import json
import signal

import pytest
from segwatch.daemon.config import WatchConfig
from segwatch.daemon.events import AlertState, Outcome
from segwatch.daemon.process import NOBODY
from segwatch.daemon.worker import Worker
from segwatch.trainer.contract import AttemptSpec


def alerts_log(daemon) -> str:
    return (daemon.run_dir / "alerts.log").read_text()


def specs(daemon) -> list[dict]:
    paths = sorted((daemon.run_dir / "attempts").glob("*/spec.json"))
    return [json.loads(path.read_text()) for path in paths]


def test_an_undisturbed_run_scores_every_epoch_once_and_fires_nothing(daemon):
    daemon.scenario(miou=[0.3, 0.5, 0.4])
    code, output = daemon.run()
    assert code == 0, output
    assert daemon.scored_epochs() == daemon.scored_epochs("val") == [(1, 1), (1, 2), (1, 3)]
    assert alerts_log(daemon) == ""
    best = (daemon.run_dir / "best_test.pth").read_text()
    assert best == (daemon.run_dir / "checkpoints" / "checkpoint_epoch2.pth").read_text()
    assert "finished: 3 epochs trained, every one scored" in output


def test_every_test_score_of_a_run_is_compared_over_its_images(daemon):
    daemon.scenario(miou=[0.3, 0.5, 0.4])
    code, output = daemon.run()
    assert code == 0, output
    scores = {epoch.epoch: epoch.scores["test"] for epoch in daemon.history.lineage()}
    assert scores[1].gain is None
    assert (scores[2].gain.against_epoch, scores[3].gain.against_epoch) == (1, 2)
    assert scores[2].gain.low > 0 > scores[3].gain.high
    assert "; better than epoch 1: +20.00 points" in output
    assert "; worse than epoch 2: -10.00 points" in output


def test_a_finished_run_is_told_again_and_trains_nothing(daemon):
    daemon.run()
    code, output = daemon.run()
    assert code == 0
    assert len(daemon.history.attempts) == 1
    assert "best by test" in output


def test_more_epochs_in_the_file_extend_a_finished_run(daemon):
    daemon.run()
    daemon.configure(epochs=5)
    code, output = daemon.run()
    assert code == 0, output
    assert daemon.scored_epochs() == [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5)]


def test_another_learning_rate_in_the_file_of_a_run_is_refused_with_both_values(daemon):
    daemon.run()
    text = (daemon.place / "run.toml").read_text()
    (daemon.place / "run.toml").write_text(text.replace("1e-3", "1e-4"))
    code, output = daemon.run()
    assert code == 78
    assert "trainer.lr: 0.001 -> 0.0001" in output


def test_first_nan_without_amp_rolls_back_to_verified_good_and_halves_lr(daemon):
    daemon.scenario(faults={"1:10": "nan"})
    code, output = daemon.run()
    assert code == 0, output
    first, second = specs(daemon)
    assert (first["lr"], second["lr"]) == (1e-3, 5e-4)
    assert second["amp"] == "off"
    assert second["resume_from"] == "checkpoints/checkpoint_epoch2.json"
    assert daemon.scored_epochs() == [(1, 1), (1, 2), (2, 3)]
    log = alerts_log(daemon)
    assert "FIRING   CRITICAL nan-loss" in log
    assert "learning rate 0.001 -> 0.0005. Attempt 2 goes on from epoch 2." in log
    assert "RESOLVED CRITICAL nan-loss" in log


COLLAPSE = {"step_seconds": 0.08, "miou": [0.3, 0.4, 0.5], "miou_of": {"1:4": 0.1, "1:5": 0.12}}


def test_scores_that_collapse_send_the_worker_back_to_before_the_onset_with_half_the_rate(daemon):
    daemon.configure(epochs=9, extra="undo = false")
    daemon.scenario(**COLLAPSE, diagnosis={"1": {"finding": "learning-rate", "onset_step": 16}})
    code, output = daemon.run()
    assert code == 0, output
    first, second = specs(daemon)
    assert (first["lr"], second["lr"], second["resume_from"]) == (1e-3, 5e-4, "checkpoints/checkpoint_epoch3.json")
    (incident,) = daemon.history.incidents
    assert incident.opened.evidence["onset_step"] == daemon.history.epochs[1, 4].step == 16
    asked = json.loads((daemon.run_dir / "incidents" / "001" / "diagnosis_spec.json").read_text())
    assert (asked["fallen"], asked["good"][0]) == (
        "checkpoints/checkpoint_epoch4.json",
        "checkpoints/checkpoint_epoch3.json",
    )
    assert "FIRING   CRITICAL miou-collapse" in alerts_log(daemon)
    assert "is the learning rate: learning rate 0.001 -> 0.0005. Attempt 2 goes on from epoch 3." in alerts_log(daemon)
    assert [epoch for attempt, epoch in daemon.scored_epochs() if attempt > 1] == list(range(4, 10))


def test_scores_that_fell_by_accident_cost_the_fallen_epochs_and_no_setting(daemon):
    daemon.configure(epochs=9)
    daemon.scenario(**COLLAPSE, diagnosis={"1": {"finding": "transient", "onset_step": 16}})
    code, output = daemon.run()
    assert code == 0, output
    first, second = specs(daemon)
    assert (first["lr"], second["lr"], second["resume_from"]) == (1e-3, 1e-3, "checkpoints/checkpoint_epoch3.json")
    assert [epoch for attempt, epoch in daemon.scored_epochs() if attempt > 1] == list(range(4, 10))


def test_a_collapse_is_only_told_where_that_is_wanted(daemon):
    daemon.configure(epochs=9, extra='on_collapse = "alert"')
    daemon.scenario(**COLLAPSE)
    code, output = daemon.run()
    assert code == 0, output
    assert len(specs(daemon)) == 1
    assert "FIRING   CRITICAL miou-collapse" in alerts_log(daemon)
    assert "RESOLVED CRITICAL miou-collapse" in alerts_log(daemon)


def test_first_nan_under_amp_turns_amp_off_and_keeps_lr(daemon):
    daemon.configure(amp="fp16")
    daemon.scenario(faults={"1:6": "nan"})
    assert daemon.run()[0] == 0
    second = specs(daemon)[1]
    assert (second["amp"], second["lr"]) == ("off", 1e-3)


def test_a_nan_in_the_first_epoch_goes_back_to_the_initial_weights(daemon):
    daemon.scenario(faults={"1:2": "nan"})
    assert daemon.run()[0] == 0
    assert specs(daemon)[1]["resume_from"] == "checkpoints/initial.json"
    assert daemon.scored_epochs() == [(2, 1), (2, 2), (2, 3)]


def test_a_roll_back_waits_for_the_score_that_tells_which_epoch_is_good(daemon):
    """Epochs 1 and 2 are not yet scored when the NaN comes; epoch 2 turns out collapsed, so epoch 1 is the place."""
    daemon.scenario(faults={"1:10": "nan"}, miou=[0.6, 0.1, 0.6], score_seconds=0.8)
    code, output = daemon.run()
    assert code == 0, output
    assert specs(daemon)[1]["resume_from"] == "checkpoints/checkpoint_epoch1.json"
    assert daemon.scored_epochs() == [(1, 1), (1, 2), (2, 2), (2, 3)]
    moved = daemon.run_dir / "checkpoints" / "superseded" / "001" / "checkpoint_epoch2.pth"
    assert "attempt 1" in moved.read_text()


def test_three_nans_in_a_row_give_up_with_exit_1_and_the_best_kept(daemon):
    daemon.scenario(faults={"1:6": "nan", "2:6": "nan", "3:6": "nan"})
    code, output = daemon.run()
    assert code == 1
    assert [spec["lr"] for spec in specs(daemon)] == [1e-3, 5e-4, 2.5e-4]
    assert "gave-up" in alerts_log(daemon)
    assert (daemon.run_dir / "best_test.pth").exists()
    assert "GAVE UP" in output


def test_after_giving_up_only_retry_goes_on(daemon):
    daemon.scenario(faults={"1:6": "nan", "2:6": "nan", "3:6": "nan"})
    daemon.run()
    assert daemon.run()[0] == 1
    assert len(specs(daemon)) == 3
    code, output = daemon.run("--retry")
    assert code == 0, output
    assert daemon.scored_epochs() == [(1, 1), (4, 2), (4, 3)]


def test_a_retry_takes_the_learning_rate_that_a_person_wrote(daemon):
    daemon.scenario(faults={"1:6": "nan", "2:6": "nan", "3:6": "nan"})
    daemon.run()
    text = (daemon.place / "run.toml").read_text()
    (daemon.place / "run.toml").write_text(text.replace("1e-3", "3e-5"))
    assert daemon.run()[0] == 78, "without --retry a run is what it was"
    assert daemon.run("--retry")[0] == 0
    assert specs(daemon)[3]["lr"] == 3e-5


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("kill", "the worker was killed: signal SIGKILL"),
        ("segv", "the worker was killed: signal SIGSEGV"),
        ("crash", "the worker crashed: RuntimeError: made to crash"),
    ],
)
def test_a_worker_that_dies_is_resumed_with_nothing_changed(daemon, fault, words):
    daemon.scenario(faults={"1:6": fault})
    code, output = daemon.run()
    assert code == 0, output
    first, second = specs(daemon)
    assert [(s["lr"], s["amp"], s["batch_size"]) for s in (first, second)] == [(1e-3, "off", 4)] * 2
    assert second["resume_from"] == "checkpoints/checkpoint_epoch1.json"
    assert daemon.scored_epochs() == [(1, 1), (2, 2), (2, 3)]
    assert words in alerts_log(daemon)


def test_a_hung_worker_leaves_its_stacks_is_killed_and_resumed(daemon):
    daemon.scenario(faults={"1:6": "hang"})
    code, output = daemon.run()
    assert code == 0, output
    assert daemon.history.attempts[0].ended.outcome is Outcome.HUNG
    assert "worker-hung" in alerts_log(daemon)
    assert "Current thread" in (daemon.run_dir / "attempts" / "001" / "worker.log").read_text()


def test_a_slow_first_step_is_legal(daemon):
    daemon.scenario(faults={"1:1": "slow"}, slow_seconds=3.5)
    assert daemon.run()[0] == 0
    assert alerts_log(daemon) == ""


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_effective_one(daemon):
    daemon.scenario(faults={"1:6": "oom"})
    assert daemon.run()[0] == 0
    second = specs(daemon)[1]
    assert (second["batch_size"], second["accumulate"], second["lr"]) == (2, 2, 1e-3)
    assert "out-of-memory" in alerts_log(daemon)


def test_what_fails_at_import_is_tried_once_and_exits_78(daemon):
    daemon.scenario(import_error=True)
    code, output = daemon.run()
    assert code == 78
    assert len(specs(daemon)) == 1
    assert "no module named torch" in output


def test_what_crashes_before_its_first_step_gives_up_at_once(daemon):
    daemon.scenario(crash_at_start=True)
    assert daemon.run()[0] == 1
    assert len(specs(daemon)) == 1


def test_a_worker_that_runs_with_another_lr_than_told_is_a_failed_remedy(daemon):
    daemon.scenario(faults={"1:6": "nan"}, echo_lr={"2": 1e-3}, step_seconds=0.05)
    code, output = daemon.run()
    assert code == 0, output
    assert daemon.history.attempts[1].ended.outcome is Outcome.REMEDY_FAILED
    assert "lr 0.001 instead of 0.0005" in alerts_log(daemon)


def test_a_drill_happens_once_and_is_marked_wherever_it_is_told(daemon):
    code, output = daemon.run("--drill", "nan-loss@6", "--drill", "kill@10")
    assert code == 0, output
    assert "nan-loss [DRILL nan-loss@6]" in alerts_log(daemon)
    assert "worker-crashed [DRILL kill@10]" in alerts_log(daemon)
    assert [str(drill) for _, drill in daemon.history.drills_fired] == ["nan-loss@6", "kill@10"]
    assert len(specs(daemon)) == 3
    assert specs(daemon)[2]["drills"] == []
    assert "[DRILL nan-loss@6]" in (daemon.run_dir / "report.md").read_text()


def test_skipped_inf_gradients_are_alerted_and_do_not_restart(daemon):
    assert daemon.run("--drill", "inf-gradients@2")[0] == 0
    assert len(specs(daemon)) == 1
    assert "FIRING   WARNING  inf-gradients [DRILL inf-gradients@2]" in alerts_log(daemon)
    assert "RESOLVED WARNING  inf-gradients" in alerts_log(daemon)


def test_a_checkpoint_changed_after_commit_is_quarantined_and_not_scored(daemon):
    daemon.scenario(flip=["1:2"])
    code, output = daemon.run()
    assert code == 0, output
    verdicts = {(row["epoch"], row["split"]): row["verdict"] for row in daemon.rows()}
    assert verdicts["2", "test"] == verdicts["2", "val"] == "corrupt"
    assert verdicts["3", "test"] == "ok"
    assert (daemon.run_dir / "checkpoints" / "quarantine" / "001" / "checkpoint_epoch2.json").exists()
    assert "checkpoint-corrupt" in alerts_log(daemon)


def test_an_epoch_that_kills_the_evaluator_twice_gets_a_row_and_the_queue_goes_on(daemon):
    daemon.scenario(die=["1:2"])
    code, output = daemon.run()
    assert code == 0, output
    verdicts = [(row["epoch"], row["verdict"]) for row in daemon.rows() if row["split"] == "test"]
    assert verdicts == [("1", "ok"), ("2", "failed"), ("3", "ok")]
    assert (daemon.run_dir / "asked.txt").read_text().split().count("1:2") == 2
    assert "evaluator-failed" in alerts_log(daemon)


def test_an_evaluator_that_never_starts_does_not_stop_training(daemon):
    daemon.scenario(never_ready=True)
    code, output = daemon.run()
    assert code == 1, "a run without one score is no success"
    assert {row["verdict"] for row in daemon.rows()} == {"failed"}
    assert "evaluator-failed" in alerts_log(daemon)
    assert "3 could NOT be scored" in output


def test_epochs_that_could_not_be_scored_are_scored_by_the_next_call(daemon):
    daemon.scenario(never_ready=True)
    daemon.run()
    daemon.scenario()
    code, output = daemon.run()
    assert code == 0, output
    assert daemon.scored_epochs() == [(1, 1), (1, 2), (1, 3)]
    assert {row["verdict"] for row in daemon.rows()} == {"ok"}
    assert len(specs(daemon)) == 1


def test_an_evaluator_that_says_it_cannot_work_ends_a_new_run_with_78(daemon):
    """A device that is not there must not cost days of training without one score."""
    daemon.configure(epochs=500)
    daemon.scenario(unable="evaluator.device: cuda:3 is not there", step_seconds=0.05)
    code, output = daemon.run()
    assert code == 78, output
    assert "cuda:3 is not there" in output
    assert not daemon.worker_identity().alive()


def test_a_permanent_fault_that_was_mended_is_tried_again_by_the_same_command(daemon):
    daemon.scenario(import_error=True)
    assert daemon.run()[0] == 78
    daemon.scenario()
    code, output = daemon.run()
    assert code == 0, output
    assert daemon.scored_epochs() == [(2, 1), (2, 2), (2, 3)]


def test_settings_may_change_while_nothing_was_trained_with_them(daemon):
    daemon.scenario(import_error=True)
    daemon.run()
    text = (daemon.place / "run.toml").read_text()
    (daemon.place / "run.toml").write_text(text.replace("1e-3", "2e-3"))
    daemon.scenario()
    assert daemon.run()[0] == 0
    assert specs(daemon)[1]["lr"] == 2e-3


def test_an_alert_that_never_fired_is_not_told_as_resolved(daemon):
    daemon.scenario(verdicts={"1:1": "single-class"})
    code, output = daemon.run()
    assert code == 0, output
    assert alerts_log(daemon) == ""
    assert [alert.state for alert in daemon.history.alerts.values()] == [AlertState.WITHDRAWN]


def test_a_run_that_cannot_begin_leaves_no_directory(daemon):
    (daemon.place / "masks" / "one.png").unlink()
    code, output = daemon.run()
    assert code == 78
    assert "no masks there" in output
    assert not daemon.run_dir.exists()


def test_an_epoch_with_nan_logits_ends_its_attempt_and_is_rolled_back_past(daemon):
    daemon.configure(epochs=4)
    daemon.scenario(verdicts={"1:2": "not-finite"}, step_seconds=0.15)
    code, output = daemon.run()
    assert code == 0, output
    assert daemon.history.attempts[0].ended.outcome is Outcome.UNSTABLE
    assert specs(daemon)[1]["resume_from"] == "checkpoints/checkpoint_epoch1.json"
    assert ("2", "4") in {(row["attempt"], row["epoch"]) for row in daemon.rows()}


def test_a_killed_daemon_leaves_the_worker_training_and_its_successor_adopts_it(daemon):
    daemon.configure(epochs=5)
    daemon.scenario(step_seconds=0.2)
    first = daemon.start()
    daemon.until(lambda history: len(history.epochs) >= 1)
    worker = daemon.worker_identity()
    worker.send(signal.SIGSTOP)  # or it ends before a slow machine has started its second daemon
    first.kill()
    first.wait()
    assert worker.alive()
    second = daemon.start()
    daemon.until(lambda history: history.daemon.pid == second.pid)
    worker.send(signal.SIGCONT)
    code, output = daemon.finish(second)
    assert code == 0, output
    assert "adopted the worker" in output
    assert len(daemon.history.attempts) == 1
    assert daemon.scored_epochs() == [(1, epoch) for epoch in range(1, 6)]


def test_a_worker_that_ended_while_no_daemon_watched_is_taken_up_and_scored(daemon):
    daemon.scenario(step_seconds=0.1)
    first = daemon.start()
    daemon.until(lambda history: len(history.epochs) >= 1)
    worker = daemon.worker_identity()
    first.kill()
    first.wait()
    while worker.alive():
        pass
    code, output = daemon.run()
    assert code == 0, output
    assert daemon.scored_epochs() == [(1, 1), (1, 2), (1, 3)]
    assert len(daemon.history.attempts) == 1


def test_ctrl_c_saves_and_the_same_command_goes_on_where_it_stopped(daemon):
    daemon.scenario(step_seconds=0.15)
    first = daemon.start()
    daemon.until(lambda history: len(history.epochs) >= 1)
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=30)
    assert first.returncode == 130
    assert not daemon.worker_identity().alive()
    code, output = daemon.run()
    assert code == 0, output
    assert "recovery_step" in specs(daemon)[1]["resume_from"] or "epoch" in specs(daemon)[1]["resume_from"]
    assert [epoch for _, epoch in daemon.scored_epochs()] == [1, 2, 3]
    assert daemon.history.incidents == []


def test_a_second_ctrl_c_does_not_wait_for_a_worker_that_does_not_leave(daemon):
    text = (daemon.place / "run.toml").read_text()
    (daemon.place / "run.toml").write_text(text.replace("stop_grace_seconds = 5", "stop_grace_seconds = 500"))
    daemon.scenario(faults={"1:3": "slow"}, slow_seconds=400)
    first = daemon.start()
    daemon.until(lambda history: bool(history.attempts) and history.attempts[0].started is not None)
    first.send_signal(signal.SIGINT)
    for line in first.stdout:
        if "stopping:" in line:
            break
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=30)
    assert first.returncode == 130
    assert not daemon.worker_identity().alive()


def test_sigterm_ends_with_143(daemon):
    daemon.scenario(step_seconds=0.1)
    first = daemon.start()
    daemon.until(lambda history: len(history.epochs) >= 1)
    first.terminate()
    first.communicate(timeout=30)
    assert first.returncode == 143


def test_a_second_daemon_is_refused_with_75_and_the_pid_of_the_first(daemon):
    daemon.scenario(step_seconds=5)
    first = daemon.start()
    daemon.until(lambda history: bool(history.attempts) and history.attempts[0].spawned is not None)
    code, output = daemon.run()
    assert code == 75
    assert str(first.pid) in output


def test_a_daemon_killed_between_plan_and_spawn_carries_the_plan_out(daemon):
    """The intent of a remedy is on disk before it is applied: nothing is decided twice."""
    text = (daemon.place / "run.toml").read_text()
    (daemon.place / "run.toml").write_text(text.replace("backoff_seconds = 0.05", "backoff_seconds = 300"))
    daemon.scenario(faults={"1:6": "crash"})
    first = daemon.start()
    daemon.until(lambda history: len(history.attempts) == 2)
    first.kill()
    first.wait()
    code, output = daemon.run()
    assert code == 0, output
    assert len(daemon.history.attempts) == 2
    assert len(daemon.history.incidents) == 1
    fired = [a for a in daemon.history.alerts.values() if a.code == "worker-crashed"]
    assert [a.state for a in fired] == [AlertState.RESOLVED]


def test_a_daemon_whose_reader_is_gone_watches_on_and_stops_its_worker(daemon):
    """The pipe behind it is closed, as when a terminal goes: stopping still saves and ends the worker first."""
    daemon.configure(epochs=200)
    daemon.scenario(step_seconds=0.05)
    first = daemon.start()
    first.stdout.close()
    daemon.until(lambda history: len(history.epochs) >= 2 and not history.unscored)
    first.terminate()
    assert first.wait(timeout=30) == 143
    assert not daemon.worker_identity().alive()
    assert daemon.history.attempts[-1].ended.outcome is Outcome.STOPPED


def test_why_a_worker_left_is_known_to_the_daemon_that_comes_after(daemon):
    """The first daemon read the trouble together with a fact, noted how far it had read, and died."""
    daemon.scenario(faults={"1:6": "nan"})
    daemon.configure(epochs=2)
    assert daemon.run()[0] == 0
    spec = AttemptSpec.model_validate_json((daemon.run_dir / "attempts" / "001" / "spec.json").read_bytes())
    end = (spec.directory / "journal.jsonl").stat().st_size
    successor = Worker(spec, NOBODY, watch=WatchConfig(), now=0.0, offset=end)
    assert successor.read(0.0) == []
    assert successor.last_trouble.cause == "nan-loss"
    assert successor.last_trouble.fatal
