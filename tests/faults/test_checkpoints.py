"""Faults of checkpoints: cut, changed, foreign, hostile, or arriving in an odd way. Nothing of it is ever loaded."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import threading
from pathlib import Path

import pytest
import torch
from segwatch.checkpoints import files
from segwatch.checkpoints.manifest import Architecture, Role, StoredFile, read_manifest
from segwatch.data.resolved import Pair, ResolvedClass, ResolvedData
from segwatch.durable import write_json
from segwatch.evaluator.foreign import read_foreign
from segwatch.evaluator.reading import RefusalError, read_checkpoint, refuse_foreign
from segwatch.evaluator.report import Request
from segwatch.trainer.unet import UNet

from .matrix import fault

BASE = 1
CUTS = 400
FLIPS = 100


def commit(run_dir: Path, *, classes: int = 2, base: int = BASE, ids: tuple[int, ...] = (0, 1), **changes) -> Request:
    """A sound checkpoint of a tiny UNet; `changes` replace tensors by name, or with None remove them."""
    weights = UNet(classes=classes, base_channels=base).state_dict()
    for name, tensor in changes.items():
        weights.pop(name) if tensor is None else weights.update({name: tensor})
    identity = files.Identity(1, ids, tuple(map(str, ids)), Architecture(base_channels=BASE, classes=classes), "c")
    directory = run_dir / "checkpoints"
    manifest = files.commit(
        directory, identity, role=Role.EPOCH, epoch=1, step=4, step_in_epoch=0, weights=weights, state=None
    )
    return Request(
        manifest="checkpoints/checkpoint_epoch1.json",
        attempt=1,
        epoch=1,
        sha256=manifest.weights.sha256,
        splits=("test",),
    )


def foreign_request(path: Path) -> Request:
    """Of a file without a manifest, whose hash is what it is now: the hash protects from changes alone."""
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Request(manifest=str(path), attempt=0, epoch=1, sha256=sha256, splits=("test",), foreign=True)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("sound")
    return run_dir, commit(run_dir)


@pytest.fixture
def run_dir(sound, tmp_path) -> Path:
    shutil.copytree(sound[0], tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture(scope="module")
def data() -> ResolvedData:
    classes = tuple(
        ResolvedClass(id=number, name=str(number), colour=(number, 0, 0), pixels={"train": 1}) for number in (0, 1)
    )
    pairs = {split: (Pair(image="a", mask="b"),) for split in ("train", "val", "test")}
    return ResolvedData(root=Path("/nowhere"), scale=1.0, classes=classes, splits=pairs)


def places(size: int, count: int) -> list[int]:
    """Both ends, where headers and the table of contents are, byte by byte; the rest evenly."""
    ends = [*range(40), *range(size - 40, size)]
    return sorted({*ends, *range(0, size, max(1, size // count))} & set(range(size)))


@fault(
    "checkpoint-truncated",
    area="Checkpoints",
    fault="weights cut short at any byte, with and without a manifest",
    promise="P2",
    provoked="cut at every 1/400 of the file and at each byte of both ends",
)
def test_weights_cut_at_any_byte_are_refused(run_dir, sound, data, provoked):
    path = run_dir / "checkpoints" / "checkpoint_epoch1.pth"
    whole = path.read_bytes()
    for cut in places(len(whole), CUTS):
        path.write_bytes(whole[:cut])
        with pytest.raises(RefusalError) as refused:
            read_checkpoint(run_dir, sound[1])
        assert refused.value.reason == "corrupt"
        with pytest.raises(RefusalError):
            read_foreign(foreign_request(path), data)
        provoked()


@fault(
    "checkpoint-bit-flip",
    area="Checkpoints",
    fault="one flipped bit anywhere in the weights",
    promise="P2",
    provoked="one bit of every 1/100 of the file and of each byte of both ends",
)
def test_one_flipped_bit_is_refused_and_never_becomes_a_weight(run_dir, sound, data, provoked):
    path = run_dir / "checkpoints" / "checkpoint_epoch1.pth"
    whole = path.read_bytes()
    before = read_checkpoint(run_dir, sound[1]).weights
    for place in places(len(whole), FLIPS):
        changed = bytearray(whole)
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(changed)
        with pytest.raises(RefusalError, match="sha256 differs"):
            read_checkpoint(run_dir, sound[1])
        try:  # without a manifest only the archive's own checksums are left: they may miss what is no weight
            weights = read_foreign(foreign_request(path), data).weights
        except RefusalError:
            pass
        else:
            assert all(torch.equal(weights[name], before[name].float()) for name in weights), f"bit {place % 8}@{place}"
        provoked()


HEAD = "inc.double_conv.0.weight"


@pytest.mark.parametrize(
    ("made", "told"),
    [
        pytest.param({"base": 2}, rf"{HEAD} is \(2, 3, 3, 3\), not \(1, 3, 3, 3\)", id="architecture"),
        pytest.param({"classes": 3, "ids": (0, 1, 2)}, r"classes are the ids \[0, 1, 2\], this run's", id="classes"),
        pytest.param({"ids": (0, 7)}, r"its classes are the ids \[0, 7\], this run's are \[0, 1\]", id="ids"),
        pytest.param({HEAD: None}, rf"{HEAD} is missing", id="key-missing"),
        pytest.param({"extra": torch.ones(1)}, "extra is not part of the network", id="key-extra"),
        pytest.param({"outc.conv.bias": torch.ones(5)}, r"outc.conv.bias is \(5,\), not \(2,\)", id="shape"),
    ],
)
@fault(
    "checkpoint-foreign",
    area="Checkpoints",
    fault="another architecture, class count, class ids, or other keys behind a sound manifest",
    promise="P2",
    provoked="a committed checkpoint of another network; the refusal names the first differences",
)
def test_a_checkpoint_of_another_network_is_refused_with_the_first_differences(tmp_path, data, provoked, made, told):
    request = commit(tmp_path, **made)
    provoked()
    checkpoint = read_checkpoint(tmp_path, request)
    with pytest.raises(RefusalError, match=told) as refused:
        refuse_foreign(checkpoint, data)
    assert refused.value.reason == "foreign"


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("where", ["bare", "archive", "beside-tensors"])
@fault(
    "checkpoint-malicious-pickle",
    area="Checkpoints",
    fault="a pickle that runs code, behind a manifest with the right hash",
    promise="P2",
    provoked="`os.mkdir` of a canary directory, as a bare pickle and inside an archive of torch.save",
)
def test_a_pickle_with_code_in_it_is_never_run(run_dir, sound, data, provoked, where):
    path, sung = run_dir / "checkpoints" / "checkpoint_epoch1.pth", run_dir / "sung"
    if where == "bare":
        path.write_bytes(pickle.dumps(Canary(sung)))
    else:
        torch.save({"weight": Canary(sung)} | ({"bias": torch.ones(1)} if where != "archive" else {}), path)
    manifest = path.with_suffix(".json")
    stored = StoredFile(name=path.name, sha256=hashlib.sha256(path.read_bytes()).hexdigest(), size=path.stat().st_size)
    write_json(manifest, read_manifest(manifest).model_copy(update={"weights": stored}).model_dump(mode="json"))
    provoked()
    with pytest.raises(RefusalError) as refused:
        read_checkpoint(run_dir, sound[1].model_copy(update={"sha256": stored.sha256}))
    assert refused.value.reason == "corrupt"
    with pytest.raises(RefusalError):
        read_foreign(foreign_request(path), data)
    assert not sung.exists()
    pickle.loads(pickle.dumps(Canary(sung)))  # the canary does sing where it is let
    assert sung.exists()


# --- on a running daemon -------------------------------------------------------------------------------------------


def damage(directory: Path, outside: Path) -> dict[int, str]:
    """Epoch -> what was done to its weights, while the evaluator is busy with epoch 1."""
    weights = {epoch: directory / f"checkpoint_epoch{epoch}.pth" for epoch in range(2, 9)}
    weights[2].write_bytes(b"")
    weights[3].write_bytes(weights[3].read_bytes()[:-1])
    content = bytearray(weights[4].read_bytes())
    content[3] ^= 4
    weights[4].write_bytes(content)
    os.truncate(weights[5], 1 << 40)  # sparse: a terabyte to hash for who does not look at the size first
    outside.write_bytes(weights[6].read_bytes())
    weights[6].unlink()
    weights[6].symlink_to(outside)
    weights[7].unlink()
    weights[7].mkdir()
    weights[8].unlink()
    os.mkfifo(weights[8])  # to open it would wait for ever
    return {2: "empty", 3: "cut", 4: "flipped", 5: "sparse", 6: "symlink", 7: "directory", 8: "pipe"}


@fault(
    "checkpoint-damaged-in-run",
    area="Checkpoints",
    fault="empty, cut, flipped, a sparse terabyte, a symlink out of the directory, a directory, a named pipe",
    promise="P1 P2",
    provoked="each done to a committed epoch while the evaluator is busy with the one before",
)
def test_damaged_epochs_are_set_aside_with_the_reason_and_the_others_scored(daemon, provoked, nothing_else_broke):
    daemon.configure(epochs=9)
    daemon.scenario(score_seconds=1.0)
    running = daemon.start()
    daemon.until(lambda history: len(history.epochs) == 9)
    outside = daemon.place / "outside.pth"
    done = damage(daemon.run_dir / "checkpoints", outside)
    provoked(len(done))
    daemon.scenario()
    code, output = daemon.finish(running)
    assert code == 0, output
    verdicts = {int(row["epoch"]): row["verdict"] for row in daemon.rows() if row["split"] == "test"}
    assert verdicts == {epoch: "corrupt" if epoch in done else "ok" for epoch in range(1, 10)}
    quarantined = {path.stem for path in daemon.run_dir.glob("checkpoints/quarantine/*/*.json")}
    assert quarantined == {f"checkpoint_epoch{epoch}" for epoch in done}
    assert outside.exists()
    assert daemon.alerts_log().count("FIRING   CRITICAL checkpoint-corrupt") == len(done)
    nothing_else_broke(daemon)


@fault(
    "checkpoint-odd-arrival",
    area="Checkpoints",
    fault="files that arrive by rename, by hard link, by a slow copy without manifest, or with a manifest cut short",
    promise="P1 P2",
    provoked="each in the checkpoint directory of a worker in mid-epoch; pairs in both orders, blocks over 1 s",
)
def test_only_what_its_own_manifest_commits_is_scored_however_it_arrives(daemon, provoked, nothing_else_broke):
    daemon.configure(epochs=4)
    daemon.scenario(faults={f"1:{step}": "slow" for step in range(13, 17)}, slow_seconds=0.8)
    running = daemon.start()
    daemon.until(lambda history: len(history.epochs) == 3)
    checkpoints, outside = daemon.run_dir / "checkpoints", daemon.place
    (checkpoints / "checkpoint_epoch92.json").write_text((checkpoints / "checkpoint_epoch1.json").read_text()[:100])
    shutil.copyfile(checkpoints / "checkpoint_epoch1.json", checkpoints / "checkpoint_epoch91.json")
    linked, renamed = (copy_as(checkpoints, outside, epoch) for epoch in (80, 81))
    for path in linked:  # the weights first
        os.link(path, checkpoints / path.name)
    for path in reversed(renamed):  # the manifest first
        path.rename(checkpoints / path.name)
    copy_slowly(checkpoints / "checkpoint_epoch1.pth", checkpoints / "checkpoint_epoch90.pth")
    provoked(5)
    assert (1, 4) not in daemon.history.epochs, "the worker was not in mid-epoch any more"
    code, output = daemon.finish(running)
    assert code == 0, output
    assert sorted(daemon.scored_epochs()) == [(1, 1), (1, 2), (1, 3), (1, 4), (1, 80), (1, 81)]
    assert {row["verdict"] for row in daemon.rows()} == {"ok"}
    assert (checkpoints / "checkpoint_epoch90.pth").exists()
    nothing_else_broke(daemon)


def copy_as(checkpoints: Path, outside: Path, epoch: int) -> tuple[Path, Path]:
    """Weights and manifest of epoch 3 under another number, beside the run: what somebody else committed."""
    stem = f"checkpoint_epoch{epoch}"
    weights, manifest = outside / f"{stem}.pth", outside / f"{stem}.json"
    weights.write_bytes((checkpoints / "checkpoint_epoch3.pth").read_bytes())
    known = read_manifest(checkpoints / "checkpoint_epoch3.json")
    stored = known.weights.model_copy(update={"name": weights.name})
    write_json(
        manifest, known.model_copy(update={"epoch": epoch, "weights": stored, "state": None}).model_dump(mode="json")
    )
    return weights, manifest


def copy_slowly(source: Path, target: Path, seconds: float = 1.0) -> None:
    """In twenty blocks, as over a slow line."""
    content, pause = source.read_bytes(), threading.Event()
    size = 1 + len(content) // 20
    with target.open("wb", buffering=0) as file:
        for start in range(0, len(content), size):
            file.write(content[start : start + size])
            pause.wait(seconds / 20)
