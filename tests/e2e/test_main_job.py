"""`segwatch run` from audit to report, undisturbed and with every fault made on purpose."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from segwatch.trainer.standby import WAITS

from ..run_directory import files_without_a_name
from .conftest import Site, strict

pytestmark = pytest.mark.e2e


def numbers(site: Site, split: str = "test") -> list[int]:
    """The scored epochs: each once, whichever attempt trained it."""
    return sorted(epoch for _, epoch in site.scored_epochs(split))


def test_numeric_faults_are_repeated_and_told_apart(site: Site) -> None:
    """A NaN loss, a poisoned BatchNorm statistic and a NaN weight: what cannot be repeated changes nothing, and three
    steps are three places, however short an epoch is.
    """
    site.configure(epochs=6)
    drills = ("nan-loss@6", "poison-batchnorm@11", "nan-weights@18")
    code, output = site.segwatch("run", "run.toml", *(word for drill in drills for word in ("--drill", drill)))
    assert code == 0, output
    assert [site.history.diagnoses[number].finding for number in (1, 2, 3)] == ["transient"] * 3
    assert [attempt.plan.remedy for attempt in site.history.attempts] == [None, "resume", "resume", "resume"]
    assert [spec["lr"] for spec in site.specs()] == [3e-3] * 4
    assert {spec["amp"] for spec in site.specs()} == {"off"}
    assert numbers(site) == numbers(site, "val") == [1, 2, 3, 4, 5, 6]
    told = [(i.opened.cause.value, str(i.opened.drill)) for i in site.history.incidents]
    assert told == [
        ("nan-loss", "nan-loss@6"),
        ("nan-weights", "poison-batchnorm@11"),
        ("nan-weights", "nan-weights@18"),
    ]
    log = site.alerts_log()
    assert "nan-loss [DRILL nan-loss@6]" in log
    assert "BatchNorm running statistic" in log
    assert "guessed" not in log
    assert "device-suspect" not in log
    for number in ("001", "002", "003"):
        incident = site.run_dir / "incidents" / number
        assert (incident / "batch.pt").exists()
        assert (incident / "state.pt").exists() == (number == "003"), "of those that are answered it is not kept"
        strict((incident / "incident.json").read_text())
    alerts = strict(site.segwatch("alerts", "--json")[1])
    assert [(a["code"], a["state"]) for a in alerts if a["drill"]] == [
        ("nan-loss", "resolved"),
        ("nan-weights", "resolved"),
        ("nan-weights", "resolved"),
    ]
    assert all(
        set(alert) >= {"code", "severity", "state", "since", "cause", "evidence", "action", "advice", "drill"}
        for alert in alerts
    )


def test_process_faults_are_resumed_with_nothing_changed_and_told_apart(site: Site) -> None:
    """Killed, crashed, hung and out of memory, one after the other in one run."""
    site.configure(epochs=6, hang_floor=6.0)
    drills = ("kill@6", "crash@10", "hang@14", "out-of-memory@18")
    code, output = site.segwatch("run", "run.toml", *(word for drill in drills for word in ("--drill", drill)))
    assert code == 0, output
    assert {spec["lr"] for spec in site.specs()} == {3e-3}
    assert [(s["batch_size"], s["accumulate"]) for s in site.specs()] == [(4, 1)] * 4 + [(2, 2)]
    assert numbers(site) == [1, 2, 3, 4, 5, 6]
    told = [(i.opened.cause.value, str(i.opened.drill)) for i in site.history.incidents]
    assert told == [
        ("worker-crashed", "kill@6"),
        ("worker-crashed", "crash@10"),
        ("worker-hung", "hang@14"),
        ("out-of-memory", "out-of-memory@18"),
    ]
    log = site.alerts_log()
    assert "signal SIGKILL" in log
    assert "the worker crashed: " in log
    stacks = (site.run_dir / "attempts" / "003" / "worker.log").read_text()
    assert "most recent call first" in stacks


@pytest.mark.long
def test_fp16_on_the_cpu_skips_steps_in_peace(site: Site) -> None:
    """Overflowing gradients are the scaler's normal life: that step is counted, no alert, no restart."""
    site.configure(epochs=8, amp="fp16")
    code, output = site.segwatch("run", "run.toml", "--drill", "inf-gradients@12", "--drill", "inf-gradients@22")
    assert code == 0, output
    assert len(site.specs()) == 1
    codes = {alert.code for alert in site.history.alerts.values()}
    assert not codes & {"nan-loss", "inf-gradients", "nan-weights", "amp-unstable", "worker-crashed"}
    assert site.history.incidents == []
    progress = [line for line in site.journal(1) if line["kind"] == "progress"]
    assert progress[-1]["step"] == 32
    assert progress[-1]["skipped_steps"] == 2
    assert progress[-1]["amp_scale"] is not None


