"""Checkpoints that a thread writes while training goes on: never half, never two at once, never told too early."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from segwatch.checkpoints import files
from segwatch.checkpoints.files import load_state, load_weights
from segwatch.checkpoints.manifest import Role, read_manifest, scan_manifests, verify_file
from segwatch.durable import read_lines
from segwatch.trainer import loop, saving
from segwatch.trainer.__main__ import run
from segwatch.trainer.contract import JOURNAL_LINE, AttemptSpec, Drill, ExitCode, ExitRecord, JournalLine

DEADLINE_SECONDS = 60.0


def never() -> bool:
    return False


def run_spec(spec: AttemptSpec, stop: Callable[[], bool] = never) -> ExitCode:
    return run(spec.directory / "spec.json", stop)


def lines(spec: AttemptSpec) -> list[JournalLine]:
    raw, _ = read_lines(spec.directory / "journal.jsonl")
    return [JOURNAL_LINE.validate_json(line) for line in raw]


def told(spec: AttemptSpec) -> list[str]:
    """The checkpoints of the journal, and the troubles and the end between them."""
    words = []
    for line in lines(spec):
        if line.kind == "checkpoint":
            words.append(Path(line.manifest).stem)
        elif line.kind in {"trouble", "finished"}:
            words.append(line.kind)
    return words


def exit_record(spec: AttemptSpec) -> ExitRecord:
    return ExitRecord.model_validate_json((spec.directory / "exit.json").read_text())


def stored(spec: AttemptSpec, stem: str) -> tuple[str, str]:
    """The hashes of weights and state, which have been checked against the files."""
    directory = spec.run_dir / "checkpoints"
    manifest = read_manifest(directory / f"{stem}.json")
    load_weights(directory, manifest)
    load_state(directory, manifest)
    return manifest.weights.sha256, manifest.state.sha256


def before_steps(monkeypatch: pytest.MonkeyPatch, look: Callable[[int], None]) -> None:
    """`look` is called with the number of each step before it is taken."""
    take = loop.Stepper.take

    def watched(stepper, step, *args, **kwargs):
        look(step)
        return take(stepper, step, *args, **kwargs)

    monkeypatch.setattr(loop.Stepper, "take", watched)


class SlowDisk:
    """Writes no epoch's checkpoint until it may; at most one thread is ever in it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may = threading.Event()
        self.most = self._inside = 0
        self._commit = files.commit
        monkeypatch.setattr(files, "commit", self._slow)

    def _slow(self, *args, role, **kwargs):
        self._inside += 1
        self.most = max(self.most, self._inside)
        if role is Role.EPOCH:
            assert self.may.wait(DEADLINE_SECONDS), "training waited for the disk"
        try:
            return self._commit(*args, role=role, **kwargs)
        finally:
            self._inside -= 1


def test_training_goes_on_while_an_epoch_is_written_and_the_journal_waits_for_the_commit(make_spec, monkeypatch):
    quick, slow = make_spec(run="quick"), make_spec(run="slow")
    assert run_spec(quick) == ExitCode.FINISHED
    disk = SlowDisk(monkeypatch)

    def look(step: int) -> None:
        if step == 7:  # two steps of epoch 2 were taken meanwhile
            assert told(slow) == ["initial"]
            assert not (slow.run_dir / "checkpoints" / "checkpoint_epoch1.json").exists()
            disk.may.set()

    before_steps(monkeypatch, look)
    assert run_spec(slow) == ExitCode.FINISHED
    assert told(slow) == ["initial", "checkpoint_epoch1", "checkpoint_epoch2", "finished"]
    # What moved on meanwhile was not what is written.
    assert stored(slow, "checkpoint_epoch1") == stored(quick, "checkpoint_epoch1")
    assert stored(slow, "checkpoint_epoch2") == stored(quick, "checkpoint_epoch2")


