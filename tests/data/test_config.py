"""`[data]` by itself: which ways of naming the splits there are, and what each mistake says."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from segwatch.data.config import SPLITS, DataConfig, split_mistakes

DIRECTORIES = {name: {"images": f"images/{name}", "masks": f"masks/{name}"} for name in SPLITS}


def config(**settings: Any) -> DataConfig:
    return DataConfig.model_validate({"classes": "classes.toml", **settings})


def mistakes(**settings: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        config(**settings)
    return "; ".join(error["msg"] for error in caught.value.errors())


@pytest.mark.parametrize(
    "settings",
    [
        DIRECTORIES,
        {"masks": "masks", **{name: {"images": f"images/{name}"} for name in SPLITS}},
        {name: {"list": f"{name}.txt"} for name in SPLITS},
        {"images": "images", "masks": "masks", "split": {}},
        {**DIRECTORIES, "test": {"list": "test.txt"}},
    ],
)
def test_splits_are_directories_lists_or_drawn(settings: dict[str, Any]) -> None:
    config(**settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "[data.train], [data.val], [data.test] missing; or draw the splits"),
        ({"train": DIRECTORIES["train"]}, "[data.val], [data.test] missing"),
        ({**DIRECTORIES, "split": {}, "images": "i", "masks": "m"}, "[data.train] names one: keep one of the two"),
        ({"split": {}, "images": "i"}, "split needs data.images and data.masks"),
        ({**DIRECTORIES, "val": {"images": "i"}}, "[data.val] has no masks"),
        ({"images": "i", "masks": "m", **DIRECTORIES, "val": {}}, "[data.val] names no images"),
        ({"split": {"val": 0.5, "test": 0.5}, "images": "i", "masks": "m"}, "leave nothing to train on"),
        ({"split": {"val": 0.0}, "images": "i", "masks": "m"}, "greater than 0"),
        ({**DIRECTORIES, "scene_pattern": "("}, "no regular expression: missing )"),
        ({**DIRECTORIES, "mask_suffixes": []}, "at least 1 item"),
        ({**DIRECTORIES, "ignore": ["black"]}, "should match pattern"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings: dict[str, Any], said: str) -> None:
    assert said in mistakes(**settings)


def test_mistakes_of_the_splits_are_told_together() -> None:
    assert split_mistakes({"train": {}, "val": {"images": "i"}}) == [
        "[data.test] missing; or draw the splits: split = { val = 0.1, test = 0.1 }",
        "[data.train] names no images: a directory `images`, or a `list`",
        "[data.train] has no masks: a directory, here or as data.masks",
        "[data.val] has no masks: a directory, here or as data.masks",
    ]
