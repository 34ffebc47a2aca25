"""Scores fell though no step went wrong: repeats the way to the fallen epoch, and looks whether it falls again.

What is compared is the loss in evaluation mode on images of the training split: of the state before, of the epoch that
fell, and of the one that the replay comes to. Knows nothing about processes, and decides nothing about what is done.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints.files import load_weights
from ..checkpoints.manifest import read_manifest
from .diagnosis import Diagnosis, Finding, Replay
from .replay import Held, OutOfTimeError, Replayer

RISE = 1.25
"""The loss of the fallen epoch has to be so many times that of before, or these images do not show the fall."""


@dataclass(frozen=True)
class Fallen:
    """The first epoch with low scores. Its training state need not be left: nobody goes on from it."""

    step: int
    epoch: int
    weights: Mapping[str, Tensor]


def load_fallen(path: Path) -> Fallen:
    """By its manifest. Raises CorruptCheckpointError, FileNotFoundError."""
    manifest = read_manifest(path)
    return Fallen(manifest.step, manifest.epoch, load_weights(path.parent, manifest))


def diagnose_fall(replayer: Replayer, fallen: Fallen, good: Sequence[Held]) -> Diagnosis:
    """`good` are states from before `fallen`, newest first.

    Finding: learning-rate where the same settings lead there again, transient where they do not, capacity where memory
    runs out, unknown where it cannot be told.
    """
    return _Fall(replayer, fallen).answer(good)


class _Fall:
    def __init__(self, replayer: Replayer, fallen: Fallen) -> None:
        self._replayer, self._fallen = replayer, fallen
        self._step = fallen.step
        self._rows: list[Replay] = []

    def answer(self, good: Sequence[Held]) -> Diagnosis:
        before = next((held for held in good if held.position.step < self._step), None)
        if before is None:
            finding, because = Finding.UNKNOWN, f"no good state lies before step {self._step}, where the scores fell"
        else:
            finding, because = self._asked(before)
        return Diagnosis(
            finding=finding,
            because=because,
            replays=tuple(self._rows),
            onset_step=self._step,
            device=str(self._replayer.device),
            seconds=sum(row.seconds for row in self._rows),
        )

    def _asked(self, before: Held) -> tuple[Finding, str]:
        try:
            return self._find(before)
        except OutOfTimeError as error:
            return Finding.UNKNOWN, f"the time was not enough: {error}"
        except torch.OutOfMemoryError as error:
            return Finding.CAPACITY, f"memory ran out in the replay too: {error}"

    def _find(self, before: Held) -> tuple[Finding, str]:
        replayer, fallen = self._replayer, self._fallen
        images = replayer.first_step(epoch=fallen.epoch)
        was, fell = replayer.loss_of(before.weights, images), replayer.loss_of(fallen.weights, images)
        if not fell > RISE * was:
            return Finding.UNKNOWN, (
                f"on images of the training split the loss in evaluation is {fell:.4g} after step {self._step} and "
                f"{was:.4g} before: they do not show why the scores fell"
            )
        shown = replayer.forward(before, through=self._step, amp=replayer.spec.amp)
        self._rows.append(shown.row)
        where = f"repeated from {before.name} with nothing changed"
        if not shown.finite:
            return Finding.LEARNING_RATE, f"{where}, {shown.row.message}"
        now = replayer.loss_of(None, images)
        told = (
            f"the loss in evaluation after step {self._step} is {now:.4g}; it was {was:.4g} before, and {fell:.4g} in "
            f"the epoch that fell{self._whose_fault(before, fell)}"
        )
        if not math.isfinite(now) or now > math.sqrt(max(was, 1e-9) * fell):  # nearer to the fall, as a ratio
            return Finding.LEARNING_RATE, f"{where}, it falls again: {told}"
        return Finding.TRANSIENT, f"{where}, it does not fall: {told}. What made it fall cannot be repeated"

    def _whose_fault(self, before: Held, fell: float) -> str:
        """A word on running statistics that alone are to blame; empty where the weights have their part in it."""
        images = self._replayer.first_step(epoch=self._fallen.epoch)
        bare = self._replayer.loss_of(self._fallen.weights, images, of_batch=True)
        if bare * RISE > fell:
            return ""
        name, times = self._most_changed(before)
        return (
            f" (its weights alone, with the statistics of the images, give {bare:.4g}: {name} is {times:.3g} times "
            "what it was)"
        )

    def _most_changed(self, before: Held) -> tuple[str, float]:
        """The running variance that moved furthest, as a ratio, and by how much."""
        ratios = {
            name: float((tensor.double().mean() + 1e-12) / (before.weights[name].double().mean() + 1e-12))
            for name, tensor in self._fallen.weights.items()
            if name.endswith("running_var")
        }
        name = max(ratios, key=lambda each: abs(math.log(max(ratios[each], 1e-12))))
        return name, ratios[name]
