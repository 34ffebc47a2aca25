"""Faults made on purpose, each once, at its optimizer step. Knows nothing about how they are found or mended.

A drill is in the journal, on the disk, before its fault happens: one that kills the worker must not happen again.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor, nn

from .contract import Drill, DrillKind, DrillLine
from .journal import Journal

log = logging.getLogger(__name__)

OVERFLOWING_WEIGHT = 3e4
"""Below the largest fp16 number, 65504; a sum over a few dozen inputs is above."""
DEAD = 1e3
"""What is normed has no values of that size, so that nothing of it passes a ReLU."""
DROWNING = 40.0
"""In logits: as many nats as each pixel of another class then costs."""
DRIFT = 1e12
"""A momentum of 0.1 takes 260 steps to forget it."""
LARGEST = 1e37
"""A weight can be that, but no sum of it over the pixels of an image: it is the loss that breaks, however late."""
GROWTH = 16.0
"""Per step: a loss leaves fp32 after about 30 steps, and fp16 after 4."""


class Drills:
    """The drills of one attempt that have not happened yet."""

    def __init__(self, drills: Sequence[Drill], journal: Journal | None) -> None:
        """Without a journal there can be no drills: whoever repeats a step makes no fault of its own."""
        assert journal is not None or not drills
        self._pending = list(drills)
        self._journal = journal
        self._grows = False

    def before_step(self, step: int, model: nn.Module) -> None:
        """Raises, kills or hangs where such a drill is due at `step`, or poisons `model`."""
        for kind in (DrillKind.POISON_BATCHNORM, DrillKind.NAN_WEIGHTS):
            if self._begins(kind, step):
                _poison(model, kind)
        if self._begins(DrillKind.OVERFLOW, step):
            _overflow(model)
        if self._begins(DrillKind.LOSS_SPIKE, step):
            _drown(model)
        if self._begins(DrillKind.DRIFT_BATCHNORM, step):
            _drift(model)
        self._grows = self._grows or self._begins(DrillKind.LR_SPIKE, step)
        if self._grows:
            _grow(model)
        if self._begins(DrillKind.OUT_OF_MEMORY, step):
            raise torch.OutOfMemoryError(f"drill: out of memory at step {step}")
        if self._begins(DrillKind.CRASH, step):
            raise RuntimeError(f"drill: crash at step {step}")
        if self._begins(DrillKind.KILL, step):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._begins(DrillKind.HANG, step):
            _hang()

    def bad_file(self, step: int) -> bool:
        """Whether from this step on one of its files is to be bad."""
        return self._begins(DrillKind.BAD_FILE, step)

    def on_loss(self, step: int, loss: Tensor) -> Tensor:
        """The loss, or NaN with NaN gradients."""
        return loss * float("nan") if self._begins(DrillKind.NAN_LOSS, step) else loss

    def on_gradients(self, step: int, parameters: Sequence[nn.Parameter]) -> None:
        """After the backward pass and before unscaling, so that under fp16 the scaler sees it as its own."""
        if self._begins(DrillKind.INF_GRADIENTS, step):
            gradient = next(p.grad for p in parameters if p.grad is not None and p.grad.ndim == 1)
            gradient[0] = float("inf")

    def _begins(self, kind: DrillKind, step: int) -> bool:
        drill = Drill(kind=kind, step=step)
        if drill not in self._pending:
            return False
        assert self._journal is not None
        self._pending.remove(drill)
        self._journal.write(DrillLine(time=self._journal.now(), drill=drill))
        log.warning("drill: %s", drill)
        return True


def _poison(model: nn.Module, kind: DrillKind) -> None:
    layer = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    with torch.no_grad():
        if kind is DrillKind.NAN_WEIGHTS:
            layer.weight[0] = float("nan")
        else:
            assert layer.running_var is not None
            layer.running_var[0] = float("inf")


def _overflow(model: nn.Module) -> None:
    """Weights that fp16 can still hold, with sums of them that it cannot. The BatchNorm behind them divides it away."""
    layer = [module for module in model.modules() if isinstance(module, nn.Conv2d)][1]
    with torch.no_grad():
        layer.weight.mul_(OVERFLOWING_WEIGHT / layer.weight.abs().amax())


def _grow(model: nn.Module) -> None:
    """The bias of the last class: every pixel of another class is wrong by it, whatever was learnt before."""
    layer = [module for module in model.modules() if isinstance(module, nn.Conv2d)][-1]
    assert layer.bias is not None
    with torch.no_grad():
        layer.bias[-1] = (layer.bias[-1].abs().clamp(min=1) * GROWTH).clamp(max=LARGEST)


def _drown(model: nn.Module) -> None:
    """No feature is left for the last layer, and so no gradient that would bring them back; one class is far ahead."""
    norm = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)][-1]
    last = [module for module in model.modules() if isinstance(module, nn.Conv2d)][-1]
    assert last.bias is not None
    with torch.no_grad():
        norm.bias.fill_(-DEAD)
        last.bias[0] = DROWNING


def _drift(model: nn.Module) -> None:
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_var is not None
                module.running_var.mul_(DRIFT)


def _hang() -> NoReturn:
    """As a wedged driver does: no step ever again, and deaf to SIGTERM. Stacks by SIGUSR1 still come."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(3600)
