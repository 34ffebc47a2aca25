"""Leaves what it takes to repeat a fatal trouble: the batch's names, the norms before it, the whole training state.

Knows nothing about what is done about it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from ..checkpoints import files
from ..data.augment import describe
from ..durable import next_number, takes_name, write_atomic, write_json
from .contract import AttemptSpec
from .diagnosis import STATE
from .health import Verdict, spoken
from .resume import random_states

log = logging.getLogger(__name__)

BEGUN = ".worker.tmp"
"""The next incident while it has no number yet; what a worker that was killed left there is written over."""
BATCH = "batch.pt"
FACTS = "worker.json"


@dataclass(frozen=True)
class StepFacts:
    """What the host knows of one optimizer step."""

    step: int
    epoch: int
    """The epoch under way, from 1."""
    step_in_epoch: int
    lr: float
    indices: tuple[int, ...]
    """Positions in the training split."""


def leave(
    spec: AttemptSpec,
    verdict: Verdict,
    facts: StepFacts,
    *,
    names: Sequence[str],
    recent: Iterable[tuple[int, float, float]],
    scale: float | None,
    held: Callable[[], dict[str, Any]],
) -> Path:
    """Write a new incidents/NNN/ and return it. `names` are the images, `recent` the last (step, loss, grad norm).

    `held` gives "weights" and "state" as a checkpoint has them, whatever is in them. They come last, and do without
    where the device does not give them back any more or the disk is full: the rest is worth keeping alone.

    The random states are those at the time of writing; no step draws from them, so they are the step's own as well.
    Augmentation draws from (seed, epoch, index) alone, so the batch is to be had again: for each micro-batch,
    `load_batch(cache, indices, Augmentation.of(AugmentConfig(**augment), seed=seed), epoch=epoch)`.
    """
    batch = {
        "step": facts.step,
        "epoch": facts.epoch,
        "step_in_epoch": facts.step_in_epoch,
        "names": list(names),
        "indices": torch.tensor(facts.indices, dtype=torch.int64),
        "seed": spec.seed,
        "augment": spec.augment.model_dump(mode="json"),
        "random": _random_states(),
    }
    directory = _numbered(spec.run_dir / "incidents", lambda file: torch.save(batch, file))
    described = {
        "cause": str(verdict.cause),
        "message": verdict.message,
        "evidence": verdict.evidence,
        "attempt": spec.attempt,
        "step": facts.step,
        "epoch": facts.epoch,
        "step_in_epoch": facts.step_in_epoch,
        "images": list(names),
        "seed": spec.seed,
        "augmentation": describe(spec.augment),
        "lr": facts.lr,
        "amp": str(spec.amp),
        "amp_scale": spoken(scale),
        "recent": [
            {"step": step, "loss": spoken(loss), "grad_norm": spoken(grad_norm)} for step, loss, grad_norm in recent
        ],
    }
    write_json(directory / FACTS, described)
    try:
        state = files.on_cpu(held())
        write_atomic(directory / STATE, lambda file: torch.save(state, file))
    except (RuntimeError, OSError) as error:
        log.warning("the weights and moments of this moment could not be left: %s", error)
    return directory


def _random_states() -> dict[str, Any]:
    """Empty where a GPU that failed does not tell its own any more."""
    try:
        return random_states()
    except RuntimeError as error:
        log.warning("the random states could not be left: %s", error)
        return {}


def _numbered(incidents: Path, save_batch: Callable[[IO[bytes]], None]) -> Path:
    """The directory of the next incident, which appears with the batch in it: the daemon numbers its own meanwhile."""
    begun = incidents / BEGUN
    begun.mkdir(parents=True, exist_ok=True)
    write_atomic(begun / BATCH, save_batch)
    while not takes_name(begun, directory := next_number(incidents)):
        continue
    return directory
