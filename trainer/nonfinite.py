"""Watches a network through one step and names the first tensor that is not finite. Knows nothing about why.

It waits for the device at every layer: for repeating a step, not for training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from ..checkpoints.files import poisoned_tensors
from ..checkpoints.manifest import NEGATIVE
from .diagnosis import FirstNonFinite

Kind = Literal["input", "weight", "buffer", "output", "loss", "gradient"]


@dataclass
class Watch:
    """What came up while the network was watched, in the order in which it was computed."""

    forward: list[tuple[str, Kind, float | None]] = field(default_factory=list)
    backward: list[tuple[str, Kind, float | None]] = field(default_factory=list)
    largest_logit: float | None = None

    def first(self, step: int, *, loss_finite: bool) -> FirstNonFinite | None:
        """Forward, then the loss, then backward."""
        if self.forward:
            return _said(step, *self.forward[0])
        if not loss_finite:
            return _said(step, "loss", "loss", self.largest_logit)
        return _said(step, *self.backward[0]) if self.backward else None


@contextmanager
def watching(model: nn.Module) -> Iterator[Watch]:
    """Hooks on every layer until the end of the block."""
    watch = Watch()
    handles = []
    for name, module in model.named_modules():
        if not list(module.children()):
            handles.append(module.register_forward_hook(_forward_hook(watch, name)))
    for name, parameter in model.named_parameters():
        hook = _gradient_hook(watch, name.rpartition(".")[0])
        handles.append(parameter.register_hook(hook))  # type: ignore[no-untyped-call]
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()


def in_state(model: nn.Module, step: int) -> FirstNonFinite | None:
    """The first parameter or buffer that no training should hold."""
    weights = {name for name, _ in model.named_parameters()}
    for name in poisoned_tensors(model.state_dict()):
        tensor = name.removesuffix(NEGATIVE)
        return _said(step, tensor.rpartition(".")[0], "weight" if tensor in weights else "buffer", None)
    return None


def largest_gradient(model: nn.Module, step: int) -> FirstNonFinite:
    """For a norm that is not finite over gradients that are: the layer with the largest one."""
    sizes = {name: _largest(p.grad) or 0.0 for name, p in model.named_parameters() if p.grad is not None}
    name = max(sizes, key=lambda each: sizes[each])
    return _said(step, name.rpartition(".")[0], "gradient", sizes[name])


def _forward_hook(watch: Watch, name: str) -> Callable[[nn.Module, Any, Any], None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        given = inputs[0]
        watch.largest_logit = _largest(output)
        if output.requires_grad:
            output.register_hook(_gradient_hook(watch, name))  # type: ignore[no-untyped-call]
        if watch.forward or _finite(output):
            return
        kind: Kind = "output"
        if not all(_finite(parameter) for parameter in module.parameters(recurse=False)):
            kind = "weight"
        elif not _finite(given):
            kind = "input"
        watch.forward.append((name, kind, _largest(given)))

    return hook


def _gradient_hook(watch: Watch, name: str) -> Callable[[Tensor], None]:
    def hook(gradient: Tensor) -> None:
        if not watch.backward and not _finite(gradient):
            watch.backward.append((name, "gradient", _largest(gradient)))

    return hook


def _finite(tensor: Tensor) -> bool:
    return bool(tensor.detach().isfinite().all())


def _largest(tensor: Tensor) -> float | None:
    """The largest finite magnitude; `None` where there is none."""
    magnitudes = tensor.detach().float().abs()
    finite = magnitudes[magnitudes.isfinite()]
    return float(finite.max()) if finite.numel() else None


def _said(step: int, layer: str, tensor: Kind, largest: float | None) -> FirstNonFinite:
    return FirstNonFinite(step=step, layer=layer, tensor=tensor, largest=largest)
