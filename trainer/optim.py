"""The optimizer, its learning rate, its precision, and the gate that lets no bad step through.

Knows nothing about losses, data or what is done about a skipped step.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .config import Amp, Optimizer
from .contract import AttemptSpec
from .schedules import Schedule, rate_share

AUTOCAST_DTYPE = {Amp.BF16: torch.bfloat16, Amp.FP16: torch.float16}


def build_optimizer(spec: AttemptSpec, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW and SGD in their fused form, which also skips a step on the device; RMSprop has only a batched one."""
    match spec.optimizer:
        case Optimizer.ADAMW:
            return torch.optim.AdamW(parameters, lr=spec.lr, weight_decay=spec.weight_decay, fused=True)
        case Optimizer.SGD:
            return torch.optim.SGD(
                parameters, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay, fused=True
            )
        case Optimizer.RMSPROP:
            return torch.optim.RMSprop(
                parameters, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay, foreach=True
            )


def override(optimizer: torch.optim.Optimizer, spec: AttemptSpec) -> None:
    """Put the attempt's values over what `load_state_dict` brought back: loading alone would undo every remedy."""
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"] = spec.lr
        group["weight_decay"] = spec.weight_decay
        if "momentum" in group:
            group["momentum"] = spec.momentum


def match_layouts(optimizer: torch.optim.Optimizer) -> None:
    """Lay every state tensor out as its parameter is, and let SGD's momentum begin at zero.

    The fused kernels walk parameter and state side by side in memory, so a channels_last weight with a contiguous
    moment would be updated with the moments of other weights. And fused SGD allocates its buffer before it looks at
    `found_inf`: a first step that is skipped would leave it holding whatever was in that memory.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
            if isinstance(optimizer, torch.optim.SGD) and group["momentum"] and state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter)


def lr_at(base: float, step: int, total_steps: int, schedule: Schedule) -> float:
    """The learning rate of optimizer step `step` (from 1) of `total_steps`.

    A pure function of the step: a scheduler object would carry the old rate through its own state into a resumed run.
    """
    return base * rate_share(min(1.0, (step - 1) / total_steps), schedule)


def set_lr(
    optimizer: torch.optim.Optimizer, step: int, total_steps: int, schedule: Schedule, *, share: float = 1.0
) -> float:
    """Set the rate of step `step` from each group's base rate, times `share`, and return it."""
    rate = 0.0
    for group in optimizer.param_groups:
        rate = group["lr"] = share * lr_at(group["initial_lr"], step, total_steps, schedule)
    return rate


def clear_nonfinite_moments(optimizer: torch.optim.Optimizer) -> int:
    """Zero each entry of the state that is not finite, with the other moments of that weight; return how many.

    Together, because Adam divides one by the root of the other: a sound mean over a variance of 0 is a leap.
    """
    cleared = 0
    for parameter, state in optimizer.state.items():
        moments = [
            value
            for value in state.values()
            if isinstance(value, Tensor) and value.is_floating_point() and value.shape == parameter.shape
        ]
        if not moments:
            continue
        bad = ~torch.stack([moment.isfinite() for moment in moments]).all(dim=0)
        cleared += int(bad.sum())
        for moment in moments:
            moment.masked_fill_(bad, 0)
    return cleared


def step_unless(optimizer: torch.optim.Optimizer, found_inf: Tensor) -> None:
    """`optimizer.step()`, or nothing at all where `found_inf` (float32 scalar) is 1: no weight, moment, counter moves.

    Fused optimizers read the flag on the device, by the attribute that GradScaler gives them, and the host never
    learns of it here. RMSprop has no such kernel, so with it the host waits for the flag at every step. Multiplying the
    gradients by 0 instead would be no skip: 0 x NaN is NaN, and moments and weight decay would move even so.
    """
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.found_inf = found_inf  # type: ignore[attr-defined]
        try:
            optimizer.step()
        finally:
            del optimizer.found_inf  # type: ignore[attr-defined]
    elif not found_inf.item():
        optimizer.step()


def computes_bf16(device: torch.device) -> bool:
    """Whether the hardware does. A GPU before Ampere, such as a T4, emulates it, and is slower with it than in fp32."""
    if device.type != "cuda":
        return True
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


class Precision:
    """Autocast and, for fp16, the gradient scaler: what `amp` means on one device."""

    def __init__(self, amp: Amp, device: torch.device) -> None:
        self._amp = amp
        self._device = device
        self.scaler = torch.amp.GradScaler(device.type) if amp is Amp.FP16 else None
        self._unscaled = torch.ones((), device=device)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, dtype=AUTOCAST_DTYPE.get(self._amp), enabled=self._amp is not Amp.OFF)

    def in_force(self) -> Amp:
        """Read back from torch, inside the context: what the forward pass will really run in."""
        with self.autocast():
            if not torch.is_autocast_enabled(self._device.type):
                return Amp.OFF
            dtype = torch.get_autocast_dtype(self._device.type)
        return next(amp for amp, known in AUTOCAST_DTYPE.items() if known == dtype)

    def backward(self, loss: Tensor) -> None:
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)

    def update(self) -> Tensor:
        """Let the scaler act on what `unscale` found, and return the scale (a scalar on the device; 1 without one)."""
        if self.scaler is None:
            return self._unscaled
        self.scaler.update()
        scale = self.scaler._scale  # noqa: SLF001 - get_scale() copies it to the host and waits
        assert scale is not None
        return scale