@pytest.mark.long
def test_a_killed_daemon_is_succeeded_and_nothing_is_scored_twice(site: Site) -> None:
    site.configure(epochs=2000)
    first = site.start("run", "run.toml")
    site.until(lambda history: len(history.epochs) >= 2)
    worker = site.worker_identity()
    first.kill()
    first.communicate()
    assert worker.alive(), "training goes on without its daemon"
    history = site.history
    status = strict(site.segwatch("status", "--json")[1])
    assert status["state"] == "unwatched"
    assert status["worker_pid"] == worker.pid
    second = site.start("run", "run.toml")
    missed = max(history.epochs)
    site.until(lambda history: history.epochs[missed].scored)
    assert site.worker_identity() == worker, "adopted, not started again"
    code, output = site.segwatch("stop")
    assert code == 0, output
    second.communicate(timeout=60)
    assert second.returncode == 143
    assert not worker.alive()
    keys = site.scored_epochs()
    assert len(keys) == len(set(keys)) >= len(history.epochs)


def standby_of(daemon: subprocess.Popen[str]) -> psutil.Process | None:
    """The one that has loaded everything and waits."""
    return next((child for child in psutil.Process(daemon.pid).children() if child.name() == WAITS), None)


def test_a_killed_worker_is_followed_by_a_standby_that_had_everything_loaded(site: Site) -> None:
    site.configure(epochs=20_000, standby=True)
    running = site.start("run", "run.toml")
    site.until(lambda _: standby_of(running) is not None)
    waiting = standby_of(running)
    assert waiting is not None
    assert waiting.memory_info().rss < 400e6
    spent = sum(waiting.cpu_times()[:2])
    assert site.worker_identity().send(signal.SIGKILL)
    site.until(lambda history: len(history.attempts) == 2 and max(history.epochs)[0] == 2)
    assert site.worker_identity().pid == waiting.pid
    assert spent > 1.0, "torch and the first optimizer were paid for"
    threads = Path(f"/proc/{waiting.pid}/task").iterdir()
    assert {os.getpriority(os.PRIO_PROCESS, int(thread.name)) for thread in threads} == {os.getpriority(0, 0)}
    waiting.send_signal(signal.SIGUSR1)
    log = site.run_dir / "attempts" / "002" / "worker.log"
    site.until(lambda _: "most recent call first" in log.read_text())
    assert site.segwatch("stop")[0] == 0
    running.communicate(timeout=60)
    assert not waiting.is_running()
    assert strict((log.parent / "exit.json").read_text())["message"] == "stopped on request"
    assert [attempt.plan.delay_seconds for attempt in site.history.attempts] == [0, 0]
    assert files_without_a_name(site.run_dir) == []


@pytest.mark.long
def test_a_stopped_run_ends_with_the_weights_of_one_that_was_not(site: Site) -> None:
    """Ctrl-C in mid-run, the same command again: bit-identical on the CPU."""
    site.configure(epochs=20)
    first = site.start("run", "run.toml")
    site.until(lambda history: len(history.epochs) >= 1)
    first.terminate()
    first.communicate(timeout=60)
    assert first.returncode == 143
    assert 0 < len(site.history.epochs) < 20
    assert site.segwatch("run", "run.toml")[0] == 0
    assert len(site.specs()) == 2
    assert site.segwatch("run", "run.toml", "--name", "undisturbed")[0] == 0
    stopped, undisturbed = (
        hashlib.sha256((site.place / "runs" / name / "checkpoints" / "checkpoint_epoch20.pth").read_bytes()).hexdigest()
        for name in ("run", "undisturbed")
    )
    assert stopped == undisturbed


def test_the_real_tiles_train_and_every_epoch_is_scored(tmp_path: Path, shared: Path) -> None:
    """The run.toml of the README on 72 messy aerial tiles, two small epochs of it."""
    place = tmp_path / "tiles"
    shutil.copytree(shared / "data" / "dubai_aerial", place)
    (place / "run.toml").write_text(
        """\
[data]
root = "."
classes = "classes.true.json"
use = "named-and-present"
scale = 0.125
[data.train]
images = "images/train"
masks = "masks_id/train"
[data.val]
images = "images/val"
masks = "masks_id/val"
[data.test]
images = "images/test"
masks = "masks_id/test"
[model]
name = "unet"
base_channels = 4
[trainer]
epochs = 2
batch_size = 4
lr = 1e-3
"""
    )
    site = Site(place, place)
    code, output = site.segwatch("run", "run.toml")
    assert code == 0, output
    assert numbers(site) == [1, 2]
    assert [row["images"] for row in site.rows() if row["split"] == "test"] == ["16", "16"]
    assert "255 is no label, and ignored" in output
    best = strict(site.segwatch("best", "--json")[1])
    assert set(best) >= {"by_test", "by_val", "gap"}
    assert Path(best["by_test"]["path"]).exists()
    assert (site.run_dir / "best_test.pth").exists()
    report = (site.run_dir / "report.md").read_text()
    assert report.startswith("# run\n\n**Finished**")
    pictures = re.findall(r"!\[.*\]\((.*)\)", report)
    assert "results.png" in pictures
    assert any(picture.startswith("evaluations/overlays/") for picture in pictures)
    assert all((site.run_dir / picture).stat().st_size > 10_000 for picture in pictures)
