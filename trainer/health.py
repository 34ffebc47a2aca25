"""Which numbers of a step are trouble, and how they get to the host without making a GPU wait.

`Health` is plain Python over plain numbers; `Readback` is the way from the device. Neither knows about files or models.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor

from ..checkpoints.manifest import NEGATIVE
from .config import Amp
from .contract import READBACK_STEPS, Cause
from .spikes import RECENT, STAYS, Watch

Evidence = dict[str, float | int | str | None]
Context = TypeVar("Context")

SCALER_WARM_UP_STEPS = 50
"""A new scaler starts at 65536 and halves its way down: up to 16 skips in a row are its normal life."""
SCALER_SKIPS_IN_A_ROW = 8
SCALER_FALL = 64.0
SCALER_LONG_RUN_STEPS = 200
"""Fewer scales than this have no long-run median."""
SCALER_REMEMBERED_STEPS = 2000
INF_GRADIENTS_FATAL = 3
INF_GRADIENTS_WINDOW_STEPS = 50
LOSS_RISE = 2.0
"""Times its usual median, and LOSS_RISE_FLOOR above it, are the least that a high loss is."""
LOSS_RISE_FLOOR = 0.05
"""A network that has learnt its images by heart is at a loss of 0.01, and at 0.03 a step later: nothing is lost."""
NORM_RISE = 4.0
"""The same for a gradient norm, which moves more by nature."""


@dataclass(frozen=True)
class Reading:
    """What one optimizer step said of itself."""

    step: int
    loss: float
    grad_norm: float
    """Before clipping, after unscaling."""
    skipped: bool
    scale: float | None
    """Of the fp16 scaler after the step; `None` without one."""


@dataclass(frozen=True)
class Verdict:
    """Trouble, and whether the worker must leave because of it."""

    cause: Cause
    message: str
    fatal: bool
    evidence: Evidence = field(default_factory=dict)


@dataclass(frozen=True)
class Signs:
    """What is counted and shown, and by itself no trouble."""

    skipped_steps: int = 0
    loss_spikes: int = 0
    """Single losses far above the usual, whether anything came of them or not."""
    loss_high_since: int | None = None
    """The step from which on losses are high, while they are."""
    grad_norm_high_since: int | None = None


def spoken(value: float | None) -> float | str | None:
    """A number for JSON, which has no NaN: what is not finite becomes its name."""
    return value if value is None or math.isfinite(value) else str(value)


class Health:
    """Reads one step after the other and says what is trouble: the loss always, then gradients or the fp16 scaler.

    A loss that is finite and high is trouble only when it stays so. Norms that grow are none by themselves: they come
    with every healthy change of phase too. They are shown, and stand as evidence beside what does go wrong.
    """

    def __init__(self, amp: Amp, *, scaler_steps: int = 0, usual_losses: Sequence[float] = ()) -> None:
        """`usual_losses` are those of the attempt before, as `losses.known()` gave them."""
        self._amp = amp
        self.scaler_steps = scaler_steps
        """Steps since the fp16 scaler started; saved, so that a resumed scaler gets no second warm-up."""
        self.skipped_steps = 0
        self._skips_in_a_row = 0
        self._inf_gradients: deque[int] = deque(maxlen=INF_GRADIENTS_FATAL)
        self._scales: deque[float] = deque(maxlen=SCALER_REMEMBERED_STEPS)
        self.losses = Watch(times=LOSS_RISE, floor=LOSS_RISE_FLOOR, known=usual_losses)
        self.norms = Watch(times=NORM_RISE)

    def observe(self, reading: Reading) -> Verdict | None:
        self.skipped_steps += reading.skipped
        self.losses.observe(reading.step, reading.loss)
        self.norms.observe(reading.step, reading.grad_norm)
        return self._plain_sign(reading) or self._spike(reading)

    @property
    def signs(self) -> Signs:
        loss, norm = self.losses.risen, self.norms.risen
        return Signs(
            self.skipped_steps,
            self.losses.wild,
            loss_high_since=None if loss is None else loss.since,
            grad_norm_high_since=None if norm is None else norm.since,
        )

    def _plain_sign(self, reading: Reading) -> Verdict | None:
        """What one reading says, or a row of skipped steps."""
        if not math.isfinite(reading.loss):
            return self._nan_loss(reading)
        if self._amp is Amp.FP16:
            return self._scaler(reading)
        if not math.isfinite(reading.grad_norm):
            return self._inf_gradient(reading)
        return None

    def _nan_loss(self, reading: Reading) -> Verdict:
        # In fp16 too: the scaler skips the weights, but the forward pass has already written BatchNorm's statistics.
        return Verdict(
            Cause.NAN_LOSS,
            f"the loss of step {reading.step} is {reading.loss} under AMP {self._amp}; its update was skipped",
            fatal=True,
            evidence=self._evidence(reading),
        )

    def _inf_gradient(self, reading: Reading) -> Verdict:
        self._inf_gradients.append(reading.step)
        span = reading.step - self._inf_gradients[0]
        fatal = len(self._inf_gradients) == INF_GRADIENTS_FATAL and span < INF_GRADIENTS_WINDOW_STEPS
        message = (
            f"the gradient norm of step {reading.step} is {reading.grad_norm} while its loss is finite; step skipped"
        )
        if fatal:
            message += f", the third within {INF_GRADIENTS_WINDOW_STEPS} steps"
        return Verdict(Cause.INF_GRADIENTS, message, fatal=fatal, evidence=self._evidence(reading))

    def _spike(self, reading: Reading) -> Verdict | None:
        rise = self.losses.stays
        if rise is None:
            return None
        usual = rise.usual
        message = (
            f"the loss stays high: {rise.level:.4g} is the median of the last {RECENT // 4} steps, usual are "
            f"{usual.median:.4g} (MAD {usual.mad:.2g}), {rise.z:.1f} robust deviations less; since step {rise.since}, "
            f"and not on its way down"
        )
        evidence: Evidence = {
            "onset_step": rise.since,
            "loss_level": rise.level,
            "usual_loss": usual.median,
            "usual_mad": usual.mad,
            "z": round(rise.z, 2),
            "high_from": usual.high,
            "judged": f"{STAYS} of {RECENT} steps",
        }
        return Verdict(Cause.LOSS_SPIKE, message, fatal=True, evidence={**self._evidence(reading), **evidence})

    def _scaler(self, reading: Reading) -> Verdict | None:
        """Skips and backing off are how a scaler works; only the three signs below say that it has lost."""
        assert reading.scale is not None
        self.scaler_steps += 1
        warm = self.scaler_steps > SCALER_WARM_UP_STEPS
        self._skips_in_a_row = self._skips_in_a_row + 1 if reading.skipped and warm else 0
        fell_from = self._fell_from(reading.scale)
        if warm:
            self._scales.append(reading.scale)

        if self._skips_in_a_row >= SCALER_SKIPS_IN_A_ROW:
            sign = f"{self._skips_in_a_row} steps in a row were skipped, long after the scaler's warm-up"
        elif reading.scale < 1:
            sign = f"the scale fell to {reading.scale:g}, below 1: the gradients themselves overflow fp16"
        elif fell_from is not None:
            sign = f"the scale fell to {reading.scale:g} from a long-run median of {fell_from:g}"
        else:
            return None
        return Verdict(Cause.AMP_UNSTABLE, f"fp16: {sign}", fatal=True, evidence=self._evidence(reading))

    def _fell_from(self, scale: float) -> float | None:
        """The long-run median, where `scale` has fallen SCALER_FALL below it."""
        if len(self._scales) < SCALER_LONG_RUN_STEPS or scale >= self._scales[-1]:
            return None  # the median is worth its time only when the scale moves down
        median = statistics.median(self._scales)
        return median if scale * SCALER_FALL <= median else None

    def _evidence(self, reading: Reading) -> Evidence:
        signs = self.signs
        high = {"loss_high_since": signs.loss_high_since, "grad_norm_high_since": signs.grad_norm_high_since}
        return {
            "loss": spoken(reading.loss),
            "grad_norm": spoken(reading.grad_norm),
            "amp": str(self._amp),
            "amp_scale": spoken(reading.scale),
            "skipped_steps": self.skipped_steps,
            **{name: step for name, step in high.items() if step is not None},
        }


def nan_weights(step: int, names: Sequence[str], *, when: str) -> Verdict:
    """The verdict on a model, or a state, whose tensors `names` are poisoned; `when` says how it came to light."""
    assert names
    first, more = names[0], f" and {len(names) - 1} more tensors" if len(names) > 1 else ""
    if first.endswith(NEGATIVE):
        what = (
            f"BatchNorm running variance {first.removesuffix(NEGATIVE)}{more} is negative, which no training makes it: "
            "every evaluation would be nonsense although the training loss may look healthy"
        )
    elif first.endswith(("running_mean", "running_var")):
        what = (
            f"BatchNorm running statistic {first}{more} is not finite: every evaluation would be NaN although the "
            "training loss may be finite"
        )
    elif first.startswith("optimizer."):
        what = f"optimizer state {first}{more} is not finite: the next update would poison the weights"
    else:
        what = f"weight {first}{more} is not finite"
    evidence: Evidence = {"tensors": ", ".join(names[:8]), "nonfinite_tensors": len(names)}
    return Verdict(Cause.NAN_WEIGHTS, f"{what} (step {step}, {when})", fatal=True, evidence=evidence)


@dataclass
class _Pending(Generic[Context]):
    context: Context
    figures: Tensor
    done: torch.cuda.Event


class Readback(Generic[Context]):
    """Figures of each step from the device to the host, in order.

    On the CPU at once. On a GPU by an asynchronous copy into pinned memory, read when it has arrived: up to `depth`
    steps late, and only then, with the GPU that far behind, does the host wait.
    """

    def __init__(self, device: torch.device, *, depth: int = READBACK_STEPS) -> None:
        self._on_gpu = device.type == "cuda"
        self._depth = depth
        self._here: deque[tuple[Context, list[float]]] = deque()
        self._pending: deque[_Pending[Context]] = deque()

    def put(self, figures: Tensor, context: Context) -> None:
        """`figures` is a float32 vector on the device; `context` comes back with its numbers."""
        if not self._on_gpu:
            self._here.append((context, figures.tolist()))
            return
        landing = torch.empty(figures.shape, dtype=figures.dtype, pin_memory=True)
        landing.copy_(figures, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()
        self._pending.append(_Pending(context, landing, done))

    def take(self, *, wait: bool = False) -> Iterator[tuple[Context, list[float]]]:
        """What has arrived; with `wait`, all that was put."""
        while self._here:
            yield self._here.popleft()
        while self._pending:
            oldest = self._pending[0]
            if wait or len(self._pending) > self._depth:
                oldest.done.synchronize()
            elif not oldest.done.query():  # type: ignore[no-untyped-call]
                return
            self._pending.popleft()
            yield oldest.context, oldest.figures.tolist()
