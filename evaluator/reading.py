"""Reads a checkpoint for scoring, or says why there is nothing to score. Knows nothing about splits or devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..checkpoints.files import load_weights, poisoned_tensors
from ..checkpoints.manifest import Architecture, Manifest, read_manifest
from ..data.resolved import ResolvedData
from ..errors import CorruptCheckpointError
from ..trainer.unet import UNet
from .report import Request

NAMED = 3
"""How many differences a message names before it only counts them."""

Reason = Literal["corrupt", "missing", "foreign", "out-of-memory", "error"]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose bytes are those that its manifest and the request name."""

    manifest: Manifest
    weights: Mapping[str, Tensor]
    nonfinite: tuple[str, ...]
    """The parameters and buffers that hold a NaN or an Inf; a negative running variance as `NAME < 0`."""
    caveats: tuple[str, ...] = ()
    """What a score of it rests on without proof, in words: for the report's message."""


class RefusalError(Exception):
    """There will be no report, and this is why."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


def read_checkpoint(run_dir: Path, request: Request) -> Checkpoint:
    """Read and verify what `request` names. Refuses what is gone, and what is not the bytes that were committed."""
    path = run_dir / request.manifest
    try:
        manifest = read_manifest(path)
    except FileNotFoundError as error:
        raise RefusalError("missing", f"{request.manifest} is gone") from error
    except CorruptCheckpointError as error:
        raise RefusalError("corrupt", str(error)) from error
    if (manifest.attempt, manifest.epoch) != (request.attempt, request.epoch):
        # A roll-back moved the asked one aside and another attempt took its name: nothing is wrong with that one.
        there = f"attempt {manifest.attempt}, epoch {manifest.epoch}"
        raise RefusalError("missing", f"{request.manifest} is now of {there}")
    if manifest.weights.sha256 != request.sha256:
        raise RefusalError("corrupt", f"{request.manifest} names other bytes than were committed (sha256 differs)")
    weights = _read_weights(path.parent, manifest)
    return Checkpoint(manifest, weights, tuple(poisoned_tensors(weights)))


def _read_weights(directory: Path, manifest: Manifest) -> dict[str, Tensor]:
    try:
        return load_weights(directory, manifest)
    except (FileNotFoundError, CorruptCheckpointError) as error:
        # Without a manifest or weights it was moved aside while it was read: gone, not damaged.
        names = (f"{manifest.stem}.json", manifest.weights.name)
        gone = [name for name in names if not (directory / name).exists()]
        if gone:
            raise RefusalError("missing", f"{directory / gone[0]} is gone") from error
        raise RefusalError("corrupt", str(error)) from error


def refuse_foreign(checkpoint: Checkpoint, data: ResolvedData) -> None:
    """A network of other classes or of another shape has no score here, however well it loads."""
    manifest = checkpoint.manifest
    wrong = []
    if manifest.class_ids != data.class_ids:
        wrong.append(f"its classes are the ids {list(manifest.class_ids)}, this run's are {list(data.class_ids)}")
    if manifest.architecture.classes != len(data.classes):
        wrong.append(f"it has {manifest.architecture.classes} classes, this run has {len(data.classes)}")
    wrong += differences(blueprint(manifest.architecture).state_dict(), checkpoint.weights)
    if wrong:
        more = f"; and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise RefusalError("foreign", "; ".join(wrong[:NAMED]) + more)


def blueprint(architecture: Architecture) -> UNet:
    """The network without any memory behind it: shapes only."""
    with torch.device("meta"):
        return UNet(
            classes=architecture.classes,
            base_channels=architecture.base_channels,
            in_channels=architecture.in_channels,
            bilinear=architecture.bilinear,
        )


def differences(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    """In words, how `weights` differ from the names and shapes of `expected`; empty where they would load."""
    found = []
    for name, tensor in expected.items():
        if name not in weights:
            found.append(f"{name} is missing")
        elif weights[name].shape != tensor.shape:
            found.append(f"{name} is {tuple(weights[name].shape)}, not {tuple(tensor.shape)}")
    return found + [f"{name} is not part of the network" for name in weights if name not in expected]
