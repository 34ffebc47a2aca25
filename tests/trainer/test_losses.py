"""Every loss against a transcription of its paper in numpy's doubles, and what all of them owe to ignored pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segwatch.trainer.config import LossConfig
from segwatch.trainer.losses import SegmentationLoss
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

CLASSES = 4
WEIGHTS = [0.5, 3.0, 0.0, 1.5]
NOTHING = {"cross_entropy": 0, "dice": 0}
RECIPES = {
    "cross-entropy": LossConfig(dice=0),
    "weighted-cross-entropy": LossConfig(dice=0, class_weights=WEIGHTS),
    "dice": LossConfig(cross_entropy=0),
    "focal": LossConfig(**NOTHING, focal=1),
    "weighted-focal": LossConfig(**NOTHING, focal=1, focal_gamma=0.5, class_weights=WEIGHTS),
    "lovasz": LossConfig(**NOTHING, lovasz=1),
    "tversky": LossConfig(**NOTHING, tversky=1),
    "sum": LossConfig(
        cross_entropy=0.5, dice=2, focal=3, lovasz=0.7, tversky=1.5, tversky_alpha=0.8, class_weights=WEIGHTS
    ),
}
every_recipe = pytest.mark.parametrize("config", RECIPES.values(), ids=RECIPES.keys())


def scene(seed: int, *, classes: int = CLASSES, ignored: float = 0.3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, 3, 4, generator=generator) * 3
    target = torch.randint(0, classes - 1, (2, 3, 4), generator=generator)  # the last class is never present
    target[torch.rand(2, 3, 4, generator=generator) < ignored] = 255
    return logits, target


def loss_of(logits: Tensor, target: Tensor, config: LossConfig) -> Tensor:
    return SegmentationLoss(config, classes=logits.shape[1])(logits, target)


def loss_and_gradient(logits: Tensor, target: Tensor, config: LossConfig) -> tuple[Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    loss = loss_of(leaf, target, config)
    (gradient,) = torch.autograd.grad(loss, leaf)
    return loss, gradient


def by_hand(logits: np.ndarray, target: np.ndarray, config: LossConfig) -> float:
    """The weighted sum in doubles: only counted pixels are ever looked at."""
    classes = logits.shape[1]
    counted = target != 255
    pixels = np.moveaxis(logits, 1, -1)[counted].astype(np.float64)  # (P, C)
    truth = target[counted]
    probability = np.exp(pixels - pixels.max(axis=1, keepdims=True))
    probability /= probability.sum(axis=1, keepdims=True)

    weights = np.ones(classes) if config.class_weights == "none" else np.array(config.class_weights)
    weight = weights[truth]
    right = probability[np.arange(len(truth)), truth]
    entropy = (weight * -np.log(right)).sum() / weight.sum()
    focal = (weight * (1 - right) ** config.focal_gamma * -np.log(right)).sum() / weight.sum()

    dice, tversky, lovasz = [], [], []
    for index in np.unique(truth):
        own, chance = truth == index, probability[:, index]
        hits, false_alarms, misses = chance[own].sum(), chance[~own].sum(), (1 - chance[own]).sum()
        dice.append(2 * hits / (chance.sum() + own.sum()))
        tversky.append(hits / (hits + config.tversky_alpha * false_alarms + config.tversky_beta * misses))
        if config.lovasz:  # quadratic in the pixels
            lovasz.append(lovasz_by_hand(np.where(own, 1 - chance, chance), own))
    return float(
        config.cross_entropy * entropy
        + config.focal * focal
        + config.dice * (1 - np.mean(dice))
        + config.tversky * (1 - np.mean(tversky))
        + (config.lovasz * np.mean(lovasz) if config.lovasz else 0)
    )


def lovasz_by_hand(errors: np.ndarray, truth: np.ndarray) -> float:
    """Equation 9 of the paper: errors in falling order, each times what its pixel adds to the set's Jaccard loss."""
    total, before, wrong = 0.0, 0.0, np.zeros(len(truth), dtype=bool)
    for pixel in np.argsort(-errors, kind="stable"):
        wrong[pixel] = True
        jaccard_loss = wrong.sum() / (truth | wrong).sum()  # |M| / |T u M|
        total += errors[pixel] * (jaccard_loss - before)
        before = jaccard_loss
    return total


@every_recipe
@pytest.mark.parametrize("seed", range(4))
def test_a_loss_is_what_its_paper_says(config, seed):
    logits, target = scene(seed)
    assert loss_of(logits, target, config).item() == pytest.approx(
        by_hand(logits.numpy(), target.numpy(), config), rel=2e-5
    )


