"""Runs the network forward, compiled where somebody wishes it and it works. Knows nothing about losses or optimizers.

The model itself stays what it is: its state has the same names, and a checkpoint does not tell how it was trained. All
compiling happens before the first step, never in the middle of an epoch, where it would look like a hang.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from .config import Compile
from .contract import COMPILED
from .resume import random_states, set_random_states

log = logging.getLogger(__name__)

BACKEND = "inductor"
CACHE = "compiled"
"""In the run's directory, which nobody else can write to: what is compiled is loaded again by the next attempt."""
PAYS = 0.95
"""Share of the time at which `auto` keeps it."""
ROUNDS = 3
ALIKE = {torch.float32: 0.01, torch.bfloat16: 0.1, torch.float16: 0.1}
"""How far the logits may be from those without, by the norm of the difference: other rounding, no other network."""

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Forward:
    """What runs the network, and why it is this."""

    network: Network
    because: str = ""
    """In words; empty where nobody wished anything."""


class MiscompiledError(Exception):
    """It computes something else."""


def prepare(
    model: nn.Module,
    wish: Compile,
    *,
    sizes: Collection[tuple[int, int]],
    batch_size: int,
    autocast: Callable[[], AbstractContextManager[Any]],
    cache: Path,
) -> Forward:
    """`model` as it is, or compiled for batches of `batch_size` images of the one size (height, width) in `sizes`.

    Tried out on made-up images, forward and backward; nothing of the model has changed afterwards. `cache` is where the
    compiled code is kept. Whatever goes wrong is logged, and then it is the model as it is.
    """
    if wish is False:
        return Forward(model)
    if len(sizes) != 1:
        return _told(
            Forward(model, f"not compiled: the images come in {len(sizes)} sizes, each of which would need it")
        )
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))  # the default is a directory in /tmp for all runs
    [(height, width)] = sizes
    shape = (batch_size, 3, height, width)
    began = time.monotonic()
    try:
        with _untouched(model):
            compiled, times = _tried_out(model, shape, autocast)
    except Exception as error:
        # Boundary: a compiler has many ways to fail, and training does without it.
        log.warning("the network cannot be compiled", exc_info=True)
        return _told(Forward(model, f"not compiled, it failed: {_reason(error)}"))
    figures = (
        f"{times.compiled * 1e3:.3g} ms forward and backward, {times.eager * 1e3:.3g} ms without; "
        f"it took {time.monotonic() - began:.0f} s to find out"
    )
    if wish == "auto" and times.compiled > PAYS * times.eager:
        return _told(Forward(model, f"not compiled, it does not pay: {figures}"))
    return _told(Forward(_OfOneShape(compiled, model, shape), f"{COMPILED}{figures}"))


@dataclass(frozen=True)
class _OfOneShape:
    """The compiled network for the one shape, the model itself for every other: the last batch of an epoch."""

    compiled: Network
    model: Network
    shape: tuple[int, ...]

    def __call__(self, images: Tensor) -> Tensor:
        if images.shape != self.shape:
            return self.model(images)
        # Whatever may have changed since it was tried out: it is not compiled anew in the middle of an epoch.
        with torch.compiler.set_stance("eager_on_recompile"):
            return self.compiled(images)


@dataclass(frozen=True)
class _Times:
    """Medians in seconds, measured by turns."""

    compiled: float
    eager: float


def _tried_out(
    model: nn.Module, shape: tuple[int, ...], autocast: Callable[[], AbstractContextManager[Any]]
) -> tuple[Network, _Times]:
    """Raises MiscompiledError, and whatever a compiler raises."""
    from torch._inductor import config  # slow to import, and seldom wished

    config.compile_threads = 1  # else processes of its own, which would outlive a kill
    compiled: Network = torch.compile(model, dynamic=False, backend=BACKEND)
    device = next(model.parameters()).device
    images = torch.rand(shape, device=device).contiguous(memory_format=torch.channels_last)

    def taken(network: Network) -> tuple[float, Tensor]:
        _wait(device)
        began = time.perf_counter()
        with autocast():
            logits = network(images)
        torch.autograd.backward(logits.float().square().mean())
        _wait(device)
        return time.perf_counter() - began, logits.detach()

    _require_alike(taken(compiled)[1], taken(model)[1])
    pairs = [(taken(compiled)[0], taken(model)[0]) for _ in range(ROUNDS)]
    return compiled, _Times(*(median(column) for column in zip(*pairs, strict=True)))


def _require_alike(compiled: Tensor, eager: Tensor) -> None:
    apart = (compiled.float() - eager.float()).norm() / eager.float().norm()
    if not apart <= ALIKE[eager.dtype]:  # NaN is not alike either
        raise MiscompiledError(f"its logits are {apart:.2g} of their size away from those of the network")


def _reason(error: Exception) -> str:
    """The first line of what the backend said, where it was the backend."""
    cause = getattr(error, "inner_exception", error)
    return f"{type(cause).__name__}: {str(cause).strip().partition(chr(10))[0]}"


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Afterwards BatchNorm has seen nothing, no parameter has a gradient, and chance goes on where it was."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    training, random = model.training, random_states()
    try:
        model.train()
        yield
    finally:
        model.train(training)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        model.zero_grad(set_to_none=True)
        set_random_states(random)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _told(forward: Forward) -> Forward:
    log.info("%s", forward.because)
    return forward
