"""PURE: a line of progress as points of TensorBoard's curves. No torch."""

from __future__ import annotations

from .. import tags
from .config import Amp
from .contract import Progress


def points(line: Progress, amp: Amp) -> dict[str, float | None]:
    """By tag; `None` is no point. `amp` is what is in force, which is a curve also where it is off."""
    return {
        tags.TRAIN_LOSS: line.loss,
        tags.TRAIN_GRAD_NORM: line.grad_norm,
        tags.TRAIN_LR: line.lr,
        tags.TRAIN_IMAGES_PER_SECOND: line.images_per_second,
        tags.TRAIN_EPOCH: line.epoch,
        tags.TRAIN_MEMORY_MB: line.memory_mb,
        tags.TRAIN_AMP: tags.AMP_LEVELS.index(amp),
        tags.AMP_SCALE: line.amp_scale,
        tags.AMP_SKIPPED_STEPS: None if line.amp_scale is None else line.skipped_steps,
        tags.TRAIN_LOSS_SPIKES: line.loss_spikes,
    }