@every_recipe
def test_a_gradient_is_the_slope_of_what_the_paper_says(config):
    logits, target = scene(11)
    _, gradient = loss_and_gradient(logits, target, config)
    step, slope = 1e-5, np.zeros(logits.shape)
    for place in np.ndindex(*logits.shape):
        nudge = np.zeros(logits.shape)
        nudge[place] = step
        higher, lower = (by_hand(logits.double().numpy() + sign * nudge, target.numpy(), config) for sign in (1, -1))
        slope[place] = (higher - lower) / (2 * step)
    assert np.abs(slope).max() > 1e-3
    np.testing.assert_allclose(gradient.numpy(), slope, rtol=1e-3, atol=1e-6)


@every_recipe
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), noise=st.floats(-50, 50, width=32))
def test_logits_at_ignored_pixels_change_neither_loss_nor_gradient(config, seed, noise):
    logits, target = scene(seed)
    ignored = (target == 255).unsqueeze(1).expand_as(logits)
    other = torch.where(ignored, logits * -2 + noise, logits)
    loss, gradient = loss_and_gradient(logits, target, config)
    other_loss, other_gradient = loss_and_gradient(other, target, config)
    assert loss == other_loss
    assert torch.equal(gradient, other_gradient)
    assert not gradient[ignored].any()
    assert gradient[~ignored].any()


@every_recipe
def test_a_batch_without_a_counted_pixel_has_loss_zero_and_gradient_zero(config):
    logits, target = scene(0)
    loss, gradient = loss_and_gradient(logits, torch.full_like(target, 255), config)
    assert loss.item() == 0
    assert torch.equal(gradient, torch.zeros_like(logits))


@every_recipe
def test_a_perfect_prediction_has_no_loss_and_finite_gradients_although_classes_are_absent(config):
    target = torch.tensor([[[0, 1], [1, 255]]])
    logits = torch.zeros(1, CLASSES, 2, 2).scatter(1, target.clamp(max=3).unsqueeze(1), 200.0)
    loss, gradient = loss_and_gradient(logits, target, config)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert gradient.isfinite().all()


@every_recipe
def test_a_wholly_wrong_and_certain_prediction_has_a_finite_loss_and_gradient(config):
    target = torch.tensor([[[0, 1], [1, 255]]])
    logits = torch.zeros(1, CLASSES, 2, 2)
    logits[:, 3] = 1000.0
    loss, gradient = loss_and_gradient(logits, target, config)
    assert loss.item() > 0.5
    assert gradient.isfinite().all()


@every_recipe
def test_nan_logits_make_a_nan_loss_that_health_can_see(config):
    logits, target = scene(0, ignored=0)
    logits[0, 0, 0, 0] = float("nan")
    assert loss_of(logits, target, config).isnan()


@every_recipe
def test_no_loss_ever_asks_a_device_for_a_value_or_a_shape(config):
    """Fake tensors have no values: whatever would wait for a GPU (`.item()`, boolean indexing) raises."""
    with FakeTensorMode():
        logits = torch.randn(2, CLASSES, 8, 8, requires_grad=True)
        SegmentationLoss(config, classes=CLASSES)(logits, torch.zeros(2, 8, 8, dtype=torch.int64)).backward()
        assert logits.grad.shape == logits.shape


