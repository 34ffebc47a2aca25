"""The commit record: how it is named, ordered, read and held against the files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segwatch.checkpoints.manifest import (
    MANIFEST_LIMIT_BYTES,
    MANIFEST_NAME,
    Architecture,
    Manifest,
    Role,
    StoredFile,
    read_manifest,
    scan_manifests,
    sha256_of,
    verify_file,
)
from segwatch.errors import CorruptCheckpointError

ABC_SHA256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
"""Of b"abc": FIPS 180-2, appendix B.1."""
ABC = StoredFile(name="a.pth", sha256=ABC_SHA256, size=3)


def manifest(role: Role = Role.EPOCH, *, epoch: int = 3, step: int = 120) -> Manifest:
    return Manifest(
        role=role,
        attempt=1,
        epoch=epoch,
        step=step,
        step_in_epoch=0,
        weights=ABC,
        state=None,
        finite=True,
        class_ids=(0, 2),
        class_names=("field", "roof"),
        architecture=Architecture(base_channels=4, classes=2),
        config_hash="0",
        created="2026-01-01T00:00:00+00:00",
    )


@pytest.mark.parametrize(
    ("role", "stem"),
    [(Role.INITIAL, "initial"), (Role.EPOCH, "checkpoint_epoch3"), (Role.RECOVERY, "recovery_step120")],
)
def test_a_checkpoint_is_named_after_its_role(role: Role, stem: str) -> None:
    assert manifest(role).stem == stem
    assert MANIFEST_NAME.match(f"{stem}.json")


def test_epochs_come_as_numbers_behind_the_initial_one_and_before_recoveries(tmp_path: Path) -> None:
    names = ["recovery_step7.json", "checkpoint_epoch10.json", "initial.json", "checkpoint_epoch2.json"]
    strangers = ["checkpoint_epoch3.pth", "checkpoint_epochX.json", ".checkpoint_epoch4.json.1-ab.tmp", "other.json"]
    for name in names + strangers:
        (tmp_path / name).touch()
    assert [path.name for path in scan_manifests(tmp_path)] == [
        "initial.json",
        "checkpoint_epoch2.json",
        "checkpoint_epoch10.json",
        "recovery_step7.json",
    ]


@given(epoch=st.integers(0, 10**6), step=st.integers(0, 10**9), role=st.sampled_from(Role))
def test_a_manifest_survives_json(epoch: int, step: int, role: Role) -> None:
    written = manifest(role, epoch=epoch, step=step)
    assert Manifest.model_validate_json(written.model_dump_json()) == written


def test_a_key_of_a_newer_release_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_epoch3.json"
    path.write_text(manifest().model_dump_json().removesuffix("}") + ', "from_the_future": 1}')
    assert read_manifest(path) == manifest()


@pytest.mark.parametrize("content", ["", "{}", "[]", "not json", '{"role": "epoch"', "\x00" * 16])
def test_what_is_no_manifest_is_corrupt(tmp_path: Path, content: str) -> None:
    path = tmp_path / "checkpoint_epoch3.json"
    path.write_text(content)
    with pytest.raises(CorruptCheckpointError, match="not a manifest"):
        read_manifest(path)


def test_a_huge_manifest_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_epoch3.json"
    with path.open("wb") as file:
        file.truncate(MANIFEST_LIMIT_BYTES + 1)
    with pytest.raises(CorruptCheckpointError, match="too large"):
        read_manifest(path)


def test_a_manifest_that_is_gone_is_not_called_corrupt(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_manifest(tmp_path / "checkpoint_epoch3.json")


def test_the_hash_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a.pth") == ABC_SHA256
    verify_file(tmp_path, ABC)


@pytest.mark.parametrize(("content", "reason"), [(b"abd", "sha256 differs"), (b"ab", "2 bytes"), (b"abcd", "4 bytes")])
def test_other_bytes_than_were_committed_are_corrupt(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(CorruptCheckpointError, match=reason):
        verify_file(tmp_path, ABC)


def test_a_manifest_cannot_point_out_of_its_directory(tmp_path: Path) -> None:
    inside = tmp_path / "checkpoints"
    inside.mkdir()
    (tmp_path / "a.pth").write_bytes(b"abc")
    (inside / "link.pth").symlink_to(tmp_path / "a.pth")
    for name in ("../a.pth", str(tmp_path / "a.pth"), "link.pth"):
        with pytest.raises(CorruptCheckpointError, match="not a plain file beside it"):
            verify_file(inside, ABC.model_copy(update={"name": name}))


def test_a_pipe_in_place_of_the_weights_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pth")
    with pytest.raises(CorruptCheckpointError, match="not a plain file"):
        verify_file(tmp_path, ABC)
