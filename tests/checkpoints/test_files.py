from __future__ import annotations

import errno
import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from segwatch.checkpoints import files
from segwatch.checkpoints.manifest import Architecture, Manifest, Role, StoredFile, read_manifest
from segwatch.errors import CorruptCheckpointError

IDENTITY = files.Identity(
    attempt=1,
    class_ids=(0, 3),
    class_names=("field", "road"),
    architecture=Architecture(base_channels=2, classes=2),
    config_hash="settings",
)


def weights(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {
        "conv.weight": torch.full((4, 3, 3, 3), value).to(memory_format=torch.channels_last),
        "norm.running_var": torch.ones(4),
        "norm.num_batches_tracked": torch.tensor(7),
    }


def state() -> dict[str, Any]:
    return {"optimizer": {"state": {0: {"exp_avg": torch.zeros(4), "step": 3}}, "groups": [{"betas": (0.9, 0.999)}]}}


def commit(directory: Path, *, role: Role = Role.EPOCH, epoch: int = 2, step: int = 40, **held: Any) -> Manifest:
    held = {"weights": weights(), "state": state(), **held}
    return files.commit(directory, IDENTITY, role=role, epoch=epoch, step=step, step_in_epoch=0, **held)


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_committed_checkpoint_comes_back_as_it_was(tmp_path):
    manifest = commit(tmp_path)
    assert names_in(tmp_path) == [
        "checkpoint_epoch2.json",
        "checkpoint_epoch2.pth",
        "checkpoint_epoch2.state.pth",
    ]
    assert read_manifest(tmp_path / "checkpoint_epoch2.json") == manifest
    assert manifest.finite
    loaded = files.load_weights(tmp_path, manifest)
    assert loaded.keys() == weights().keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights().items())
    assert all(tensor.is_contiguous() for tensor in loaded.values())
    assert files.load_state(tmp_path, manifest)["optimizer"]["groups"] == [{"betas": (0.9, 0.999)}]


@pytest.mark.parametrize(
    ("role", "stem"),
    [(Role.INITIAL, "initial"), (Role.EPOCH, "checkpoint_epoch2"), (Role.RECOVERY, "recovery_step40")],
)
def test_files_are_named_by_role(tmp_path, role, stem):
    assert commit(tmp_path, role=role).stem == stem
    assert (tmp_path / f"{stem}.pth").is_file()


@pytest.mark.parametrize("name", ["checkpoint_epoch2.pth", "checkpoint_epoch2.state.pth"])
def test_one_flipped_bit_is_refused(tmp_path, name):
    manifest = commit(tmp_path)
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    load = files.load_state if "state" in name else files.load_weights
    with pytest.raises(CorruptCheckpointError, match="sha256"):
        load(tmp_path, manifest)


def test_a_file_cut_short_is_refused(tmp_path):
    manifest = commit(tmp_path)
    path = tmp_path / manifest.weights.name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptCheckpointError, match="bytes"):
        files.load_weights(tmp_path, manifest)


def test_a_missing_file_and_a_missing_state_are_refused(tmp_path):
    manifest = commit(tmp_path, state=None)
    with pytest.raises(CorruptCheckpointError, match="no training state"):
        files.load_state(tmp_path, manifest)
    (tmp_path / manifest.weights.name).unlink()
    with pytest.raises(CorruptCheckpointError):
        files.load_weights(tmp_path, manifest)


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("legacy", [True, False])
def test_a_pickle_with_code_in_it_is_never_run_even_when_its_hash_is_right(tmp_path, legacy):
    manifest = commit(tmp_path)
    path, sung = tmp_path / manifest.weights.name, tmp_path / "sung"
    if legacy:
        path.write_bytes(pickle.dumps(Canary(sung)))
    else:
        torch.save({"weights": Canary(sung)}, path)
    content = path.read_bytes()
    stored = StoredFile(name=path.name, sha256=hashlib.sha256(content).hexdigest(), size=len(content))
    with pytest.raises(CorruptCheckpointError, match="cannot be loaded"):
        files.load_weights(tmp_path, manifest.model_copy(update={"weights": stored}))
    assert not sung.exists()


def test_what_is_no_state_dict_is_refused(tmp_path):
    manifest = commit(tmp_path, weights={"a": torch.ones(1)}, state={"b": 1})
    assert manifest.state is not None
    with pytest.raises(CorruptCheckpointError, match="named tensors"):
        files.load_weights(tmp_path, manifest.model_copy(update={"weights": manifest.state}))


def test_tensors_that_are_not_finite_are_named_wherever_they_are(tmp_path):
    bad_weights = weights() | {"norm.running_var": torch.tensor([1.0, float("inf")])}
    bad_state = {"optimizer": {"state": {3: {"exp_avg": torch.tensor([float("nan")])}}}, "list": [torch.zeros(0)]}
    manifest = commit(tmp_path, weights=bad_weights, state=bad_state)
    assert not manifest.finite
    assert manifest.nonfinite == ("norm.running_var", "optimizer.state.3.exp_avg")


@pytest.mark.parametrize("value", [-1.0, -5e-6])
def test_a_negative_running_variance_is_committed_as_poisoned_and_named(tmp_path, value):
    """Above -eps the logits stay finite: nothing else would ever tell."""
    bad = weights() | {"norm.running_var": torch.tensor([1.0, value]), "norm.running_mean": torch.tensor([-1.0])}
    manifest = commit(tmp_path, weights=bad)
    assert (manifest.finite, manifest.nonfinite) == (False, ("norm.running_var < 0",))


def test_a_variance_that_is_not_finite_is_named_once():
    bad = {"a.running_var": torch.tensor([-float("inf")]), "b.running_var": torch.zeros(2), "c.weight": -torch.ones(1)}
    assert files.poisoned_tensors(bad) == ["a.running_var"]


def test_large_but_finite_tensors_are_finite():
    assert files.nonfinite_tensors({"a": torch.full((1000,), 3e38), "b": torch.full((9,), 6e4).half()}) == []


def test_other_bytes_never_replace_a_committed_checkpoint_and_the_same_bytes_may_come_again(tmp_path):
    first = commit(tmp_path)
    assert commit(tmp_path) == first
    with pytest.raises(AssertionError, match="committed"):
        commit(tmp_path, weights=weights(2.0))
    assert torch.equal(files.load_weights(tmp_path, first)["conv.weight"], weights()["conv.weight"])


def test_weights_that_were_never_committed_are_replaced(tmp_path):
    (tmp_path / "checkpoint_epoch2.pth").write_bytes(b"half a file of a worker that was killed")
    files.load_weights(tmp_path, commit(tmp_path))


def test_a_full_disk_stays_an_os_error_and_commits_nothing(tmp_path, monkeypatch):
    class Full(files._Hashing):
        def write(self, block):
            self.refused = OSError(errno.ENOSPC, "No space left on device")
            raise self.refused

    monkeypatch.setattr(files, "_Hashing", Full)
    with pytest.raises(OSError, match="No space left") as caught:
        commit(tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert names_in(tmp_path) == []


def test_discarding_removes_every_file_of_a_checkpoint_and_no_other(tmp_path):
    commit(tmp_path, epoch=1)
    commit(tmp_path, epoch=11)
    files.discard(tmp_path, "checkpoint_epoch1")
    assert names_in(tmp_path) == [
        "checkpoint_epoch11.json",
        "checkpoint_epoch11.pth",
        "checkpoint_epoch11.state.pth",
    ]
