"""Logits and a target in, one number out. Knows nothing about networks, precision or optimizers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.resolved import IGNORE_INDEX
from .config import LossConfig


def segmentation_loss(logits: Tensor, target: Tensor, config: LossConfig) -> Tensor:
    """Cross-entropy plus soft Dice of logits (N, C, H, W) and target int64 (N, H, W); 255 is ignored by both.

    Cross-entropy is the mean over the counted pixels. Dice is 1 - the mean over the classes present in the target of
    2 |P T| / (|P| + |T|), pooled over the batch (Milletari et al., 2016, arXiv:1606.04797, without the squares), so
    that a class which is not there can neither be learnt nor punished by a smoothing constant. Both in float32, under
    autocast too: sums over a whole image overflow fp16. A batch without a counted pixel has loss 0 and gradient 0.
    """
    with torch.autocast(logits.device.type, enabled=False):
        log_probability = F.log_softmax(logits.float(), dim=1)
        loss = log_probability.new_zeros(())
        if config.cross_entropy:
            loss = loss + config.cross_entropy * _cross_entropy(log_probability, target)
        if config.dice:
            loss = loss + config.dice * _soft_dice(log_probability.exp(), target)
    return loss


def _cross_entropy(log_probability: Tensor, target: Tensor) -> Tensor:
    counted = (target != IGNORE_INDEX).sum().clamp(min=1)
    return F.nll_loss(log_probability, target, ignore_index=IGNORE_INDEX, reduction="sum") / counted


def _soft_dice(probability: Tensor, target: Tensor) -> Tensor:
    classes = torch.arange(probability.shape[1], device=target.device)
    truth = target.unsqueeze(1) == classes.view(1, -1, 1, 1)  # (N, C, H, W); 255 is no class and matches none
    counted = (target != IGNORE_INDEX).unsqueeze(1)

    intersection = (probability * truth).sum(dim=(0, 2, 3))
    predicted = (probability * counted).sum(dim=(0, 2, 3))
    support = truth.sum(dim=(0, 2, 3))
    present = support > 0
    dice = 2 * intersection / (predicted + support).clamp(min=1e-6)
    mean = (dice * present).sum() / present.sum().clamp(min=1)
    return (1 - mean) * present.any()