def test_no_thread_outlives_its_checkpoint(make_spec, monkeypatch):
    """On the CPU its OpenMP threads would make those of every later step sleep at their barriers."""
    alive = []
    take = loop.Stepper.take

    def looked(self, step, *given, **named):
        threads = [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint")]
        if step == 1:  # the initial one is committed before any step
            for thread in threads:
                thread.join(5)
            alive.extend(thread.name for thread in threads if thread.is_alive())
        return take(self, step, *given, **named)

    monkeypatch.setattr(loop.Stepper, "take", looked)
    assert run_spec(make_spec(epochs=1)) is ExitCode.FINISHED
    assert alive == []


def test_the_next_checkpoint_waits_for_the_one_under_way_and_takes_no_copy_before(make_spec, monkeypatch):
    spec = make_spec(recovery_seconds=1e-9)
    disk = SlowDisk(monkeypatch)
    disk.may.set()
    copied, copies = files.copied_weights, []

    def watched(*given):
        copies.append(disk._inside)
        return copied(*given)

    monkeypatch.setattr(files, "copied_weights", watched)
    assert run_spec(spec) == ExitCode.FINISHED
    assert told(spec)[:-1] == [
        "initial",
        *[f"recovery_step{step}" for step in range(1, 5)],
        "checkpoint_epoch1",
        *[f"recovery_step{step}" for step in range(5, 9)],
        "checkpoint_epoch2",
    ]
    assert copies == [0] * 11
    assert disk.most == 1


def test_a_stop_waits_for_the_write_under_way(make_spec, monkeypatch):
    spec, disk = make_spec(), SlowDisk(monkeypatch)

    begin, asked = saving.Saver.save, threading.Event()

    def watched(saver, role, *args, **kwargs):
        begin(saver, role, *args, **kwargs)
        if role is Role.EPOCH:
            asked.set()

    settle = saving.Saver.settle

    def waits(saver):
        if asked.is_set():
            disk.may.set()
        settle(saver)

    monkeypatch.setattr(saving.Saver, "save", watched)
    monkeypatch.setattr(saving.Saver, "settle", waits)
    assert run_spec(spec, asked.is_set) == ExitCode.STOPPED
    assert told(spec) == ["initial", "checkpoint_epoch1", "finished"]
    assert exit_record(spec).epoch == 1


@pytest.mark.parametrize(("drill", "code"), [("nan-loss@5", ExitCode.UNSTABLE), ("crash@5", ExitCode.CRASHED)])
def test_an_incident_waits_for_the_write_under_way(make_spec, monkeypatch, drill, code):
    spec, disk = make_spec(drills=(Drill.parse(drill),)), SlowDisk(monkeypatch)
    finish = saving.Saver.finish

    def watched(saver):
        disk.may.set()
        finish(saver)

    monkeypatch.setattr(saving.Saver, "finish", watched)
    assert run_spec(spec) == code
    assert told(spec) == ["initial", "checkpoint_epoch1", "trouble", "finished"]
    record = exit_record(spec)
    assert (record.epoch, record.step) == (1, 5 if code is ExitCode.UNSTABLE else 4)


def refuse_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    commit = files.commit

    def full(*args, role, **kwargs):
        if role is Role.EPOCH:
            raise OSError(28, "No space left on device")
        return commit(*args, role=role, **kwargs)

    monkeypatch.setattr(files, "commit", full)


def test_a_disk_that_refuses_the_thread_ends_training_and_the_epoch_does_not_count(make_spec, monkeypatch):
    spec = make_spec()
    refuse_epochs(monkeypatch)
    assert run_spec(spec) == ExitCode.CRASHED
    record = exit_record(spec)
    assert "bytes free" in record.message
    assert record.epoch == 0
    assert told(spec) == ["initial", "trouble", "finished"]


def test_a_disk_that_refuses_does_not_hide_why_training_ended(make_spec, monkeypatch, caplog):
    spec = make_spec(drills=(Drill.parse("nan-loss@5"),))
    refuse_epochs(monkeypatch)
    monkeypatch.setattr(saving.Saver, "tend", lambda _saver: None)  # as if it had been a moment slower
    assert run_spec(spec) == ExitCode.UNSTABLE
    assert (spec.run_dir / "incidents" / "001" / "worker.json").exists()
    assert "bytes free" in caplog.text


def test_what_is_looked_at_is_the_copy_that_is_written(make_spec, monkeypatch):
    copied = files.copied_weights

    def spoilt(*given):
        copy = copied(*given)
        copy["inc.double_conv.1.running_mean"][0] = float("nan")
        return copy

    monkeypatch.setattr(files, "copied_weights", spoilt)
    spec = make_spec()
    assert run_spec(spec) == ExitCode.UNSTABLE
    assert list((spec.run_dir / "checkpoints").iterdir()) == []


def test_without_memory_for_a_copy_training_waits_and_the_same_bytes_are_written(make_spec, monkeypatch, caplog):
    def no_memory(*_given):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte")

    roomy, full = make_spec(run="roomy", epochs=1), make_spec(run="full", epochs=1)
    run_spec(roomy)
    monkeypatch.setattr(files, "copied_weights", no_memory)
    assert run_spec(full) == ExitCode.FINISHED
    assert stored(full, "checkpoint_epoch1") == stored(roomy, "checkpoint_epoch1")
    assert "no memory for a copy" in caplog.text


def test_what_a_killed_worker_left_half_written_is_removed_by_the_next_and_nothing_else(make_spec):
    spec = make_spec(epochs=1)
    directory = spec.run_dir / "checkpoints"
    half = [directory / f".checkpoint_epoch3.{kind}.4711-0badcafe.tmp" for kind in ("pth", "state.pth")]
    others = [directory / ".checkpoint_epoch3.json.4711-0badcafe.tmp", directory / "mine.pth"]
    for path in (*half, *others):
        path.write_bytes(b"half")
    assert run_spec(spec) == ExitCode.FINISHED
    assert not any(path.exists() for path in half)
    assert all(path.exists() for path in others), "the daemon may be writing it, a person may want it"


def test_a_copy_shares_nothing_and_keeps_every_stride():
    moment = torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last)
    tree = {"state": {0: {"exp_avg": moment, "step": torch.tensor(1.0)}}, "groups": [{"betas": (0.9, 0.99)}]}
    copy = files.copied(tree)
    assert copy["state"][0]["exp_avg"].stride() == moment.stride()
    moment.zero_()
    tree["groups"][0]["betas"] = (0.0, 0.0)
    assert copy["state"][0]["exp_avg"].sum() == 276
    assert copy["groups"] == [{"betas": (0.9, 0.99)}]
    [weight] = files.copied_weights({"conv.weight": moment}).values()
    assert weight.is_contiguous()


