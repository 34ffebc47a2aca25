"""The training state of a run: taken out of its parts and put back, so that a resumed run goes on bit for bit.

Knows nothing about when it is saved. Tensors, numbers, strings and plain dicts only.
"""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..checkpoints.files import Identity, load_state, load_weights
from ..checkpoints.manifest import Manifest, poison_in_words, read_manifest
from ..errors import ConfigError, CorruptCheckpointError
from .contract import AttemptSpec
from .optim import Precision, clear_nonfinite_moments

log = logging.getLogger(__name__)


@dataclass
class Position:
    """Where the run stands, and what its epoch under way has summed up."""

    epoch: int = 0
    """Completed epochs."""
    step: int = 0
    """Completed optimizer steps."""
    step_in_epoch: int = 0
    loss_sum: float = 0.0
    """Of the epoch under way: each step's loss times its images."""
    images: int = 0
    scaler_steps: int = 0
    """Steps since the fp16 scaler started."""
    warm_up_from: int = 0
    """The step after which the latest warm-up of the rate began, its length, and the base rate it rises to."""
    warm_up_steps: int = 0
    warm_up_lr: float = 0.0

    def next_epoch(self) -> None:
        self.epoch += 1
        self.step_in_epoch = 0
        self.loss_sum = 0.0
        self.images = 0

    def warm_up(self, spec: AttemptSpec) -> None:
        """Begin the warm-up that `spec` asks for, here, unless it was begun before (one as long, to the same rate)."""
        wanted = (spec.warm_up_steps, spec.lr)
        if spec.warm_up_steps and wanted != (self.warm_up_steps, self.warm_up_lr):
            self.warm_up_from = self.step
            self.warm_up_steps, self.warm_up_lr = wanted

    def warmth(self, step: int) -> float:
        """The share of the scheduled rate with which step `step` is taken: rises linearly to 1."""
        if not self.warm_up_steps:
            return 1.0
        return min(1.0, (step - self.warm_up_from) / self.warm_up_steps)


def capture(
    spec: AttemptSpec, optimizer: torch.optim.Optimizer, precision: Precision, position: Position
) -> dict[str, Any]:
    """The training state beside the weights: what `restore` needs."""
    return {
        "optimizer": optimizer.state_dict(),
        "optimizer_name": str(spec.optimizer),
        "scaler": None if precision.scaler is None else precision.scaler.state_dict(),
        "random": random_states(),
        "position": dict(vars(position)),
        "images_per_step": spec.batch_size * spec.accumulate,
    }


def restore(
    spec: AttemptSpec,
    identity: Identity,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    precision: Precision,
) -> Position:
    """Load the checkpoint `spec.resume_from` into these parts; the caller puts the attempt's own values over it.

    Raises ConfigError for a checkpoint that does not belong to this run or attempt, CorruptCheckpointError for one that
    is damaged.
    """
    weights, state = load(spec, identity)
    return put_back(weights, state, model, optimizer, precision)


def load(spec: AttemptSpec, identity: Identity) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and training state of the checkpoint `spec.resume_from`. Raises as `restore` does."""
    assert spec.resume_from is not None
    path = spec.run_dir / spec.resume_from
    manifest = _manifest(path, identity)
    state = load_state(path.parent, manifest)
    _refuse_mismatch(path, spec, manifest, state)
    return load_weights(path.parent, manifest), state


def put_back(
    weights: Mapping[str, Tensor],
    state: Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    precision: Precision,
) -> Position:
    """Into these parts, which share nothing with `weights` and `state` afterwards."""
    model.load_state_dict(weights)
    optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))  # it would keep the counters themselves
    if cleared := clear_nonfinite_moments(optimizer):
        log.warning("%d weights had moments that are not finite: cleared", cleared)
    position = Position(**state["position"])
    if precision.scaler is not None and state["scaler"] is not None:
        precision.scaler.load_state_dict(state["scaler"])
    else:
        position.scaler_steps = 0
    set_random_states(state["random"])
    return position


def random_states() -> dict[str, Any]:
    """Python, numpy, torch and every GPU, as tensors and plain numbers."""
    version, words, gauss = random.getstate()
    name, keys, index, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - the state that libraries may draw from
    return {
        "python": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
        "numpy": {
            "name": str(name),
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "index": int(index),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
        "cuda": list(torch.cuda.get_rng_state_all()) if torch.cuda.is_available() else [],
    }


def set_random_states(states: Mapping[str, Any]) -> None:
    """A GPU that was not there when the state was saved keeps its own."""
    python, legacy = states["python"], states["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    keys = legacy["keys"].numpy().astype(np.uint32)
    np.random.set_state((legacy["name"], keys, legacy["index"], legacy["has_gauss"], legacy["cached"]))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available():
        for device, state in zip(range(torch.cuda.device_count()), states["cuda"], strict=False):
            torch.cuda.set_rng_state(state, device)


def _manifest(path: Path, identity: Identity) -> Manifest:
    try:
        manifest = read_manifest(path)
    except FileNotFoundError as error:
        raise ConfigError(
            "there is no such checkpoint to resume from", where=path, remedy="resume from one that is in checkpoints/"
        ) from error
    if not manifest.finite:
        held = poison_in_words(manifest.nonfinite, len(manifest.nonfinite))
        raise CorruptCheckpointError(f"holds {held}", where=path)
    if manifest.config_hash != identity.config_hash or manifest.architecture != identity.architecture:
        raise ConfigError(
            "this checkpoint belongs to a run with other data, classes or model",
            where=path,
            remedy="resume from a checkpoint of this run",
        )
    return manifest


def _refuse_mismatch(path: Path, spec: AttemptSpec, manifest: Manifest, state: Mapping[str, Any]) -> None:
    if state["optimizer_name"] != spec.optimizer:
        raise ConfigError(
            f"its state is that of {state['optimizer_name']}, and this attempt asks for {spec.optimizer}",
            where=path,
            remedy="keep the optimizer, or start a new run",
        )
    images = spec.batch_size * spec.accumulate
    if manifest.step_in_epoch and state["images_per_step"] != images:
        raise ConfigError(
            f"it was saved inside an epoch of {state['images_per_step']} images a step, not {images}",
            where=path,
            remedy="keep batch_size x accumulate, or resume from the end of an epoch",
        )
