"""How many images make a forward pass, found out on the network and the images at hand.

Larger batches are tried only while each pays, and none is taken that would change a bit of the logits: how busy the
machine was must not show in a score. Knows nothing about splits, checkpoints or what is done when memory ends.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..data.batches import load_batch, to_device
from ..data.cache import PixelCache
from .config import USUAL_BATCH
from .windows import Window

SIZES = {"cpu": (1, 2, 4), "cuda": (1, 2, 4, 8, 16)}
"""On the CPU never more memory than the usual takes: there the system ends whoever took too much, without a warning."""
PAYS = 0.95
"""Share of the time at which twice as many images are worth their memory."""
ROUNDS = 2
ROOM = 0.5
"""Of the GPU's free memory: training may still need the rest."""


@dataclass(frozen=True)
class Choice:
    """A batch size, and why it is this one."""

    batch_size: int
    because: str
    """In words, with the rates that were measured; empty where somebody set it."""


def choose(network: nn.Module, images: Tensor | None) -> Choice:
    """The batch size for images like `images`, float32 (N, 3, H, W) on the device of `network`, which is in eval mode.

    Costs nine images on a CPU where one at a time is the fastest. Raises what the device raises when its memory ends.
    """
    if images is None:
        return Choice(USUAL_BATCH, f"{_at_once(USUAL_BATCH)}, the usual: the images come in several sizes")
    sizes = [size for size in SIZES[images.device.type] if size <= len(images)]
    if len(sizes) < 2:
        return Choice(1, "1 image at once: there are no two to compare")
    with torch.inference_mode():
        if images.device.type == "cpu":
            network(images[:1])  # what is set up only once is nobody's
        else:
            sizes = sizes[: _that_fit(network, images, sizes)]
            alone = _timed(network, images[: sizes[-1]], 1).logits
            if not all(_same_bits(alone, _timed(network, images[: sizes[-1]], size).logits) for size in sizes[1:]):
                usual = f"{_at_once(USUAL_BATCH)}, the usual: on this GPU the batch size changes the logits"
                return Choice(USUAL_BATCH, usual)
        return _climb(network, images, sizes)


def sample(caches: Collection[PixelCache], window: Window, device: torch.device) -> Tensor | None:
    """Images as the network will see all of them, or windows of them; `None` where they come in several sizes.

    Then a size that is right for one might change the logits of another, and to look at each would cost too much.
    """
    sizes = {_seen(cache.size(index), window) for cache in caches for index in range(len(cache))}
    if len(sizes) != 1:
        return None
    [(height, width)] = sizes
    most = max(caches, key=len)
    images, _ = to_device(load_batch(most, range(len(most))[: SIZES[device.type][-1]]), device)
    return images[:, :, :height, :width]


def _seen(size: tuple[int, int], window: Window) -> tuple[int, int]:
    height, width = size
    return size if window.covers(height, width) else (min(height, window.side), min(width, window.side))


def _climb(network: nn.Module, images: Tensor, sizes: Sequence[int]) -> Choice:
    """The last size before the first that does not pay. Two neighbours are measured by turns, on the same images."""
    chosen, seconds = sizes[0], {}
    for smaller, larger in pairwise(sizes):
        both = images[:larger]
        taken = [(_timed(network, both, smaller), _timed(network, both, larger)) for _ in range(ROUNDS)]
        if not all(_same_bits(one.logits, other.logits) for one, other in taken):
            return Choice(chosen, f"{_at_once(chosen)}: {larger} would change the logits")
        seconds[smaller] = min(one.seconds for one, _ in taken) / larger
        seconds[larger] = min(other.seconds for _, other in taken) / larger
        if seconds[larger] > PAYS * seconds[smaller]:
            break
        chosen = larger
    rates = ", ".join(f"{1 / each:.3g} images/s by {size}" for size, each in seconds.items())
    return Choice(chosen, f"{_at_once(chosen)}: {rates}" if rates else _at_once(chosen))


def _at_once(size: int) -> str:
    return f"{size} image{'s' if size > 1 else ''} at once"


def _same_bits(one: Tensor, other: Tensor) -> bool:
    # As integers, since NaN is not equal to itself, and a broken network is measured like any other.
    return torch.equal(one.contiguous().view(torch.int32), other.contiguous().view(torch.int32))


@dataclass(frozen=True)
class _Timed:
    seconds: float
    logits: Tensor


def _timed(network: nn.Module, images: Tensor, size: int) -> _Timed:
    """All of `images`, `size` at once."""
    _wait(images.device)
    began = time.perf_counter()
    logits = torch.cat([network(part) for part in torch.split(images, size)])
    _wait(images.device)
    return _Timed(time.perf_counter() - began, logits)


def _that_fit(network: nn.Module, images: Tensor, sizes: Sequence[int]) -> int:
    """How many of `sizes` a GPU has room for, by what one image takes."""
    free, _ = torch.cuda.mem_get_info(images.device)
    before = torch.cuda.memory_allocated(images.device)
    torch.cuda.reset_peak_memory_stats(images.device)
    network(images[:1])
    one = torch.cuda.max_memory_allocated(images.device) - before
    return max(1, sum(size * one <= ROOM * free for size in sizes))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
