"""Random changes of training images: the same for image and mask, the same again after a resume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from segwatch.data.augment import GREY, Augmentation, Draw, Sample, describe
from segwatch.data.batches import load_batch, to_device
from segwatch.data.config import AugmentConfig

from .test_batches import cache_of, item

STILL = Draw(
    mirrored=False,
    upside_down=False,
    quarter_turns=0,
    zoom=1.0,
    row=0.0,
    column=0.0,
    brightness=1.0,
    contrast=1.0,
    saturation=1.0,
    hue=0.0,
)
GEOMETRY = {"flip": True, "turn": True, "scale": (0.4, 2.5), "crop": 48}
JITTER = {"brightness": 0.4, "contrast": 0.5, "saturation": 0.6, "hue": 0.2}


def augmentation(seed: int = 0, **settings: object) -> Augmentation:
    return Augmentation(AugmentConfig.model_validate(settings), seed=seed)


def drawn(**figures: object) -> Draw:
    return Draw(**{**vars(STILL), **figures})


def ramp(height: int, width: int, axis: int) -> np.ndarray:
    """An item whose red is the row, whose green is the column, whose mask is one of them: pixels know their place."""
    rows, columns = np.indices((height, width), dtype=np.uint8)
    return np.stack([rows, columns, np.zeros_like(rows), (rows, columns)[axis]], axis=-1)


def pixels(sample: Sample) -> np.ndarray:
    return np.dstack([sample.image[..., :3], sample.mask])


def test_everything_off_is_no_augmentation_at_all() -> None:
    assert Augmentation.of(AugmentConfig(), seed=0) is None
    assert Augmentation.of(AugmentConfig(flip=True), seed=0) is not None


@given(st.integers(0, 2**40), st.integers(1, 1000), st.integers(0, 10**6))
def test_a_draw_depends_on_seed_epoch_and_image_alone(seed: int, epoch: int, index: int) -> None:
    once, again = augmentation(seed, **GEOMETRY, **JITTER), augmentation(seed, **GEOMETRY, **JITTER)
    again.draw(epoch + 1, index)  # nothing that was drawn before matters
    assert once.draw(epoch, index) == again.draw(epoch, index)
    others = {
        augmentation(seed + 1, **GEOMETRY).draw(epoch, index),
        once.draw(epoch + 1, index),
        once.draw(epoch, index + 1),
    }
    assert once.draw(epoch, index) not in others
    assert len(others) == 3


def test_a_draw_never_changes_with_a_release() -> None:
    draw = augmentation(7, flip=True, turn=True, scale=(0.5, 2.0), brightness=0.2).draw(3, 11)
    assert (draw.mirrored, draw.upside_down, draw.quarter_turns) == (True, False, 1)
    assert (draw.zoom, draw.row, draw.brightness) == pytest.approx(
        (0.895753654033, 0.65094196791, 1.13680768588), rel=1e-9
    )


def test_switching_one_change_on_leaves_the_others_alone() -> None:
    few, all_of_them = augmentation(scale=(0.5, 2.0)), augmentation(**{**GEOMETRY, **JITTER, "scale": (0.5, 2.0)})
    for epoch in range(1, 20):
        one, other = few.draw(epoch, 0), all_of_them.draw(epoch, 0)
        assert (one.zoom, one.row, one.column) == (other.zoom, other.row, other.column)


def test_draws_stay_within_their_bounds_and_use_all_of_them() -> None:
    draws = [augmentation(**GEOMETRY, **JITTER).draw(epoch, 5) for epoch in range(400)]
    bounds = {"zoom": (0.4, 2.5), "brightness": (0.6, 1.4), "contrast": (0.5, 1.5), "saturation": (0.4, 1.6)}
    for name, (low, high) in {**bounds, "hue": (-0.2, 0.2)}.items():
        values = [getattr(draw, name) for draw in draws]
        assert low <= min(values) < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < max(values) <= high
    assert np.median([draw.zoom for draw in draws]) == pytest.approx(1.0, abs=0.1)  # half as likely as double
    assert {draw.quarter_turns for draw in draws} == {0, 1, 2, 3}
    for flag in ("mirrored", "upside_down"):
        assert sum(getattr(draw, flag) for draw in draws) == pytest.approx(200, abs=40)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("settings", [{}, {"crop": 48}, {"crop": 200}], ids=["own-size", "crop", "crop-beyond"])
def test_image_and_mask_stay_aligned_to_the_pixel(axis: int, settings: dict[str, int]) -> None:
    changing = augmentation(flip=True, turn=True, scale=(0.4, 2.5), **settings)
    source = ramp(150, 110, axis)
    for epoch in range(60):
        sample = changing.apply(source, changing.draw(epoch, 0))
        # Bilinear rounds the place of a centre, nearest rounds it down: at most one apart, and on average not at all.
        apart = sample.image[..., axis].astype(int) - sample.mask
        assert np.abs(apart).max() <= 1
        assert abs(apart.mean()) < 0.15
        assert len(np.unique(sample.mask)) > 10


def test_the_eight_ways_to_lay_a_tile_all_occur_and_none_else() -> None:
    source = item(5, 5)
    ways = {np.rot90(flipped, turns).tobytes() for flipped in (source, source[::-1]) for turns in range(4)}
    changing = augmentation(flip=True, turn=True)
    seen = {pixels(changing.apply(source, changing.draw(epoch, 0))).tobytes() for epoch in range(100)}
    assert seen == ways


def test_a_turned_image_lies_on_a_turned_canvas() -> None:
    sample = augmentation(turn=True).apply(item(20, 30), drawn(quarter_turns=1))
    assert (sample.height, sample.width) == sample.mask.shape == (30, 20)


@pytest.mark.parametrize("draw", [drawn(mirrored=True), drawn(quarter_turns=3), drawn(row=0.5, column=0.9)])
def test_what_is_not_zoomed_is_a_view_of_the_cache_and_never_written_to(draw: Draw) -> None:
    source = item(60, 70)
    before = source.copy()
    sample = augmentation(flip=True, turn=True, crop=40, **JITTER).apply(source, draw)
    assert np.shares_memory(sample.image, source)
    assert np.shares_memory(sample.mask, source)
    np.testing.assert_array_equal(source, before)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 90), st.integers(1, 90), st.floats(0.1, 10), st.sampled_from([0, 32, 64]), st.integers(0, 1000)
)  # fmt: skip
def test_no_mask_value_appears_that_was_not_there_but_255(
    height: int, width: int, zoom: float, crop: int, epoch: int
) -> None:
    source = item(height, width)
    source[..., 3] = np.array([0, 7, 254])[source[..., 3] % 3]
    changing = augmentation(flip=True, turn=True, scale=(zoom, zoom), crop=crop)
    batch = load_batch(cache_of(source), [0], changing, epoch=epoch)
    assert set(np.unique(batch.masks.numpy())) <= {0, 7, 254, 255}
    assert tuple(batch.masks.shape[1:]) in changing.sizes(height, width)
    sample = changing.apply(source, changing.draw(epoch, 0))
    assert (batch.masks == 255).sum() == batch.masks.numel() - sample.mask.size


def test_zooming_in_shows_a_part_and_zooming_out_pads_with_black_that_is_ignored() -> None:
    source = np.full((40, 60, 4), 200, dtype=np.uint8)
    source[..., 3] = 1
    nearer = augmentation(scale=(0.5, 2.0)).apply(source, drawn(zoom=2.0))
    assert nearer.mask.shape == (40, 60)
    assert not nearer.padded
    further = load_batch(cache_of(source), [0], augmentation(scale=(0.5, 0.5)), epoch=1)
    seen = further.masks[0] == 1
    assert seen.sum() == 20 * 30
    assert (further.masks[0][~seen] == 255).all()
    assert (further.images[0][:, seen] == 200).all()
    assert (further.images[0][:, ~seen] == 0).all()


@pytest.mark.parametrize(("zoom", "side"), [(2.0, 20), (0.5, 5), (1.3, 13)])
def test_a_zoom_changes_lengths_by_its_factor(zoom: float, side: int) -> None:
    source = np.zeros((100, 100, 4), dtype=np.uint8)
    source[20:30, 20:30] = 255
    source[..., 3] //= 255
    sample = augmentation(scale=(0.5, 2.0), crop=100).apply(source, drawn(zoom=zoom))
    assert sample.mask.sum() == side * side
    assert sample.image[..., 0].astype(float).sum() / 255 == pytest.approx(side * side, rel=0.05)


def test_a_crop_lies_anywhere_from_edge_to_edge_and_shows_untouched_pixels() -> None:
    source = ramp(50, 70, 0)
    changing = augmentation(crop=48)
    corners = set()
    for epoch in range(300):
        sample = changing.apply(source, changing.draw(epoch, 0))
        top, left = (int(value) for value in sample.image[0, 0, :2])
        np.testing.assert_array_equal(pixels(sample), source[top : top + 48, left : left + 48])
        corners.add((top, left))
    assert {top for top, _ in corners} == set(range(3))
    assert {left for _, left in corners} == set(range(23))


def test_padding_lies_on_any_side() -> None:
    changing = augmentation(crop=48)
    tops = {changing.apply(item(45, 48), changing.draw(epoch, 0)).top for epoch in range(100)}
    assert tops == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        ({"flip": True}, {(20, 30)}),
        ({"scale": (0.5, 2.0)}, {(20, 30)}),
        ({"turn": True}, {(20, 30), (30, 20)}),
        ({"turn": True, "crop": 32, "scale": (0.5, 2.0)}, {(32, 32)}),
    ],
)
def test_the_sizes_that_can_come_out_are_known_beforehand(
    settings: dict[str, object], sizes: set[tuple[int, int]]
) -> None:
    changing = augmentation(**settings)
    assert changing.sizes(20, 30) == sizes
    found = [changing.apply(item(20, 30), changing.draw(epoch, 0)) for epoch in range(30)]
    assert {(sample.height, sample.width) for sample in found} == sizes


def test_a_batch_scaled_by_threads_is_the_one_scaled_image_by_image() -> None:
    items = [item(40, 50, seed) for seed in range(6)]
    together = augmentation(**GEOMETRY, **JITTER).samples(items, [5, 1, 2, 4, 0, 3], epoch=4)
    alone = augmentation(**GEOMETRY, **JITTER)
    for source, index, sample in zip(items, [5, 1, 2, 4, 0, 3], together, strict=True):
        (expected,) = alone.samples([source], [index], epoch=4)
        np.testing.assert_array_equal(pixels(sample), pixels(expected))
        np.testing.assert_array_equal(sample.colour, expected.colour)


def on_device(source: np.ndarray, draw: Draw, **settings: float) -> np.ndarray:
    """float (H, W, 3): what training sees of one item under `draw`."""

    class Fixed(Augmentation):
        def draw(self, epoch: int, index: int) -> Draw:
            return draw

    changing = Fixed(AugmentConfig.model_validate(settings), seed=0)
    images, _ = to_device(load_batch(cache_of(source), [0], changing, epoch=1), "cpu")
    assert images.is_contiguous(memory_format=torch.channels_last)
    return images[0].permute(1, 2, 0).double().numpy()


def test_brightness_multiplies_and_is_kept_within_one() -> None:
    source = item(9, 8)
    bright = on_device(source, drawn(brightness=1.5), brightness=0.5)
    np.testing.assert_allclose(bright, (source[..., :3] / 255 * 1.5).clip(0, 1), atol=1e-6)
    assert bright.max() == 1


def test_contrast_works_around_the_mean_grey_of_what_is_seen() -> None:
    source = item(9, 8)
    whole = source[..., :3] / 255
    strong = on_device(source, drawn(contrast=0.3), contrast=0.7)
    mean = (whole @ GREY).mean()
    np.testing.assert_allclose(strong, mean + 0.3 * (whole - mean), atol=1e-6)


def test_brightness_and_contrast_together_keep_the_mean_of_the_bright_image() -> None:
    source = item(9, 8) // 2
    mixed = on_device(source, drawn(brightness=1.2, contrast=0.5), brightness=0.5, contrast=0.5)
    bright = source[..., :3] / 255 * 1.2
    np.testing.assert_allclose(mixed, 0.5 * bright + 0.5 * (bright @ GREY).mean(), atol=1e-6)


def test_without_saturation_every_pixel_is_its_own_grey() -> None:
    source = item(9, 8)
    grey = on_device(source, drawn(saturation=0.0), saturation=1.0)
    np.testing.assert_allclose(grey, np.repeat((source[..., :3] / 255 @ GREY)[..., None], 3, axis=2), atol=1e-6)


def test_a_turn_of_hue_keeps_brightness_and_grey_and_a_third_of_it_takes_red_towards_green_or_blue() -> None:
    source = (item(9, 8) // 8 + 110).astype(np.uint8)  # muted colours, which no turn takes out of [0, 1]
    turned = on_device(source, drawn(hue=0.25), hue=0.5)
    np.testing.assert_allclose(turned @ GREY, source[..., :3] / 255 @ GREY, atol=1e-5)
    assert np.abs(turned - source[..., :3] / 255).max() > 0.02
    grey = np.full((4, 4, 4), 77, dtype=np.uint8)
    np.testing.assert_allclose(on_device(grey, drawn(hue=0.4), hue=0.5), 77 / 255, atol=1e-5)
    red = np.zeros((1, 1, 4), dtype=np.uint8)
    red[..., 0] = 120
    assert {int(on_device(red, drawn(hue=turns), hue=0.5)[0, 0].argmax()) for turns in (0.33, -0.33)} == {1, 2}


def test_colours_out_of_a_full_turn_are_those_that_went_in() -> None:
    source = item(9, 8)
    np.testing.assert_allclose(on_device(source, drawn(hue=1.0), hue=0.5), source[..., :3] / 255, atol=1e-5)


def test_each_image_of_a_batch_has_its_own_colours() -> None:
    source = np.full((6, 6, 4), 100, dtype=np.uint8)
    images, _ = to_device(load_batch(cache_of(source, source), [0, 1], augmentation(**JITTER), epoch=1), "cpu")
    assert not torch.allclose(images[0], images[1])


def test_padding_stays_black_whatever_becomes_of_the_colours() -> None:
    small, large = np.full((20, 30, 4), 90, dtype=np.uint8), np.full((40, 40, 4), 30, dtype=np.uint8)
    changing = augmentation(contrast=1.0, hue=0.5, scale=(0.5, 0.5))
    for epoch in range(1, 9):
        images, masks = to_device(load_batch(cache_of(small, large), [0, 1], changing, epoch=epoch), "cpu")
        padding = (masks == 255).unsqueeze(1).expand_as(images)
        assert padding.any()
        assert not images[padding].any()
        assert images[~padding].all()


def test_no_change_of_colour_asks_a_device_for_a_value() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    batch = load_batch(cache_of(item(8, 9), item(9, 8)), [0, 1], augmentation(**JITTER), epoch=1)
    assert batch.colour is not None
    assert batch.padding is not None
    with FakeTensorMode() as mode:
        fake = type(batch)(
            images=mode.from_tensor(batch.images),
            masks=mode.from_tensor(batch.masks),
            names=batch.names,
            colour=mode.from_tensor(batch.colour),
            padding=mode.from_tensor(batch.padding),
        )
        images, _ = to_device(fake, "cpu")  # a value or a shape that depends on one would raise
    assert images.shape == (2, 3, 9, 9)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"scale": (1.5, 0.5)}, "the smaller one comes first"),
        ({"scale": (0.0, 1.0)}, "greater than or equal to 0.1"),
        ({"crop": 16}, "32 is the least"),
        ({"crop": -1}, "greater than or equal to 0"),
        ({"hue": 0.7}, "less than or equal to 0.5"),
        ({"brightness": 1.2}, "less than or equal to 1"),
        ({"rotate": True}, "rotate"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_words(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        AugmentConfig.model_validate(settings)


def test_what_is_on_can_be_said_in_one_line() -> None:
    assert describe(AugmentConfig()) == "none"
    said = describe(AugmentConfig.model_validate({**GEOMETRY, "hue": 0.1}))
    assert said == "flips, quarter turns, scale 0.4 to 2.5, crop 48 x 48, hue +-0.1"


def test_every_setting_that_is_on_is_said() -> None:
    for name, value in {**GEOMETRY, **JITTER}.items():
        assert describe(AugmentConfig.model_validate({name: value})) != "none"


def test_nothing_that_scores_a_checkpoint_knows_of_augmentation() -> None:
    import segwatch.evaluator

    (room,) = segwatch.evaluator.__path__
    modules = list(Path(room).glob("*.py"))
    assert len(modules) > 5
    assert [path.name for path in modules if "ugment" in path.read_text()] == []


def test_without_augmentation_a_batch_carries_nothing_more() -> None:
    plain = load_batch(cache_of(item(4, 5), item(5, 4)), [0, 1])
    assert plain.colour is None
    assert plain.padding is None
