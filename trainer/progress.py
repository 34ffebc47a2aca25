"""Tells the journal and TensorBoard how training goes. Knows nothing about models."""

from __future__ import annotations

import math
import time

import psutil
import torch

from .config import Amp
from .contract import Progress
from .curves import Curves
from .health import Reading, Signs
from .incident import StepFacts
from .journal import Journal
from .pace import Pace
from .points import points

PROGRESS_SECONDS = 1.0


class Teller:
    """One progress line about every second, and the same figures as curves."""

    def __init__(self, journal: Journal, curves: Curves, device: torch.device, amp: Amp) -> None:
        """`amp` is what is in force."""
        self.pace = Pace(clock=time.perf_counter)
        self._journal = journal
        self._curves = curves
        self._device = device
        self._amp = amp

    def due(self) -> bool:
        return self.pace.since_told() >= PROGRESS_SECONDS

    def tell(self, facts: StepFacts, reading: Reading, signs: Signs) -> None:
        """`facts` and `reading` are of the newest step whose figures have arrived: a hung GPU must not look alive."""
        told = self.pace.tell()
        finite = math.isfinite(reading.grad_norm)
        line = Progress(
            time=self._journal.now(),
            step=facts.step,
            epoch=facts.epoch,
            step_in_epoch=facts.step_in_epoch,
            loss=told.loss,
            grad_norm=reading.grad_norm if finite else None,
            lr=facts.lr,
            images_per_second=told.images_per_second,
            p99_step_seconds=told.p99_step_seconds,
            amp_scale=reading.scale,
            skipped_steps=signs.skipped_steps,
            loss_spikes=signs.loss_spikes,
            loss_high_since=signs.loss_high_since,
            grad_norm_high_since=signs.grad_norm_high_since,
            memory_mb=memory_mb(self._device),
            nonfinite=() if finite else ("grad_norm",),
        )
        self._journal.write(line)
        self._curves.write(line.step, points(line, self._amp))


def memory_mb(device: torch.device) -> float:
    """Peak memory of the device's allocator, or resident memory on the CPU, in MB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return float(psutil.Process().memory_info().rss) / 1e6
