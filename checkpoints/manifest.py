"""The commit record of a checkpoint, and how checkpoints are named and ordered. Knows nothing about tensors: no torch.

A checkpoint exists once its manifest does: the weights (and, while it may be resumed from, the training state) are
written, flushed, hashed and renamed first, the manifest last. Without a manifest nothing is scored or resumed.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from ..errors import CorruptCheckpointError
from ..section import Record

MANIFEST_NAME = re.compile(r"^(?:checkpoint_epoch(?P<epoch>\d+)|recovery_step(?P<step>\d+)|initial)\.json$")
MANIFEST_LIMIT_BYTES = 1 << 20
NEGATIVE = " < 0"
"""Behind the name of a BatchNorm variance that is negative, among the names of poisoned tensors."""


class Role(StrEnum):
    INITIAL = "initial"
    """Before step 1, so that there is always somewhere to go back to. Never scored."""
    EPOCH = "epoch"
    """After a whole epoch: scored on val and test."""
    RECOVERY = "recovery"
    """Inside an epoch, every few minutes and at a stop: resumed from, never scored."""


class Architecture(Record):
    name: Literal["unet"] = "unet"
    base_channels: int
    in_channels: int = 3
    classes: int
    bilinear: bool = False
    """Bilinear up-sampling instead of transposed convolutions."""


class StoredFile(Record):
    name: str
    """File name beside the manifest."""
    sha256: str
    size: int
    """Bytes."""


class Manifest(Record):
    """What one checkpoint is. `epoch` counts completed epochs and `step` completed optimizer steps of the run."""

    role: Role
    attempt: int
    epoch: int
    step: int
    step_in_epoch: int
    """Optimizer steps done in the epoch that is under way; 0 right after an epoch."""
    weights: StoredFile
    """A plain state dict: parameters and buffers, loadable with `weights_only=True`."""
    state: StoredFile | None
    """Optimizer, scaler, random states and sampler position; `None` where it was never written."""
    finite: bool
    """Whether every parameter, buffer and optimizer tensor is finite, and no running variance is negative."""
    nonfinite: tuple[str, ...] = ()
    """The first few tensors that are not; a negative variance as `NAME < 0`."""
    class_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    architecture: Architecture
    config_hash: str
    """Of the data, model and class settings: a checkpoint of another run's settings is foreign."""
    created: str
    """UTC, ISO 8601."""

    @property
    def stem(self) -> str:
        match self.role:
            case Role.INITIAL:
                return "initial"
            case Role.EPOCH:
                return f"checkpoint_epoch{self.epoch}"
            case Role.RECOVERY:
                return f"recovery_step{self.step}"


def poison_in_words(names: Sequence[str], shown: int) -> str:
    """Behind "it holds": what the poisoned tensors `names` hold, the first `shown` of each kind by name."""
    kinds = {
        "NaN or Inf in": [name for name in names if not name.endswith(NEGATIVE)],
        "a negative variance:": [name for name in names if name.endswith(NEGATIVE)],
    }
    more = {kind: f" and {len(found) - shown} more" if len(found) > shown else "" for kind, found in kinds.items()}
    return " and ".join(f"{kind} {', '.join(found[:shown])}{more[kind]}" for kind, found in kinds.items() if found)


def read_manifest(path: Path) -> Manifest:
    """Raises CorruptCheckpointError for what is not a manifest of ours; FileNotFoundError when it is gone."""
    try:
        if path.is_symlink():
            raise CorruptCheckpointError("a link, and not the file that was committed", where=path)
        if path.stat().st_size > MANIFEST_LIMIT_BYTES:
            raise CorruptCheckpointError("too large for a manifest", where=path)
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise CorruptCheckpointError(f"not a manifest: {error.error_count()} fields are wrong", where=path) from error


def scan_manifests(directory: Path, *, skip: Callable[[str], bool] = lambda _name: False) -> Iterator[Path]:
    """The manifests in `directory`: first the initial one, then epochs as numbers (2 before 10), then recoveries.

    What `skip` says of a file name is asked first: a long run has thousands, and a path costs more than a name.
    """
    found = []
    for name in os.listdir(directory) if directory.is_dir() else ():  # noqa: PTH208 - a path for each of 30,000 files takes long
        # A directory that was deleted or unmounted holds no commit.
        if not skip(name) and (match := MANIFEST_NAME.match(name)):
            epoch, step = match["epoch"], match["step"]
            rank = (1, int(epoch)) if epoch else (2, int(step)) if step else (0, 0)
            found.append((rank, name))
    return (directory / name for _, name in sorted(found))


def sha256_of(path: Path) -> str:
    """The hash of a file's bytes, read once in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_file(directory: Path, stored: StoredFile) -> None:
    """Raises CorruptCheckpointError unless the file has the size and hash of its manifest.

    `torch.load` does not check CRCs: a flipped bit loads silently, so this is the only guard.
    """
    path = directory / stored.name
    if Path(stored.name).name != stored.name or path.is_symlink() or not path.is_file():
        raise CorruptCheckpointError("the manifest names a file that is not a plain file beside it", where=path)
    size = path.stat().st_size
    if size != stored.size:
        raise CorruptCheckpointError(f"{size} bytes, but its manifest says {stored.size}", where=path)
    if sha256_of(path) != stored.sha256:
        raise CorruptCheckpointError("its bytes changed after it was committed (sha256 differs)", where=path)
