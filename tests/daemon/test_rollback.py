"""Where to go back to, and the moves that follow, with real files: nothing overwritten, deleted or trusted."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from segwatch.checkpoints.manifest import (
    Architecture,
    Manifest,
    Role,
    StoredFile,
    read_manifest,
    scan_manifests,
    sha256_of,
    verify_file,
)
from segwatch.daemon.rollback import ResumePoint, choose, good_before, quarantine, supersede
from segwatch.durable import write_text


class Checkpoints:
    """Writes checkpoints of a run as a worker does: weights, state, manifest."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.directory = run_dir / "checkpoints"
        self.directory.mkdir()

    def commit(
        self, role: Role, *, epoch: int, step: int, attempt: int = 1, finite: bool = True, state: bool = True
    ) -> Path:
        manifest = Manifest(
            role=role,
            attempt=attempt,
            epoch=epoch,
            step=step,
            step_in_epoch=0,
            weights=StoredFile(name="", sha256="", size=0),
            state=None,
            finite=finite,
            class_ids=(0, 1),
            class_names=("a", "b"),
            architecture=Architecture(base_channels=1, classes=2),
            config_hash="c",
            created="2026-01-01T00:00:00Z",
        )
        stored = {"weights": self._file(f"{manifest.stem}.pth", f"weights {attempt} {step}")}
        if state:
            stored["state"] = self._file(f"{manifest.stem}.state.pth", f"state {attempt} {step}")
        path = self.directory / f"{manifest.stem}.json"
        write_text(path, manifest.model_copy(update=stored).model_dump_json())
        return path

    def initial(self) -> Path:
        return self.commit(Role.INITIAL, epoch=0, step=0)

    def epoch(self, epoch: int, **more: object) -> Path:
        return self.commit(Role.EPOCH, epoch=epoch, step=10 * epoch, **more)

    def recovery(self, step: int) -> Path:
        return self.commit(Role.RECOVERY, epoch=step // 10, step=step)

    def _file(self, name: str, text: str) -> StoredFile:
        path = self.directory / name
        write_text(path, text)
        return StoredFile(name=name, sha256=sha256_of(path), size=path.stat().st_size)

    @property
    def names(self) -> list[str]:
        return [path.stem for path in scan_manifests(self.directory)]


@pytest.fixture
def disk(tmp_path) -> Checkpoints:
    return Checkpoints(tmp_path)


@pytest.fixture
def run(a_run):
    run = a_run()
    run.begins()
    return run


def chosen(disk: Checkpoints, run, want: str) -> str | None:
    point, broken = choose(disk.run_dir, run.history, want)
    assert broken == []
    return point and Path(point.manifest).stem


def test_of_a_long_run_only_what_comes_into_question_is_read(disk, run, monkeypatch):
    disk.initial()
    for epoch in range(1, 41):
        disk.epoch(epoch)
        run.trains(epoch, 0.5)
    read = []

    def counted(path):
        read.append(path.stem)
        return read_manifest(path)

    monkeypatch.setattr("segwatch.daemon.rollback.read_manifest", counted)
    assert chosen(disk, run, "verified-good") == "checkpoint_epoch40"
    assert read == ["initial", "checkpoint_epoch40"]
    read.clear()
    assert [manifest.epoch for manifest, _ in supersede(disk.run_dir, run.history, 380)] == [39, 40]
    assert read == ["initial", "checkpoint_epoch39", "checkpoint_epoch40"]


# --- choose --------------------------------------------------------------------------------------------------------


def test_where_nothing_was_committed_training_starts_from_the_beginning(disk, run):
    assert choose(disk.run_dir, run.history, "latest") == (None, [])


def test_the_latest_is_the_one_of_the_most_steps_whatever_kind_it_is(disk, run):
    disk.initial()
    assert chosen(disk, run, "latest") == "initial"
    for epoch in (2, 9, 10):
        disk.epoch(epoch)
    assert chosen(disk, run, "latest") == "checkpoint_epoch10"
    disk.recovery(105)
    assert chosen(disk, run, "latest") == "recovery_step105"
    disk.epoch(11)
    assert chosen(disk, run, "latest") == "checkpoint_epoch11"


def test_a_resume_point_names_the_manifest_below_the_run_with_epochs_and_steps_done(disk, run):
    disk.recovery(105)
    point, _ = choose(disk.run_dir, run.history, "latest")
    assert point == ResumePoint("checkpoints/recovery_step105.json", epoch=10, step=105)


def test_verified_good_is_scored_without_collapse_and_no_recovery_however_new(disk, run):
    disk.initial()
    for epoch, miou in ((1, 0.5), (2, 0.6), (3, 0.1)):  # the third collapsed
        disk.epoch(epoch)
        run.trains(epoch, miou)
    disk.epoch(4)
    run.commits(4)  # not scored
    disk.recovery(45)
    assert chosen(disk, run, "verified-good") == "checkpoint_epoch2"
    assert chosen(disk, run, "latest") == "recovery_step45"


def test_without_a_good_epoch_the_initial_weights_are_gone_back_to(disk, run):
    disk.initial()
    disk.epoch(1)
    run.commits(1)
    assert chosen(disk, run, "verified-good") == "initial"


@pytest.mark.parametrize("want", ["latest", "verified-good"])
def test_what_is_not_finite_is_never_chosen(disk, run, want):
    disk.initial()
    disk.epoch(1, finite=False)
    run.commits(1, finite=False)
    assert chosen(disk, run, want) == "initial"


def test_the_latest_is_from_before_an_epoch_that_gave_nan_whatever_was_saved_after_it(disk, run):
    disk.initial()
    for epoch, verdict in ((1, "ok"), (2, "not-finite"), (3, "not-finite")):
        disk.epoch(epoch)
        run.trains(epoch, 0.5 if verdict == "ok" else None, verdict=verdict)
    disk.recovery(15)
    disk.recovery(35)
    assert chosen(disk, run, "latest") == "checkpoint_epoch1", "somewhere behind it the trouble began"
    for epoch in (2, 3):
        run.moves(1, epoch)
    assert chosen(disk, run, "latest") == "recovery_step35", "what was superseded says nothing of the line that stands"


def test_a_good_epoch_behind_one_that_gave_nan_makes_it_a_thing_of_the_past(disk, run):
    for epoch, verdict in ((1, "not-finite"), (2, "ok")):
        disk.epoch(epoch)
        run.trains(epoch, 0.5 if verdict == "ok" else None, verdict=verdict)
    disk.recovery(25)
    assert chosen(disk, run, "latest") == "recovery_step25"


@pytest.mark.parametrize("want", ["latest", "verified-good"])
def test_what_has_no_training_state_any_more_is_passed_over_and_is_not_broken(disk, run, want):
    for epoch in (1, 2, 3):
        disk.epoch(epoch, state=epoch != 3)
        run.trains(epoch, 0.5)
    (disk.directory / "checkpoint_epoch2.state.pth").unlink()  # let go by retention
    assert chosen(disk, run, want) == "checkpoint_epoch1"


def test_the_score_of_another_attempt_makes_no_epoch_good(disk, run):
    disk.initial()
    run.trains(1, 0.5)
    disk.epoch(1, attempt=2)
    assert chosen(disk, run, "verified-good") == "initial"


@pytest.mark.parametrize("suffix", [".pth", ".state.pth"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "replaced by a link"])
def test_a_checkpoint_whose_bytes_changed_is_reported_and_the_next_older_is_chosen(disk, run, suffix, damage):
    for epoch in (1, 2):
        disk.epoch(epoch)
        run.trains(epoch, 0.5)
    path = disk.directory / f"checkpoint_epoch2{suffix}"
    whole = path.read_bytes()
    match damage:
        case "flipped":
            path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        case "cut":
            path.write_bytes(whole[:-1])
        case _:
            path.rename(disk.run_dir / "elsewhere")
            path.symlink_to(disk.run_dir / "elsewhere")
    point, broken = choose(disk.run_dir, run.history, "verified-good")
    assert point == ResumePoint("checkpoints/checkpoint_epoch1.json", epoch=1, step=10)
    assert [(entry.path.stem, entry.manifest.epoch) for entry in broken] == [("checkpoint_epoch2", 2)]


def test_missing_weights_are_broken_and_an_unreadable_manifest_too(disk, run):
    disk.initial()
    disk.epoch(1)
    (disk.directory / "checkpoint_epoch1.pth").unlink()
    (disk.directory / "checkpoint_epoch2.json").write_text("{")
    point, broken = choose(disk.run_dir, run.history, "latest")
    assert point.manifest == "checkpoints/initial.json"
    assert {entry.path.stem: entry.manifest is None for entry in broken} == {
        "checkpoint_epoch1": False,
        "checkpoint_epoch2": True,
    }


def test_files_that_are_no_checkpoints_of_ours_are_not_looked_at(disk, run):
    disk.initial()
    for name in ("notes.json", "checkpoint_epoch3.pth", "checkpoint_epochX.json", ".checkpoint_epoch9.json.1-ab.tmp"):
        (disk.directory / name).write_text("{")
    (disk.directory / "superseded").mkdir()
    assert chosen(disk, run, "latest") == "initial"


# --- before something went wrong ----------------------------------------------------------------------------------


def good(disk: Checkpoints, run, step: int, **more: object) -> list[str]:
    return [Path(manifest).stem for manifest in good_before(disk.run_dir, run.history, step, **more)]


@pytest.fixture
def fell(disk, run) -> Checkpoints:
    """Epochs 1 to 5 are good, the sixth (steps 51 to 60) fell, and a recovery lies in the middle of each."""
    disk.initial()
    for epoch, miou in ((1, 0.5), (2, 0.5), (3, 0.5), (4, 0.5), (5, 0.5), (6, 0.1)):
        disk.epoch(epoch)
        run.trains(epoch, miou)
        disk.recovery(10 * epoch - 5)
    return disk


def test_a_recovery_of_the_epoch_that_fell_is_neither_good_nor_gone_back_to(fell, run):
    assert good(fell, run, 60, onset=60) == ["checkpoint_epoch5", "recovery_step45"]
    point, _ = choose(fell.run_dir, run.history, "latest", before_step=60)
    assert Path(point.manifest).stem == "checkpoint_epoch5"


def test_nothing_behind_the_onset_is_good_however_far_behind_it_the_trouble_came(fell, run):
    assert good(fell, run, 60, onset=35) == ["checkpoint_epoch3", "recovery_step25"]


def test_where_no_onset_is_known_one_recovery_that_no_score_bears_out_may_count(disk, run):
    disk.epoch(1)
    run.trains(1, 0.5)
    for step in (13, 16, 19):
        disk.recovery(step)
    assert good(disk, run, 20) == ["recovery_step19", "checkpoint_epoch1"]
    assert good(disk, run, 20, onset=18) == ["checkpoint_epoch1"]


def test_before_the_first_good_epoch_a_recovery_from_before_the_onset_is_better_than_the_beginning(disk, run):
    disk.initial()
    disk.recovery(5)
    point, _ = choose(disk.run_dir, run.history, "latest", before_step=8)
    assert (point.step, good(disk, run, 9, onset=8)) == (5, ["recovery_step5", "initial"])


# --- the moves -----------------------------------------------------------------------------------------------------


def test_a_roll_back_moves_what_lies_beyond_its_step_and_leaves_what_lies_at_it(disk, run):
    disk.initial()
    for epoch in (1, 2, 10):
        disk.epoch(epoch)
    disk.recovery(15)
    disk.recovery(9)
    before = {path.name: path.read_text() for path in disk.directory.iterdir()}
    moved = {manifest.stem: where for manifest, where in supersede(disk.run_dir, run.history, 10)}
    assert disk.names == ["initial", "checkpoint_epoch1", "recovery_step9"]
    assert moved == {
        stem: f"checkpoints/superseded/001/{stem}.json"
        for stem in ("checkpoint_epoch2", "checkpoint_epoch10", "recovery_step15")
    }
    after = {path.name: path.read_text() for path in disk.directory.rglob("*") if path.is_file()}
    assert after == before


def test_a_roll_back_that_was_cut_short_is_carried_on_by_the_next(disk, run):
    for epoch in (1, 2, 3):
        disk.epoch(epoch)
    next(supersede(disk.run_dir, run.history, 0))  # the daemon dies after the first move
    assert [manifest.epoch for manifest, _ in supersede(disk.run_dir, run.history, 0)] == [2, 3]
    assert disk.names == []
    assert list(supersede(disk.run_dir, run.history, 0)) == []


def test_epochs_of_the_same_number_from_two_attempts_are_both_kept(disk, run):
    disk.epoch(2, attempt=1)
    list(supersede(disk.run_dir, run.history, 10))
    disk.epoch(2, attempt=2)
    list(supersede(disk.run_dir, run.history, 10))
    kept = sorted(
        str(path.relative_to(disk.directory)) for path in disk.directory.rglob("*.pth") if "state" not in path.name
    )
    assert kept == ["superseded/001/checkpoint_epoch2.pth", "superseded/002/checkpoint_epoch2.pth"]


def test_quarantine_takes_every_file_of_a_checkpoint_and_says_where_it_is(disk, run):
    path = disk.epoch(1)
    (disk.directory / "checkpoint_epoch1.pth").write_text("changed")
    _, [broken] = choose(disk.run_dir, run.history, "latest")
    where = quarantine(disk.run_dir, broken.path, broken.manifest)
    assert where == "checkpoints/quarantine/001/checkpoint_epoch1.json"
    assert not path.exists()
    assert sorted(entry.name for entry in (disk.run_dir / where).parent.iterdir()) == [
        "checkpoint_epoch1.json",
        "checkpoint_epoch1.pth",
        "checkpoint_epoch1.state.pth",
    ]


def test_quarantine_of_an_unreadable_manifest_takes_it_alone(disk):
    path = disk.directory / "checkpoint_epoch1.json"
    path.write_text("{")
    assert quarantine(disk.run_dir, path, None) == "checkpoints/quarantine/unknown/checkpoint_epoch1.json"


def test_a_manifest_that_cannot_be_read_does_not_keep_a_roll_back_from_its_work(disk, run):
    (disk.directory / "checkpoint_epoch1.json").write_text("{")
    disk.epoch(2)
    assert [manifest.epoch for manifest, _ in supersede(disk.run_dir, run.history, 0)] == [2]


def test_what_was_quarantined_before_is_not_overwritten(disk):
    for text in ("first", "second"):
        path = disk.directory / "checkpoint_epoch1.json"
        path.write_text(text)
        quarantine(disk.run_dir, path, None)
    kept = [path.read_text() for path in (disk.directory / "quarantine").rglob("*.json*")]
    assert sorted(kept) == ["first", "second"]


@pytest.mark.parametrize("calls", range(1, 9))
def test_a_move_cut_short_anywhere_leaves_a_manifest_with_its_files_beside_it(disk, run, monkeypatch, calls):
    """A superseded epoch that still waits for its score would else be taken for a corrupt one."""
    disk.epoch(1)
    left = calls

    def until_the_daemon_dies(done):
        def call(*arguments, **more):
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
            return done(*arguments, **more)

        return call

    with monkeypatch.context() as patch:
        for name in ("link", "replace", "rename", "unlink"):
            patch.setattr(os, name, until_the_daemon_dies(getattr(os, name)))
        with contextlib.suppress(KeyboardInterrupt):
            list(supersede(disk.run_dir, run.history, 0))
    [path] = disk.directory.rglob("checkpoint_epoch1.json")
    assert_whole(path)
    list(supersede(disk.run_dir, run.history, 0))
    assert disk.names == []
    assert_whole(disk.directory / "superseded" / "001" / "checkpoint_epoch1.json")


def test_a_file_system_without_hard_links_is_moved_on_too(disk, run, monkeypatch):
    disk.epoch(1)

    def refused(*_arguments, **_more):
        raise PermissionError

    monkeypatch.setattr(os, "link", refused)
    list(supersede(disk.run_dir, run.history, 0))
    assert list(disk.directory.glob("*.*")) == []
    assert_whole(disk.directory / "superseded" / "001" / "checkpoint_epoch1.json")


def assert_whole(path: Path) -> None:
    manifest = read_manifest(path)
    for stored in (manifest.weights, manifest.state):
        verify_file(path.parent, stored)
