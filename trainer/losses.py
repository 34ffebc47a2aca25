"""Logits and a target in, one number out. Knows nothing about networks, precision or optimizers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.resolved import IGNORE_INDEX
from .config import LossConfig
from .lovasz import lovasz_softmax

SMALLEST = 1e-12
"""Keeps a sum of weights from being a zero to divide by; any weight that a person would give is far above."""


class SegmentationLoss:
    """The weighted sum of losses that `[loss]` asks for. Pixels of 255 enter none of them, not even their gradients.

    All are computed in float32, under autocast too: sums over a whole image overflow fp16. A batch without a counted
    pixel has loss 0 and gradient 0. Nothing waits for a GPU.
    """

    def __init__(self, config: LossConfig, *, classes: int, device: torch.device | str = "cpu") -> None:
        """`config` with class weights as numbers, or "none". Raises ValueError where they are not one per class."""
        self._config = config
        self._class_weights = _weight_tensor(config, classes, device)

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Float32 () of logits (N, C, H, W) and target int64 (N, H, W)."""
        config = self._config
        with torch.autocast(logits.device.type, enabled=False):
            log_probability = F.log_softmax(logits.float(), dim=1)
            loss = log_probability.new_zeros(())
            if config.cross_entropy:
                loss = loss + config.cross_entropy * cross_entropy(log_probability, target, self._class_weights)
            if config.focal:
                faded = focal(log_probability, target, config.focal_gamma, self._class_weights)
                loss = loss + config.focal * faded
            if config.dice or config.tversky or config.lovasz:
                loss = self._add_region_losses(loss, log_probability.exp(), target)
        return loss

    def _add_region_losses(self, loss: Tensor, probability: Tensor, target: Tensor) -> Tensor:
        config = self._config
        if config.dice or config.tversky:
            overlap = Overlap.of(probability, target)
            if config.dice:
                loss = loss + config.dice * soft_dice(overlap)
            if config.tversky:
                loss = loss + config.tversky * tversky(overlap, config.tversky_alpha, config.tversky_beta)
        if config.lovasz:
            loss = loss + config.lovasz * lovasz_softmax(probability, target)
        return loss


def cross_entropy(log_probability: Tensor, target: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Mean over the counted pixels; with class weights, their weighted mean: divided by the sum of their weights.

    That is torch's own normalisation. It keeps the size of the loss, so that a learning rate stays right whatever the
    weights; and in a batch of one class alone no weight changes anything.
    """
    if class_weights is None:
        counted = (target != IGNORE_INDEX).sum().clamp(min=1)
        return F.nll_loss(log_probability, target, ignore_index=IGNORE_INDEX, reduction="sum") / counted
    total = _pixel_weights(target, class_weights).sum().clamp(min=SMALLEST)
    summed = F.nll_loss(log_probability, target, weight=class_weights, ignore_index=IGNORE_INDEX, reduction="sum")
    return summed / total


def focal(log_probability: Tensor, target: Tensor, gamma: float = 2.0, class_weights: Tensor | None = None) -> Tensor:
    """Cross-entropy times (1 - p)^gamma, where p is the probability of the truth (Lin et al., 2017, arXiv:1708.02002).

    Averaged as `cross_entropy` is, which it becomes with gamma 0. Class weights are the paper's alpha.
    """
    entropy = F.nll_loss(log_probability, target, ignore_index=IGNORE_INDEX, reduction="none")  # 0 where ignored
    # 1 - p without cancellation; kept off 0, where a root has no slope.
    doubt = (-torch.expm1(-entropy)).clamp(min=1e-6)
    weights = _pixel_weights(target, class_weights)
    return (doubt**gamma * entropy * weights).sum() / weights.sum().clamp(min=SMALLEST)


@dataclass(frozen=True)
class Overlap:
    """Prediction and truth of each class, summed over the counted pixels of a batch; each (C,)."""

    intersection: Tensor
    """Probability on the pixels of the class."""
    predicted: Tensor
    """Probability on all counted pixels."""
    support: Tensor
    """Pixels of the class."""

    @classmethod
    def of(cls, probability: Tensor, target: Tensor) -> Overlap:
        classes = torch.arange(probability.shape[1], device=target.device)
        truth = target.unsqueeze(1) == classes.view(1, -1, 1, 1)  # (N, C, H, W); 255 is no class and matches none
        counted = (target != IGNORE_INDEX).unsqueeze(1)
        return cls(
            intersection=(probability * truth).sum(dim=(0, 2, 3)),
            predicted=(probability * counted).sum(dim=(0, 2, 3)),
            support=truth.sum(dim=(0, 2, 3)),
        )

    def loss(self, index: Tensor) -> Tensor:
        """1 - the mean of `index` (C,) over the classes present; 0 where none is.

        A class that is not there can so neither be learnt nor be punished by a smoothing constant.
        """
        present = self.support > 0
        mean = (index * present).sum() / present.sum().clamp(min=1)
        return (1 - mean) * present.any()


def soft_dice(overlap: Overlap) -> Tensor:
    """2 |P T| / (|P| + |T|), pooled over the batch (Milletari et al., 2016, arXiv:1606.04797, without the squares)."""
    dice = 2 * overlap.intersection / (overlap.predicted + overlap.support).clamp(min=1e-6)
    return overlap.loss(dice)


def tversky(overlap: Overlap, alpha: float, beta: float) -> Tensor:
    """TP / (TP + alpha FP + beta FN), soft and pooled over the batch (Salehi et al., 2017, arXiv:1706.05721)."""
    hits = overlap.intersection
    false_alarms = overlap.predicted - hits
    misses = overlap.support - hits
    return overlap.loss(hits / (hits + alpha * false_alarms + beta * misses).clamp(min=1e-6))


def _pixel_weights(target: Tensor, class_weights: Tensor | None) -> Tensor:
    """float32 (N, H, W): the weight of each pixel's class, 1 without any; 0 where the pixel is ignored."""
    counted = (target != IGNORE_INDEX).float()
    if class_weights is None:
        return counted
    return class_weights[target.clamp(max=len(class_weights) - 1)] * counted


def _weight_tensor(config: LossConfig, classes: int, device: torch.device | str) -> Tensor | None:
    if config.class_weights == "none":
        return None
    if isinstance(config.class_weights, str):
        raise ValueError(f"class weights must be numbers by now, not {config.class_weights!r}")  # noqa: TRY004 - its value
    if len(config.class_weights) != classes:
        raise ValueError(f"{len(config.class_weights)} class weights for {classes} classes")
    return torch.tensor(config.class_weights, dtype=torch.float32, device=device)