@every_recipe
def test_losses_are_computed_in_float32_under_autocast(config):
    few, many = torch.tensor([[[0, 1]]]), torch.tensor([[[0, 1]]]).repeat(1, 300, 150)  # a sum that fp16 cannot hold
    with torch.autocast("cpu", dtype=torch.float16):
        loss = loss_of(torch.zeros(1, CLASSES, 300, 300, dtype=torch.float16), many, config)
    assert loss.dtype is torch.float32
    # Logits that are all alike: the number of pixels drops out.
    assert loss.item() == pytest.approx(by_hand(np.zeros((1, CLASSES, 1, 2)), few.numpy(), config), rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_weighted_cross_entropy_is_torchs_own_weighted_mean(seed):
    logits, target = scene(seed)
    own = loss_of(logits, target, RECIPES["weighted-cross-entropy"])
    theirs = F.cross_entropy(logits, target, weight=torch.tensor(WEIGHTS), ignore_index=255)
    torch.testing.assert_close(own, theirs)


def test_only_the_proportions_of_class_weights_matter():
    logits, target = scene(0)
    scaled = LossConfig(dice=0, class_weights=[0.001 * weight for weight in WEIGHTS])
    torch.testing.assert_close(
        loss_of(logits, target, scaled), loss_of(logits, target, RECIPES["weighted-cross-entropy"])
    )


def test_a_class_of_weight_zero_is_not_learnt_and_a_batch_of_nothing_else_has_no_loss():
    config = RECIPES["weighted-cross-entropy"]
    target = torch.tensor([[[2, 2], [2, 255]]])
    loss, gradient = loss_and_gradient(torch.randn(1, CLASSES, 2, 2), target, config)
    assert loss.item() == 0
    assert not gradient.any()


def test_focal_loss_with_gamma_zero_is_cross_entropy():
    logits, target = scene(0)
    for weights in ("none", WEIGHTS):
        focal = LossConfig(**NOTHING, focal=1, focal_gamma=0, class_weights=weights)
        plain = LossConfig(dice=0, class_weights=weights)
        torch.testing.assert_close(loss_of(logits, target, focal), loss_of(logits, target, plain))


def test_tversky_of_one_half_and_one_half_is_dice():
    logits, target = scene(0)
    tversky = LossConfig(**NOTHING, tversky=1, tversky_alpha=0.5, tversky_beta=0.5)
    torch.testing.assert_close(loss_of(logits, target, tversky), loss_of(logits, target, RECIPES["dice"]))


def test_tversky_without_alpha_counts_misses_alone():
    target = torch.tensor([[[0, 0, 0, 0, 1, 1, 1, 1]]])

    def costs(prediction: list[int]) -> float:
        logits = F.one_hot(torch.tensor([[prediction]]), 2).permute(0, 3, 1, 2) * 100.0
        return loss_of(logits, target, LossConfig(**NOTHING, tversky=1, tversky_alpha=0, tversky_beta=1)).item()

    # Each class is its recall then: half of class 1 is missed, all of class 0 found, its false alarms forgiven.
    assert costs([0, 0, 0, 0, 1, 1, 0, 0]) == pytest.approx(0.25)
    assert costs([0, 0, 0, 0, 1, 1, 1, 1]) == pytest.approx(0)


@settings(max_examples=40, deadline=None)
@given(
    truth=st.lists(st.sampled_from([0, 1, 2, 255]), min_size=6, max_size=6).filter(lambda ids: set(ids) != {255}),
    predicted=st.lists(st.integers(0, 2), min_size=6, max_size=6),
)
def test_lovasz_of_a_hard_prediction_is_one_minus_the_mean_iou_of_the_classes_present(truth, predicted):
    target = torch.tensor(truth).view(1, 2, 3)
    logits = F.one_hot(torch.tensor(predicted).view(1, 2, 3), 3).permute(0, 3, 1, 2) * 1000.0
    counted = [(own, guess) for own, guess in zip(truth, predicted, strict=True) if own != 255]
    ious = []
    for index in {own for own, _ in counted}:
        both = sum(own == guess == index for own, guess in counted)
        ious.append(both / sum(index in pixel for pixel in counted))
    loss = loss_of(logits, target, RECIPES["lovasz"]).item()
    assert loss == pytest.approx(1 - sum(ious) / len(ious), abs=1e-6)


def test_lovasz_keeps_its_digits_on_a_large_image():
    """Differences of neighbouring Jaccard losses, as published, are wrong by a few per cent here."""
    generator = torch.Generator().manual_seed(0)
    pixels = 1 << 20
    target = (torch.rand(1, 1, pixels, generator=generator) < 0.6).long()
    logits = torch.randn(1, 2, 1, pixels, generator=generator)
    _, gradient = loss_and_gradient(logits, target, RECIPES["lovasz"])

    probability = logits.double().softmax(1)[0, 1, 0]
    truth = target[0, 0].bool()
    slopes = torch.zeros(pixels, dtype=torch.float64)
    for own, chance, sign in ((truth, probability, -1), (~truth, 1 - probability, 1)):
        order = torch.where(own, 1 - chance, chance).argsort(descending=True, stable=True)
        missed = own[order].double().cumsum(0)
        union = own.sum() + torch.arange(1, pixels + 1) - missed
        jaccard = 1 - (own.sum() - missed) / union
        growth = torch.diff(jaccard, prepend=torch.zeros(1, dtype=torch.float64))
        slopes[order] += sign * growth * torch.where(own[order], 1.0, -1.0) / 2
    expected = slopes * probability * (1 - probability)
    torch.testing.assert_close(gradient[0, 1, 0].double(), expected, rtol=2e-3, atol=1e-12)


@pytest.mark.parametrize("weights", ["inverse", [1.0, 2.0], [1.0] * 5])
def test_weights_that_are_not_one_number_per_class_are_refused_before_a_gpu_meets_them(weights):
    with pytest.raises(ValueError, match="class weights"):
        SegmentationLoss(LossConfig(class_weights=weights), classes=3)
