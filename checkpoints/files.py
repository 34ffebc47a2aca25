"""Saves and loads what a checkpoint holds. Knows nothing about networks or training: tensors and plain dicts only.

The order is the promise: weights, state, manifest, each written whole, flushed to the disk and hashed on its way there.
What is read back has been compared with the manifest first, and is never unpickled into anything but tensors.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from ..durable import write_atomic, write_json
from ..errors import CorruptCheckpointError
from .manifest import NEGATIVE, Architecture, Manifest, Role, StoredFile, read_manifest, verify_file

NONFINITE_NAMED = 8
"""How many non-finite tensors a manifest names: enough to see where it began."""


@dataclass(frozen=True)
class Identity:
    """What every checkpoint of one attempt has in common."""

    attempt: int
    class_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    architecture: Architecture
    config_hash: str


def commit(
    directory: Path,
    identity: Identity,
    *,
    role: Role,
    epoch: int,
    step: int,
    step_in_epoch: int,
    weights: Mapping[str, Tensor],
    state: Mapping[str, Any] | None,
) -> Manifest:
    """Write weights, then state, then the manifest that makes them a checkpoint; return it.

    `epoch` and `step` count what is complete. A committed checkpoint is never overwritten: other bytes under its name
    are an AssertionError, and the old files stay. Raises OSError when the disk refuses, and then nothing is committed.
    """
    draft = Manifest(
        role=role,
        attempt=identity.attempt,
        epoch=epoch,
        step=step,
        step_in_epoch=step_in_epoch,
        weights=StoredFile(name="", sha256="", size=0),
        state=None,
        finite=True,
        class_ids=identity.class_ids,
        class_names=identity.class_names,
        architecture=identity.architecture,
        config_hash=identity.config_hash,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{draft.stem}.json"
    committed = read_manifest(path) if path.exists() else None
    bad = poisoned_tensors(weights) + nonfinite_tensors(state or {})

    plain_weights = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    stored_weights = _store(directory / f"{draft.stem}.pth", plain_weights, committed.weights if committed else None)
    stored_state = None
    if state is not None:
        plain_state = on_cpu(state)
        stored_state = _store(
            directory / f"{draft.stem}.state.pth", plain_state, committed.state if committed else None
        )
    if committed is not None:
        return committed
    manifest = draft.model_copy(
        update={
            "weights": stored_weights,
            "state": stored_state,
            "finite": not bad,
            "nonfinite": tuple(bad[:NONFINITE_NAMED]),
        }
    )
    write_json(path, manifest.model_dump(mode="json"))
    return manifest


def load_weights(directory: Path, manifest: Manifest) -> dict[str, Tensor]:
    """The state dict of a checkpoint whose manifest lies in `directory`, on the CPU.

    Raises CorruptCheckpointError for anything but the bytes that were committed, and for what is no state dict.
    """
    loaded = _load(directory, manifest.weights)
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise CorruptCheckpointError("holds something else than named tensors", where=directory / manifest.weights.name)
    return dict(loaded)


def load_state(directory: Path, manifest: Manifest) -> dict[str, Any]:
    """The training state of a checkpoint: optimizer, scaler, random states, position. Raises CorruptCheckpointError."""
    if manifest.state is None:
        raise CorruptCheckpointError("has no training state: it can be scored, but not resumed", where=manifest.stem)
    loaded = _load(directory, manifest.state)
    if not isinstance(loaded, dict):
        raise CorruptCheckpointError("holds no training state", where=directory / manifest.state.name)
    return loaded


def discard(directory: Path, stem: str) -> None:
    """Remove a checkpoint, its manifest first: whatever interrupts this, no manifest is left without its files."""
    for suffix in (".json", ".state.pth", ".pth"):
        (directory / f"{stem}{suffix}").unlink(missing_ok=True)


def nonfinite_tensors(tree: Mapping[Any, Any]) -> list[str]:
    """Dotted names of the floating tensors in nested mappings and sequences that hold a NaN or an Inf.

    All tensors of a device and type are reduced in one batch, so that a GPU is waited for once and not once a tensor.
    """
    groups: dict[tuple[torch.device, torch.dtype], list[tuple[int, str, Tensor]]] = defaultdict(list)
    for order, (name, tensor) in enumerate(_tensors(tree)):
        if tensor.is_floating_point() and tensor.numel():
            groups[tensor.device, tensor.dtype].append((order, name, tensor.detach()))
    found: list[tuple[int, str]] = []
    for members in groups.values():
        finite = torch.stack(largest_magnitudes([tensor for _, _, tensor in members])).isfinite().tolist()
        found += [(order, name) for (order, name, _), good in zip(members, finite, strict=True) if not good]
    return [name for _, name in sorted(found)]


def poisoned_tensors(weights: Mapping[str, Tensor]) -> list[str]:
    """As `nonfinite_tensors`, and behind them each BatchNorm variance that is negative, as `NAME < 0`.

    No training makes a variance negative: the bytes are not what was computed. Above -eps its root is still a number,
    and the channel is scaled by a factor out of thin air; below, it is NaN. Waits for a GPU once more: for checkpoints.
    """
    found = nonfinite_tensors(weights)
    known = {*found}
    variances: dict[torch.device, list[tuple[str, Tensor]]] = defaultdict(list)
    for name, tensor in weights.items():
        if name.endswith("running_var") and tensor.is_floating_point() and tensor.numel() and name not in known:
            variances[tensor.device].append((name, tensor.detach().amin().float()))
    for members in variances.values():
        negative = (torch.stack([least for _, least in members]) < 0).tolist()
        found += [f"{name}{NEGATIVE}" for (name, _), bad in zip(members, negative, strict=True) if bad]
    return found


def largest_magnitudes(tensors: list[Tensor]) -> list[Tensor]:
    """The largest |x| of each tensor, on its device. Finite just where the tensor is: a 2-norm would overflow first.

    None of them empty, and all on one device. On the CPU by minimum and maximum, which NaN goes through as well: torch
    has no vector instructions for a norm of order infinity there, and takes eight times as long for it.
    """
    if tensors and tensors[0].device.type == "cpu":
        extremes = (torch.aminmax(in_memory_order(tensor)) for tensor in tensors)
        return [torch.maximum(-least, largest) for least, largest in extremes]
    return list(torch._foreach_norm(tensors, ord=float("inf")))  # noqa: SLF001  the batched norm that clip_grad_norm_ uses


def in_memory_order(tensor: Tensor) -> Tensor:
    """The same numbers (n,) as they lie in memory, without a copy where they lie without gaps, in whatever layout.

    A reduction over all of a channels_last tensor walks across its memory on the CPU, ten times as slowly as along it.
    """
    if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.reshape(-1)


class _Hashing:
    """A file to write to that knows the hash of what went through, so that nothing is read a second time."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.size = 0
        self.refused: OSError | None = None

    def write(self, block: bytes) -> int:
        try:
            self._file.write(block)
        except OSError as error:
            self.refused = error
            raise
        self._digest.update(block)
        self.size += len(block)
        return len(block)

    def flush(self) -> None:
        self._file.flush()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


