"""Every TensorBoard tag that segwatch writes, in one list. The x-axis of all of them is the global optimizer step.

`tensorboard/train` is written by the worker alone and `tensorboard/eval` by the daemon alone: one writer per directory.
"""

from __future__ import annotations

TRAIN_LOSS = "train/loss"
TRAIN_GRAD_NORM = "train/grad_norm"
TRAIN_LR = "train/lr"
TRAIN_IMAGES_PER_SECOND = "train/images_per_second"
TRAIN_EPOCH = "train/epoch"
TRAIN_MEMORY_MB = "train/memory_mb"
TRAIN_LOSS_SPIKES = "train/loss_spikes"
AMP_SCALE = "train/amp_scale"
AMP_SKIPPED_STEPS = "train/amp_skipped_steps"

EVALUATION = ("miou", "fwiou", "pixel_accuracy", "mean_accuracy", "mean_dice", "miou_low", "miou_high")
"""Written as `val/<figure>` and `test/<figure>`; the last two are the 95 % interval of the first."""
LAYOUT = "custom_scalars__config__"
"""What TensorBoard's Custom Scalars page shows: the name is TensorBoard's own."""

INCIDENT_MARK = "incident"
"""0, and 1 at the step of an incident: a needle in the charts of the scores."""
INCIDENTS = "incidents"
ALERTS = "alerts"
ATTEMPT = "attempt"
OVERLAYS = "overlays"
"""The same test images every epoch."""
WORST = "overlays_worst"
"""The test images of the lowest mIoU."""
CONFUSION = "confusion"


def evaluation(split: str, figure: str) -> str:
    """`test/miou`, `val/fwiou`, ..."""
    return f"{split}/{figure}"


def class_iou(split: str, name: str) -> str:
    """`test_iou/<class>`: one group per split, one curve per class."""
    return f"{split}_iou/{name}"


def attempt_best(split: str) -> str:
    """In `tensorboard/attempts/NNN`: the best mIoU that the attempt has come to."""
    return f"attempt/best_{split}_miou"


def epoch(split: str) -> str:
    return f"{split}/epoch"