def test_the_next_copy_is_made_in_the_memory_of_the_one_before_and_is_the_same_as_a_new_one():
    """New memory is handed out page by page, at several times the cost of the copying."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).to(
        memory_format=torch.channels_last
    )
    optimizer = torch.optim.AdamW(network.parameters())
    kept: list[tuple[object, object]] = []
    for _ in range(2):
        network(torch.rand(2, 3, 8, 8)).square().mean().backward()
        optimizer.step()
        weights, state = network.state_dict(), optimizer.state_dict()
        before = kept[-1] if kept else (None, None)
        kept.append((files.copied_weights(weights, before[0]), files.copied(state, before[1])))
    fresh = files.copied_weights(weights), files.copied(state)
    for one, room, new in zip(*(dict(files._tensors(list(copies))).values() for copies in (*kept, fresh)), strict=True):
        assert one.data_ptr() == room.data_ptr()
        assert torch.equal(room, new)
        assert room.stride() == new.stride()
    assert kept[1][1]["param_groups"] == fresh[1]["param_groups"]


def test_a_copy_goes_to_memory_of_its_own_where_that_of_the_one_before_does_not_fit():
    room = {"a": torch.zeros(3), "b": torch.zeros(2, dtype=torch.int64)}
    copy = files.copied({"a": torch.ones(4), "b": torch.ones(2), "c": [torch.ones(1)]}, room)
    assert [copy["a"].tolist(), copy["b"].tolist(), copy["c"][0].tolist()] == [[1.0] * 4, [1.0] * 2, [1.0]]
    assert room["a"].tolist() == [0.0] * 3


class Moments:
    """Keeps what a kill would leave in `directory`, before and after each call that changes something on the disk."""

    def __init__(self, directory: Path, into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._directory, self._into = directory, into
        self.kept: list[Path] = []
        for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink")):
            monkeypatch.setattr(owner, name, self._around(getattr(owner, name)))

    def _around(self, call: Callable) -> Callable:
        def watched(*args, **kwargs):
            off_the_main_thread = threading.current_thread() is not threading.main_thread()
            if off_the_main_thread:
                self._keep()
            result = call(*args, **kwargs)
            if off_the_main_thread:
                self._keep()
            return result

        return watched

    def _keep(self) -> None:
        here = self._into / f"{len(self.kept):03d}"
        shutil.copytree(self._directory, here / "checkpoints", copy_function=os.link)  # a name never gets other bytes
        self.kept.append(here)


def test_killed_at_whatever_point_of_a_write_only_whole_checkpoints_are_there_and_one_is_resumed(
    make_spec, monkeypatch, tmp_path
):
    spec = make_spec(epochs=2, recovery_seconds=1e-9, batch_size=4)
    with monkeypatch.context() as patched:
        moments = Moments(spec.run_dir / "checkpoints", tmp_path / "moments", patched)
        assert run_spec(spec) == ExitCode.FINISHED
    assert len(moments.kept) > 7 * 3 * 4, "weights, state and manifest, each flushed and named"
    between = 0
    for place in moments.kept:
        directory = place / "checkpoints"
        committed = [read_manifest(path) for path in scan_manifests(directory)]
        for manifest in committed:
            assert manifest.finite
            verify_file(directory, manifest.weights)
            verify_file(directory, manifest.state)
        stems = {manifest.stem for manifest in committed}
        between += any(path.name.removesuffix(".pth") not in stems for path in directory.glob("checkpoint_epoch?.pth"))
    assert between, "no moment with an epoch's weights in place and its manifest not yet"

    half = next(
        place / "checkpoints"
        for place in moments.kept
        if (place / "checkpoints/checkpoint_epoch2.pth").exists()
        and not (place / "checkpoints/checkpoint_epoch2.json").exists()
    )
    again = make_spec(run="again", epochs=2, resume_from="checkpoints/checkpoint_epoch1.json", batch_size=4)
    shutil.copytree(half, again.run_dir / "checkpoints", dirs_exist_ok=True)
    assert run_spec(again) == ExitCode.FINISHED
    assert stored(again, "checkpoint_epoch2")[0] == stored(spec, "checkpoint_epoch2")[0]
