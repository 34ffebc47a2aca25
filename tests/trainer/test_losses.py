from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segwatch.trainer.config import LossConfig
from segwatch.trainer.losses import segmentation_loss
from torch import Tensor

CE_ONLY = LossConfig(cross_entropy=1, dice=0)
DICE_ONLY = LossConfig(cross_entropy=0, dice=1)


def scene(seed: int, *, classes: int = 4, ignored: float = 0.3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, 5, 6, generator=generator) * 3
    target = torch.randint(0, classes - 1, (2, 5, 6), generator=generator)  # the last class is never present
    target[torch.rand(2, 5, 6, generator=generator) < ignored] = 255
    return logits, target


def by_hand(logits: Tensor, target: Tensor) -> tuple[float, float]:
    """Cross-entropy and Dice pixel by pixel, in Python's doubles."""
    classes = logits.shape[1]
    entropy, counted = 0.0, 0
    both, predicted, truth = [0.0] * classes, [0.0] * classes, [0] * classes
    for n in range(logits.shape[0]):
        for y in range(logits.shape[2]):
            for x in range(logits.shape[3]):
                label = int(target[n, y, x])
                if label == 255:
                    continue
                powers = [math.exp(float(value)) for value in logits[n, :, y, x]]
                probability = [power / sum(powers) for power in powers]
                entropy -= math.log(probability[label])
                counted += 1
                truth[label] += 1
                both[label] += probability[label]
                predicted = [a + b for a, b in zip(predicted, probability, strict=True)]
    dice = [2 * both[c] / (predicted[c] + truth[c]) for c in range(classes) if truth[c]]
    return entropy / counted, 1 - sum(dice) / len(dice)


@pytest.mark.parametrize("seed", range(4))
def test_loss_is_what_a_loop_over_the_pixels_gives(seed):
    logits, target = scene(seed)
    entropy, dice = by_hand(logits, target)
    assert segmentation_loss(logits, target, CE_ONLY).item() == pytest.approx(entropy, rel=1e-5)
    assert segmentation_loss(logits, target, DICE_ONLY).item() == pytest.approx(dice, rel=1e-5)
    weighted = segmentation_loss(logits, target, LossConfig(cross_entropy=0.5, dice=2.0)).item()
    assert weighted == pytest.approx(0.5 * entropy + 2 * dice, rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), noise=st.floats(-50, 50))
def test_logits_at_ignored_pixels_change_neither_loss_nor_gradient(seed, noise):
    logits, target = scene(seed)
    ignored = (target == 255).unsqueeze(1).expand_as(logits)
    other = torch.where(ignored, logits * -2 + noise, logits)

    def loss_and_gradient(values: Tensor) -> tuple[Tensor, Tensor]:
        leaf = values.clone().requires_grad_()
        loss = segmentation_loss(leaf, target, LossConfig())
        (gradient,) = torch.autograd.grad(loss, leaf)
        return loss, gradient

    (loss, gradient), (other_loss, other_gradient) = loss_and_gradient(logits), loss_and_gradient(other)
    assert loss == other_loss
    assert torch.equal(gradient, other_gradient)
    assert not gradient[ignored].any()
    assert gradient[~ignored].any()


def test_a_batch_without_a_counted_pixel_has_loss_zero_and_gradient_zero():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = segmentation_loss(logits, torch.full((1, 4, 4), 255), LossConfig())
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_a_perfect_prediction_has_no_loss_although_a_class_is_absent():
    target = torch.tensor([[[0, 1], [1, 0]]])
    logits = torch.full((1, 3, 2, 2), -40.0).scatter(1, target.unsqueeze(1), 40.0)
    assert segmentation_loss(logits, target, LossConfig()).item() == pytest.approx(0, abs=1e-6)


def test_dice_is_pooled_over_the_batch_and_computed_in_float32_under_autocast():
    target = torch.zeros(1, 300, 300, dtype=torch.int64)  # 90,000 pixels: a sum that fp16 cannot hold
    with torch.autocast("cpu", dtype=torch.float16):
        logits = torch.zeros(1, 2, 300, 300, dtype=torch.float16)
        loss = segmentation_loss(logits, target, DICE_ONLY)
    assert loss.dtype is torch.float32
    assert loss.item() == pytest.approx(1 - 2 * 0.5 / 1.5)