def _store(path: Path, payload: Mapping[str, Any], committed: StoredFile | None) -> StoredFile:
    stored: list[StoredFile] = []

    def write(file: IO[bytes]) -> None:
        through = _Hashing(file)
        try:
            torch.save(payload, cast("IO[bytes]", through))  # it writes and flushes, no more
        except RuntimeError:
            # The zip writer of torch covers a full disk with a complaint about its own position.
            if through.refused is not None:
                raise through.refused from None
            raise
        stored.append(StoredFile(name=path.name, sha256=through.sha256, size=through.size))
        assert committed is None or stored[0] == committed, f"{path} is committed with other bytes"

    write_atomic(path, write)
    return stored[0]


def _load(directory: Path, stored: StoredFile) -> object:
    verify_file(directory, stored)
    try:
        loaded: object = torch.load(directory / stored.name, map_location="cpu", weights_only=True)
    except Exception as error:
        # Boundary: a file can be wrong in as many ways as there are exceptions, and all of them mean the same here.
        raise CorruptCheckpointError(f"cannot be loaded: {error}", where=directory / stored.name) from error
    return loaded


def on_cpu(value: Any) -> Any:
    """The same tree with plain dicts and its tensors on the CPU; strides stay, for they pair state with parameter."""
    match value:
        case Tensor():
            return value.detach().cpu()
        case Mapping():
            return {key: on_cpu(entry) for key, entry in value.items()}
        case list() | tuple():
            return type(value)(on_cpu(entry) for entry in value)
        case _:
            return value


def copied_weights(weights: Mapping[str, Tensor], room: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """A copy on the CPU as `commit` writes it: contiguous. Nothing in it is shared with `weights`.

    `room` is an earlier copy that nobody needs any more; its memory is written over.
    """
    return {name: _into(tensor, (room or {}).get(name), contiguous=True) for name, tensor in weights.items()}


def copied(value: Any, room: Any = None) -> Any:
    """`on_cpu`, sharing nothing with `value`. `room` as with `copied_weights`, where it has the shape of `value`."""
    match value:
        case Tensor():
            return _into(value, room, contiguous=False)
        case Mapping():
            return {
                key: copied(entry, room.get(key) if isinstance(room, dict) else None) for key, entry in value.items()
            }
        case list() | tuple():
            rooms = room if isinstance(room, (list, tuple)) and len(room) == len(value) else [None] * len(value)
            return type(value)(copied(entry, place) for entry, place in zip(value, rooms, strict=True))
        case _:
            return value


def _into(tensor: Tensor, room: Any, *, contiguous: bool) -> Tensor:
    """A copy on the CPU, in the memory of `room` where it fits: new memory costs more than to copy, page by page."""
    tensor = tensor.detach()
    wanted = torch.empty_like(tensor, device="meta", memory_format=torch.contiguous_format) if contiguous else tensor
    if isinstance(room, Tensor) and (room.shape, room.dtype, room.stride()) == (
        wanted.shape,
        wanted.dtype,
        wanted.stride(),
    ):
        return room.copy_(tensor)
    plain = tensor.to("cpu", copy=True)
    return plain.contiguous() if contiguous else plain


def _tensors(tree: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    match tree:
        case Tensor():
            yield prefix, tree
        case Mapping():
            for key, entry in tree.items():
                yield from _tensors(entry, f"{prefix}.{key}" if prefix else str(key))
        case list() | tuple():
            for index, entry in enumerate(tree):
                yield from _tensors(entry, f"{prefix}.{index}" if prefix else str(index))
        case _:
            pass
