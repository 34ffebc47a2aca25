"""The synthetic scenes: what the demo promises about them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from segwatch.data.audit import audit, require
from segwatch.data.classes import load_class_table
from segwatch.data.config import SPLITS, DataConfig, SplitConfig
from segwatch.data.scenes import GREEN_FIELD, POOL, class_table, draw_scene, write_scenes

USED = (0, 1, 2, 3, 4, 7, 10, 13)


def config() -> DataConfig:
    splits = {name: SplitConfig(images=Path("images", name), masks=Path("masks", name)) for name in SPLITS}
    return DataConfig.model_validate({"classes": "classes.toml", "scale": 0.5, **splits})


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(
        tmp_path_factory.mktemp("scenes"), counts={"train": 16, "val": 2, "test": 2}, size=(160, 192), seed=3
    )


def test_the_audit_passes_and_finds_a_messy_table(scenes: Path) -> None:
    report = audit(config(), scenes)
    assert not report.errors
    assert require(report).class_ids == USED
    assert len(report.classes) == 26
    assert report.unnamed_present == (20,)
    assert len(report.named_absent) == 10
    assert not report.unknown_ids
    assert not report.test_only


def test_green_fields_are_the_majority_and_pools_are_rare(scenes: Path) -> None:
    share = {entry.id: entry.share["train"] or 0.0 for entry in audit(config(), scenes).classes}
    assert 0.5 < share[GREEN_FIELD] < 0.75
    assert 0 < share[POOL] < 0.005


def test_the_table_on_disk_is_the_table_of_the_scenes(scenes: Path) -> None:
    assert load_class_table(scenes / "classes.toml").entries == class_table()


def test_one_scene_per_split_is_enough_to_show_every_class(tmp_path: Path) -> None:
    for seed in range(8):
        root = write_scenes(tmp_path / str(seed), counts=dict.fromkeys(SPLITS, 1), size=(64, 80), seed=seed)
        report = audit(config(), root)
        assert require(report).class_ids == USED
        assert all(entry.pixels[split] for entry in report.classes if entry.used for split in SPLITS)


def test_stems_hold_a_dot_and_ids_are_8_bit(scenes: Path) -> None:
    masks = sorted((scenes / "masks" / "train").iterdir())
    assert len(masks) == 16
    assert all(path.stem.count(".") == 1 for path in masks)
    with Image.open(masks[0]) as mask:
        assert (mask.mode, mask.size) == ("L", (192, 160))


def test_the_same_seed_draws_the_same_scene_and_another_seed_another_one() -> None:
    first, again, other = (draw_scene(np.random.default_rng(seed), (96, 96)) for seed in (5, 5, 6))
    for one, same, different in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(same))
        assert (np.asarray(one) != np.asarray(different)).any()


def test_no_scene_is_in_two_splits(scenes: Path) -> None:
    contents = [path.read_bytes() for path in scenes.glob("images/*/*.jpg")]
    assert len(set(contents)) == len(contents) == 20


def test_a_scene_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="64 pixels"):
        write_scenes(tmp_path, counts={"train": 1}, size=(63, 100), seed=0)


def test_colour_tells_the_classes_apart() -> None:
    """The nearest mean colour alone beats the majority class by far, so a small network learns more within minutes."""
    drawn = [draw_scene(np.random.default_rng(seed), (192, 192)) for seed in range(6)]
    pixels = np.concatenate([np.asarray(image).reshape(-1, 3) for image, _ in drawn]).astype(float)
    ids = np.concatenate([np.asarray(mask).ravel() for _, mask in drawn])
    seen = np.unique(ids)
    means = np.array([pixels[ids == class_id].mean(axis=0) for class_id in seen])
    guess = seen[np.argmin(((pixels[:, None] - means) ** 2).sum(axis=-1), axis=1)]
    recall = [(guess[ids == class_id] == class_id).mean() for class_id in USED if (ids == class_id).any()]
    assert np.mean(recall) > 0.4
