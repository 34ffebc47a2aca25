"""Leaves what a person needs to look into a fatal trouble: the batch's names, the random states, the norms before it.

Knows nothing about what is done about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..data.augment import describe
from ..durable import write_atomic, write_json
from .contract import AttemptSpec
from .health import Verdict, spoken

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
    random_states: dict[str, Any],
    scale: float | None,
) -> Path:
    """Write a new incidents/NNN/ and return it. `names` are the images, `recent` the last (step, loss, grad norm).

    The random states are those at the time of writing; no step draws from them, so they are the step's own as well.
    Augmentation draws from (seed, epoch, index) alone, so the batch is to be had again: for each micro-batch,
    `load_batch(cache, indices, Augmentation.of(AugmentConfig(**augment), seed=seed), epoch=epoch)`.
    """
    directory = _next_directory(spec.run_dir / "incidents")
    batch = {
        "step": facts.step,
        "epoch": facts.epoch,
        "step_in_epoch": facts.step_in_epoch,
        "names": list(names),
        "indices": torch.tensor(facts.indices, dtype=torch.int64),
        "seed": spec.seed,
        "augment": spec.augment.model_dump(mode="json"),
        "random": random_states,
    }
    write_atomic(directory / BATCH, lambda file: torch.save(batch, file))
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
    return directory


def _next_directory(incidents: Path) -> Path:
    """The first free number. mkdir decides: it cannot succeed twice."""
    incidents.mkdir(parents=True, exist_ok=True)
    taken = [int(path.name) for path in incidents.iterdir() if path.name.isdigit()]
    number = max(taken, default=0) + 1
    while True:
        directory = incidents / f"{number:03d}"
        try:
            directory.mkdir()
        except FileExistsError:
            number += 1
        else:
            return directory
