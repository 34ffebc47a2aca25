"""One optimizer step: forward, loss, backward, clip, gate. Knows nothing about epochs, files or what trouble means.

Nothing in here waits for a GPU (RMSprop aside, see `optim.step_unless`): figures leave as a tensor on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from ..data.batches import Batch, to_device
from .contract import AttemptSpec
from .drills import Drills
from .losses import SegmentationLoss
from .optim import Precision, step_unless


class Stepper:
    """Takes optimizer steps on `model`."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        precision: Precision,
        spec: AttemptSpec,
        device: torch.device,
        *,
        classes: int,
        drills: Drills,
        forward: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """`forward` is what runs `model`, where that is not the model itself."""
        self._forward = model if forward is None else forward
        self._optimizer = optimizer
        self._precision = precision
        self._loss = SegmentationLoss(spec.loss, classes=classes, device=device)
        self._clip_grad_norm = spec.clip_grad_norm
        self._device = device
        self._drills = drills
        self._parameters = list(model.parameters())
        self._lost = torch.zeros((), dtype=torch.bool, device=device)
        """Whether some loss was not finite. Nothing is updated from there on: a host that hears of it some steps later,
        as of a GPU, finds the weights and moments with which that step failed."""

    def take(self, step: int, batches: Iterable[Batch], *, images: int) -> Tensor:
        """Step `step` on the micro-batches of `images` images in all.

        Returns float32 (4,) on the device: loss, gradient norm before clipping, 1 if the step was skipped, AMP scale.
        """
        self._optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self._device)
        for batch in batches:
            loss = loss + self._accumulate(step, batch, share=len(batch.names) / images)
        self._drills.on_gradients(step, self._parameters)

        self._precision.unscale(self._optimizer)
        norm = nn.utils.clip_grad_norm_(self._parameters, self._clip_grad_norm, foreach=True)
        self._lost |= ~loss.isfinite()
        found_inf = (self._lost | ~norm.isfinite()).float()
        step_unless(self._optimizer, found_inf)
        scale = self._precision.update()
        return torch.stack([loss, norm, found_inf, scale])

    def _accumulate(self, step: int, batch: Batch, *, share: float) -> Tensor:
        """Add the gradients of one micro-batch; its loss weighs as its share of the step's images."""
        images, masks = to_device(batch, self._device)
        with self._precision.autocast():
            logits = self._forward(images)
        loss = self._drills.on_loss(step, self._loss(logits, masks) * share)
        self._precision.backward(loss)
        return loss.detach()
