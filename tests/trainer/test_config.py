"""The `[loss]` table: what it refuses, and class weights as numbers."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from segwatch.data.resolved import ResolvedClass
from segwatch.errors import ConfigError
from segwatch.trainer.config import LossConfig

CLASSES = tuple(
    ResolvedClass(
        id=number, name=name, colour=(0, 0, 0), pixels={"train": pixels, "test": 9}, seen={"train": seen, "test": 9}
    )
    for number, name, pixels, seen in [(0, "field", 8000, 10000), (3, "road", 1000, 5000), (20, "car", 10, 10000)]
)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cross_entropy": 0, "dice": 0}, "nothing to minimise"),
        ({"tversky": 1, "tversky_alpha": 0, "tversky_beta": 0}, "nothing to weigh"),
        ({"class_weights": [0.0, 0.0]}, "no pixel would count"),
        ({"class_weights": [1.0, -1.0]}, "greater than or equal to 0"),
        ({"class_weights": "median"}, "'median-frequency'"),
        ({"class_weights": "inverse", "cross_entropy": 0}, "cross_entropy and focal alone"),
        ({"class_weights": [1.0], "cross_entropy": 0, "lovasz": 1}, "cross_entropy and focal alone"),
        ({"class_weight_limit": 0.5}, "greater than or equal to 1"),
        ({"focal_gamma": -1}, "greater than or equal to 0"),
    ],
)
def test_a_loss_that_could_not_do_what_it_says_is_refused(settings, words):
    with pytest.raises(ValidationError, match=words):
        LossConfig.model_validate(settings)


def test_weights_are_computed_from_the_training_pixels_within_the_limit():
    resolved = LossConfig(class_weights="median-frequency", class_weight_limit=50).resolved(CLASSES)
    # Shares of the images that hold them: 0.8, 0.2, 0.001; their median is 0.2.
    assert resolved.class_weights == pytest.approx([0.25, 1.0, 50.0])
    assert resolved.dice == 1.0
    inverse = LossConfig(class_weights="inverse").resolved(CLASSES).class_weights
    assert inverse[0] == 0.1
    assert inverse[1] == 0.1
    assert inverse[2] == pytest.approx(3 * (1 / 10) / (1 / 8000 + 1 / 1000 + 1 / 10))


@pytest.mark.parametrize("given", ["none", [0.0, 1.0, 5.0]])
def test_weights_that_need_no_computing_stay_as_they_are(given):
    assert LossConfig(class_weights=given).resolved(CLASSES).class_weights == given


@pytest.mark.parametrize("given", [[], [1.0, 2.0], [1.0] * 4])
def test_a_list_of_another_length_is_answered_with_the_classes_in_order(given):
    with pytest.raises(ConfigError) as caught:
        LossConfig(class_weights=given).resolved(CLASSES)
    assert caught.value.where == "loss.class_weights"
    assert f"{len(given)} numbers, and 3 classes" in caught.value.what
    assert "0 field, 3 road, 20 car" in caught.value.remedy


def test_a_recipe_names_what_takes_part_with_its_weight():
    assert LossConfig().recipe == "1 x cross-entropy + 1 x Dice"
    every = LossConfig(cross_entropy=0.5, focal=2, lovasz=1, tversky=0.25).recipe
    assert every == (
        "0.5 x cross-entropy + 1 x Dice + 2 x focal (gamma 2) + 1 x Lovász + 0.25 x Tversky (alpha 0.3, beta 0.7)"
    )
