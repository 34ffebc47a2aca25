"""From the cache to the device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from segwatch.data.batches import epoch_order, load_batch, to_device
from segwatch.data.cache import PixelCache, _Entry
from segwatch.data.resolved import Pair


def cache_of(*items: np.ndarray) -> PixelCache:
    entries, offset = [], 0
    for item in items:
        entries.append(_Entry(key=str(offset), offset=offset, height=item.shape[0], width=item.shape[1]))
        offset += item.size
    pixels = np.concatenate([item.ravel() for item in items])
    pixels.flags.writeable = False
    pairs = tuple(Pair(image=f"images/{i}.jpg", mask=f"masks/{i}.png") for i in range(len(items)))
    return PixelCache(pairs, pixels, tuple(entries))


def item(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)


@given(st.integers(0, 200), st.integers(0, 2**40), st.integers(0, 1000))
def test_an_order_visits_each_image_once_and_depends_on_seed_and_epoch_alone(count: int, seed: int, epoch: int) -> None:
    order = epoch_order(count, seed=seed, epoch=epoch)
    assert sorted(order) == list(range(count))
    assert order == epoch_order(count, seed=seed, epoch=epoch)


def test_the_order_is_another_one_in_the_next_epoch_and_never_changes_with_a_release() -> None:
    assert epoch_order(5, seed=0, epoch=1) == [3, 0, 4, 1, 2]
    assert epoch_order(100, seed=0, epoch=1) != epoch_order(100, seed=0, epoch=2)
    assert epoch_order(100, seed=0, epoch=1) != epoch_order(100, seed=1, epoch=1)


def test_a_batch_holds_the_pixels_of_its_items_in_the_order_asked_for() -> None:
    items = [item(6, 5, seed) for seed in range(3)]
    batch = load_batch(cache_of(*items), [2, 0])
    assert batch.names == ("images/2.jpg", "images/0.jpg")
    assert batch.images.shape == (2, 3, 6, 5)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    for row, source in enumerate((items[2], items[0])):
        np.testing.assert_array_equal(batch.images[row].permute(1, 2, 0).numpy(), source[..., :3])
        np.testing.assert_array_equal(batch.masks[row].numpy(), source[..., 3])


def test_a_batch_is_a_copy_that_may_be_written_to() -> None:
    cache = cache_of(item(4, 4))
    before = cache.item(0).copy()
    load_batch(cache, [0]).images.zero_()
    np.testing.assert_array_equal(cache.item(0), before)


def test_smaller_images_are_padded_with_black_that_is_ignored() -> None:
    small, large = item(3, 7, 1), item(5, 4, 2)
    batch = load_batch(cache_of(small, large), [0, 1])
    assert batch.images.shape == (2, 3, 5, 7)
    np.testing.assert_array_equal(batch.masks[0, :3, :7].numpy(), small[..., 3])
    assert (batch.masks[0, 3:] == 255).all()
    assert (batch.images[0, :, 3:] == 0).all()
    assert (batch.masks[1, :, 4:] == 255).all()
    assert (batch.images[1, :, :, 4:] == 0).all()


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        load_batch(cache_of(item(2, 2)), [])


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
)
def test_on_the_device_images_are_floats_up_to_one_and_masks_are_indices(device: str) -> None:
    source = item(3, 4)
    source[0, 0] = (0, 255, 51, 255)
    images, masks = to_device(load_batch(cache_of(source), [0]), device)
    assert images.device.type == masks.device.type == device
    assert (images.dtype, masks.dtype) == (torch.float32, torch.int64)
    assert images.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(images[0, :, 0, 0].cpu(), torch.tensor([0.0, 1.0, 0.2]))
    assert int(masks[0, 0, 0]) == 255
    np.testing.assert_array_equal(masks[0].cpu().numpy(), source[..., 3])


def test_a_dark_image_stays_dark() -> None:
    dark = np.ones((2, 2, 4), dtype=np.uint8)  # some loaders divide by 255 only where a value exceeds 1
    images, _ = to_device(load_batch(cache_of(dark), [0]), torch.device("cpu"))
    torch.testing.assert_close(images, torch.full((1, 3, 2, 2), 1 / 255))


def test_the_torch_free_part_of_the_room_imports_no_torch() -> None:
    import subprocess
    import sys

    modules = [
        "classes",
        "pairs",
        "rasters",
        "scan",
        "audit",
        "audit_view",
        "cache",
        "scenes",
        "resolved",
        "config",
        "augment",
    ]
    code = (
        "import sys; "
        + "; ".join(f"import segwatch.data.{name}" for name in modules)
        + "; sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)
