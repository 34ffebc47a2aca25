"""Every TensorBoard tag that segwatch writes, in one list. The x-axis of all of them is the global optimizer step.

`tensorboard/train` is written by the worker alone, every other directory by the daemon alone: one writer per directory.
Val and test write the same tags, each in a directory of its own, as the classes do: that gives each of them a colour.
"""

from __future__ import annotations

TRAIN_LOSS = "train/loss"
TRAIN_GRAD_NORM = "train/grad_norm"
TRAIN_LR = "train/lr"
TRAIN_IMAGES_PER_SECOND = "train/images_per_second"
TRAIN_EPOCH = "train/epoch"
TRAIN_MEMORY_MB = "train/memory_mb"
TRAIN_LOSS_SPIKES = "train/loss_spikes"
TRAIN_AMP = "train/amp"
"""The place in `AMP_LEVELS` of what is in force."""
AMP_LEVELS = ("off", "bf16", "fp16")
AMP_SCALE = "train/amp_scale"
AMP_SKIPPED_STEPS = "train/amp_skipped_steps"
"""This and the scale are of fp16 alone: nothing else has a scaler."""

EVALUATION = ("miou", "fwiou", "pixel_accuracy", "mean_accuracy", "mean_dice")
"""Written as `score/<figure>` in `tensorboard/eval/val` and `tensorboard/eval/test`."""
EPOCH = "score/epoch"
INTERVAL = ("interval/miou", "interval/low", "interval/high")
"""The mIoU where it has a 95 % interval, and its ends: a band is drawn only where all three have the same steps."""
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


def evaluation(figure: str) -> str:
    """`score/miou`, `score/fwiou`, ..."""
    return f"score/{figure}"


def class_iou(split: str) -> str:
    """`class_iou/test`, in `tensorboard/iou/<class>`."""
    return f"class_iou/{split}"


def attempt_best(split: str) -> str:
    """In `tensorboard/attempts/NNN`: the best mIoU that the attempt has come to."""
    return f"attempt/best_{split}_miou"
