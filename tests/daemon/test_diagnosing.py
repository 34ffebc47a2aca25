"""A replay is started under the worker's lock, bounded, read with care and recorded once, whatever becomes of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest
from segwatch.checkpoints.manifest import Role
from segwatch.daemon.diagnosing import LIMIT_BYTES, WORDS_LIMIT
from segwatch.daemon.events import Diagnosed
from segwatch.daemon.inbox import Interrupted
from segwatch.daemon.process import Identity
from segwatch.daemon.rundir import RunDir
from segwatch.daemon.stopping import stop_run
from segwatch.trainer.contract import ExitCode
from segwatch.trainer.diagnosis import DIAGNOSIS, Finding

from ..faults.in_process import Killed
from ..faults.in_turns import Night


@pytest.fixture
def night(tmp_path) -> Iterator[Night]:
    night = Night(tmp_path)
    yield night
    night.close()


def diagnosed(night) -> list[Diagnosed]:
    return night.tell(Diagnosed)


def test_the_replay_runs_alone_and_its_finding_decides(night):
    night.trains(2)
    night.meets_a_nan()
    replay = night.replay()
    assert night.world.worker is None
    assert (replay.spec.incident, replay.spec.attempt, replay.spec.seconds) == (1, 1, 120.0)
    night.is_found("precision", bf16_is_finite=True)
    assert diagnosed(night) == [
        Diagnosed(
            incident=1,
            finding=Finding.PRECISION,
            because="as the scenario says.",
            bf16_is_finite=True,
            seconds=0.1,
        )
    ]
    assert (night.plan.remedy, night.plan.amp, night.plan.lr) == ("bf16", "bf16", 1e-3)
    assert night.world.worker.spec.amp == "bf16"


def test_it_is_given_the_two_newest_good_states_from_before_the_incident(night):
    night.trains(3)
    night.meets_a_nan()
    epochs = ("checkpoints/checkpoint_epoch3.json", "checkpoints/checkpoint_epoch2.json")
    assert night.replay().spec.good == epochs


def test_a_state_that_is_broken_or_known_to_be_bad_is_not_given(night):
    night.trains(1)
    night.trains(1, miou=0.1)  # collapsed
    night.trains(1)
    (night.world.run.checkpoints / "checkpoint_epoch3.pth").write_text("other bytes")
    night.meets_a_nan()
    assert night.replay().spec.good == ("checkpoints/checkpoint_epoch1.json", "checkpoints/initial.json")


def test_epochs_are_scored_while_it_runs(night):
    night.trains(1)
    night.world.worker.epoch = 2
    night.world.worker.step = 4
    night.world.worker.commit(Role.EPOCH)
    night.meets_a_nan()
    night.replay()
    night.scores(0.6)
    assert night.world.diagnosis is not None
    assert night.history.unscored == {}


@pytest.mark.parametrize("extra", ["diagnose = false", ""])
def test_where_it_is_not_wanted_or_not_possible_the_ladder_decides_at_once(tmp_path, extra):
    night = Night(tmp_path, extra=extra)
    night.trains(1)
    night.meets_a_nan(leaves_batch=bool(extra))
    night.until(lambda: night.world.worker is not None)
    assert night.world.replayed == []
    assert [d.because for d in diagnosed(night)] == ([] if extra else ["the worker left no batch to repeat"])
    assert night.plan.remedy == "amp-off"
    assert "guessed: nan-loss in epoch 2" in night.plan.because
    assert night.plan.guessed
    night.close()


def test_one_that_takes_too_long_is_killed_and_the_report_says_that_it_guessed(night):
    night.trains(1)
    night.meets_a_nan()
    night.replay()
    night.world.now += 120 + 4.5  # watch.stop_grace_seconds is 5 here
    night.tick()
    assert night.world.diagnosis is not None
    night.world.now += 1
    night.until(lambda: night.world.worker is not None)
    assert [d.because for d in diagnosed(night)] == ["it was not done within 125 s, and was ended"]
    assert "guessed: nan-loss in epoch 2" in night.plan.because


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "the replay left no answer (exit code 1): incidents/001/diagnosis.log"),
        ('{"finding": "witchcraft"}', "the replay left no answer (exit code 1)"),
        ("x" * (LIMIT_BYTES + 1), "the replay left no answer (exit code 1)"),
        ("[" * 100_000, "the replay left no answer (exit code 1)"),
    ],
)
def test_what_is_no_answer_is_none(night, content, why):
    night.trains(1)
    night.meets_a_nan()
    replay = night.replay()
    if content is not None:
        (replay.place / DIAGNOSIS).write_text(content)
    night.world.diagnosis_dies(ExitCode.CRASHED)
    night.until(lambda: night.world.worker is not None)
    (told,) = diagnosed(night)
    assert told.finding is Finding.UNKNOWN
    assert why in told.because


def test_what_it_says_can_do_nothing_but_be_read(night):
    night.trains(1)
    night.meets_a_nan()
    night.is_found("transient", because="\x1b[2J\nall is well\x07" + "x" * 5000)
    (told,) = diagnosed(night)
    assert told.because.startswith("[2J all is well x")
    assert len(told.because) <= WORDS_LIMIT + 2


def test_only_files_that_were_reproduced_twice_and_are_trained_are_left_out_and_stay_so(night):
    night.trains(1)
    night.meets_a_nan()
    files = [{"image": "b.png"}, {"image": "c.png", "reproduced": 1}, {"image": "../etc/passwd"}]
    night.is_found("data", files=files)
    assert (night.plan.remedy, night.plan.left_out) == ("leave-out", ("b.png",))
    assert night.world.worker.spec.left_out == ("b.png",)
    night.trains(2)
    night.meets_a_nan()
    night.is_found("data", files=[{"image": "d.png"}])
    assert night.plan.left_out == ("b.png", "d.png")
    assert night.world.worker.spec.left_out == ("b.png", "d.png")


def test_what_only_the_pixel_cache_has_wrong_is_decoded_again_and_trained_on(night):
    night.trains(1)
    night.meets_a_nan()
    night.is_found("data", files=[{"image": "b.png", "cached_only": True}, {"image": "no.png", "cached_only": True}])
    assert (night.plan.remedy, night.plan.left_out, night.plan.decode_again) == ("resume", (), ("b.png",))
    assert "guessed" not in night.plan.because
    assert (night.world.worker.spec.decode_again, night.world.worker.spec.left_out) == (("b.png",), ())
    night.world.worker_dies(-9)
    night.until(lambda: night.world.worker is not None)
    assert night.world.worker.spec.decode_again == ("b.png",), "it may have died before it came to it"


def test_a_replay_that_blames_most_of_the_data_is_not_believed(night):
    night.trains(1)
    night.meets_a_nan()
    night.is_found("data", files=[{"image": f"{name}.png"} for name in "abcd"])
    assert night.plan.left_out == ()
    assert "4 of 6 training images are too many to leave out" in night.plan.because
    assert "guessed" in night.plan.because


# --- daemons that die ----------------------------------------------------------------------------------------------


def test_one_that_outlived_its_daemon_is_killed_and_begun_again_twice_at_most(night):
    night.trains(1)
    night.meets_a_nan()
    for times in (1, 2):
        first = night.replay()
        assert night.world.replayed == [1] * times
        night.lose_daemon()
        night.begin_daemon()
        night.until(lambda gone=first: night.world.diagnosis is not gone)
    night.until(lambda: night.world.worker is not None)
    assert night.world.replayed == [1, 1]
    assert [d.because for d in diagnosed(night)] == ["2 replays were begun, and none came to its end"]


def test_an_answer_that_came_while_no_daemon_watched_is_taken_as_it_is(night):
    night.trains(1)
    night.meets_a_nan()
    night.replay()
    night.lose_daemon()
    night.world.diagnosis_finds(finding="transient")
    night.begin_daemon()
    night.until(lambda: night.world.worker is not None)
    assert night.world.replayed == [1]
    assert [d.finding for d in diagnosed(night)] == [Finding.TRANSIENT]


@pytest.mark.parametrize("point", range(1, 9))
def test_wherever_its_daemon_dies_there_is_one_replay_at_a_time_and_one_finding(night, point):
    """`World.spawn` refuses a second process; some points lie before it was noted whose pid it has."""
    night.trains(1)
    night.world.worker.take_step()
    night.world.worker.meets_a_nan()
    night.world.worker_leaves(ExitCode.UNSTABLE, "the loss became NaN", "nan-loss")
    night.world.kill_in = point
    with suppress(Killed):
        for _ in range(5):
            night.tick()
    night.world.kill_in = None
    night.lose_daemon()
    night.begin_daemon()
    night.tick()
    night.tick()
    night.is_found("precision")
    assert len(diagnosed(night)) == 1
    assert len(night.world.replayed) <= 2
    assert night.plan.remedy == "amp-off"


def test_a_stop_ends_it_at_once_and_the_next_daemon_begins_it_again_however_often(night):
    night.trains(1)
    night.meets_a_nan()
    for _ in range(3):
        night.replay()
        night.world.daemon.inbox.put(Interrupted(signal.SIGINT))
        night.tick()
        assert night.world.diagnosis is None
        night.until(lambda: night.over)
        assert night.world.daemon.exit_code == 130
        night.lose_daemon()
        night.begin_daemon()
    assert diagnosed(night) == []
    night.is_found("transient")
    assert (night.plan.remedy, night.plan.amp) == ("resume", "fp16")


@pytest.mark.parametrize("full", ["before", "torn", "database"])
def test_a_disk_that_takes_no_finding_costs_a_fresh_start_and_no_second_replay(night, full):
    night.trains(1)
    night.meets_a_nan()
    night.replay()
    night.world.diagnosis_finds(finding="transient")
    night.world.disk.full = full
    with pytest.raises(Exception, match=r"full|space"):
        night.tick()
    night.world.disk.full = None
    night.lose_daemon()
    night.begin_daemon()
    night.until(lambda: night.world.worker is not None)
    assert night.world.replayed == [1]
    assert [d.finding for d in diagnosed(night)] == [Finding.TRANSIENT]


# --- in processes of their own --------------------------------------------------------------------------------------


def test_a_replay_whose_daemon_is_dead_is_ended_by_segwatch_stop(daemon):
    daemon.scenario(faults={"1:6": "nan"}, diagnosis={"1": "hang"})
    first = daemon.start()
    replays = daemon.run_dir / "replays.txt"
    daemon.until(lambda _: replays.exists() and replays.read_text().endswith("\n"))
    first.kill()
    first.wait()
    told: list[str] = []
    stop_run(RunDir(daemon.run_dir), told.append)
    assert told[-1] == "stopped"
    left = Identity.of(int(replays.read_text().split()[1]))  # may wait to be reaped by whoever reaps orphans here
    assert left is None or not left.alive()


def test_a_replay_that_hangs_is_ended_with_the_run_and_begun_again_by_the_next(daemon):
    daemon.configure(amp="fp16")
    daemon.scenario(faults={"1:6": "nan"}, diagnosis={"1": "hang"})
    first = daemon.start()
    replays = daemon.run_dir / "replays.txt"
    daemon.until(lambda _: replays.exists() and replays.read_text().endswith("\n"))
    first.terminate()
    assert first.wait(timeout=30) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int(replays.read_text().split()[1]), 0)
    daemon.scenario(faults={"1:6": "nan"}, diagnosis={"1": {"finding": "precision", "bf16_is_finite": True}})
    code, output = daemon.run()
    assert code == 0, output
    assert "incident 001 replayed: precision: as the scenario says." in output
    assert "nan-loss in epoch 2 is the precision: AMP fp16 -> bf16, learning rate kept" in output
    assert len(replays.read_text().splitlines()) == 2
