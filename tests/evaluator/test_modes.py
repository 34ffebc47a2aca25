"""The counts of single images, both resolutions, windows, and the policy that says so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from segwatch.data.resolved import Reading
from segwatch.evaluator import overlays, statistics
from segwatch.evaluator.evaluate import Evaluator
from segwatch.evaluator.judging import policy
from segwatch.evaluator.metrics import score
from segwatch.evaluator.windows import WHOLE
from segwatch.trainer.unet import UNet

from .scored import (
    MODES,
    MakeNetwork,
    full_labels,
    matrices,
    raising,
    reference,
    refusal,
    reports,
)

# --- single images


def test_the_report_names_the_counts_of_every_image_and_its_noise(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork
) -> None:
    net = make_network()
    report = reports(tiny_run, list(evaluator.evaluate(tiny_run.save(net, epoch=4))))["test"]
    assert report.per_image == "attempt001_epoch4_test.npz"
    images = statistics.read_per_image(tiny_run.directory / "evaluations" / report.per_image)
    assert images is not None
    expected = matrices(tiny_run, "test", net)
    assert images.names == tuple(f"test_{index}.image.png" for index in range(5))
    np.testing.assert_array_equal(images.intersection, [matrix.diagonal() for matrix in expected])
    np.testing.assert_array_equal(images.support, [matrix.sum(axis=1) for matrix in expected])
    np.testing.assert_array_equal(images.predicted, [matrix.sum(axis=0) for matrix in expected])
    assert report.miou_interval == statistics.miou_interval(images)
    assert report.scores is not None
    assert report.scores.miou is not None
    assert report.miou_interval is not None
    assert report.miou_interval.low < report.scores.miou < report.miou_interval.high
    assert report.worst_images == statistics.worst_images(images, 10)
    worst = sorted(score(matrix).miou or 0 for matrix in expected)
    assert [entry.miou for entry in report.worst_images] == pytest.approx(worst, abs=1e-12)
    assert report.per_image_foreground_dice == statistics.per_image_foreground_dice(images)


def test_the_counts_of_the_images_lie_there_before_the_report_that_names_them(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = tiny_run.save(make_network())
    with monkeypatch.context() as patched:
        patched.setattr(statistics, "write_per_image", raising(OSError("disk full")))
        assert "disk full" in refusal(list(evaluator.evaluate(request))).message
    assert list((tiny_run.directory / "evaluations").iterdir()) == []


# --- resolution and windows


def test_native_scores_are_those_of_whole_enlarged_logits_against_the_whole_mask(
    half_run: Any, make_network: MakeNetwork
) -> None:
    net = make_network()
    for batch_size in (1, 4):
        evaluator = Evaluator(half_run.spec(resolution="native", batch_size=batch_size))
        for split, report in reports(half_run, list(evaluator.evaluate(half_run.save(net)))).items():
            expected = reference(half_run, split, net, resolution="native")
            assert report.confusion == expected.tolist()
            full = sum(full_labels(half_run.data, pair.mask).size for pair in half_run.data.splits[split])
            assert report.counted_pixels + report.ignored_pixels == full
    assert reference(half_run, "test", net).sum() < expected.sum() / 3


def test_a_window_as_large_as_the_images_changes_nothing(half_run: Any, make_network: MakeNetwork) -> None:
    request = half_run.save(make_network())
    for resolution in ("scaled", "native"):
        found = [
            reports(half_run, list(Evaluator(half_run.spec(**settings)).evaluate(request)))["test"].confusion
            for settings in ({"resolution": resolution}, {"resolution": resolution, "window": 20, "overlap": 0.5})
        ]
        assert found[0] == found[1]


def test_small_windows_see_less_and_count_every_pixel_once(half_run: Any, make_network: MakeNetwork) -> None:
    request = half_run.save(make_network())
    whole, cut = (
        reports(half_run, list(Evaluator(half_run.spec(**MODES[mode])).evaluate(request)))["test"]
        for mode in ("scaled", "windows")
    )
    assert cut.confusion != whole.confusion
    assert cut.counted_pixels == whole.counted_pixels
    assert cut.ignored_pixels == whole.ignored_pixels


@pytest.mark.parametrize("mode", MODES)
def test_every_report_states_its_resolution_and_window(half_run: Any, make_network: MakeNetwork, mode: str) -> None:
    answers = list(Evaluator(half_run.spec(**MODES[mode])).evaluate(half_run.save(make_network())))
    report = reports(half_run, answers)["val"]
    native, windows = "native" in mode, "windows" in mode
    assert report.resolution == ("native" if native else "scaled")
    assert (report.window, report.overlap) == ((16, MODES[mode]["overlap"]) if windows else (0, 0))
    assert ("native: logits of images scaled to 0.5" in report.policy) is native
    assert ("scaled to 0.5, masks too" in report.policy) is not native
    assert ("larger images in windows of 16 x 16 px" in report.policy) is windows
    assert ("images whole" in report.policy) is not windows


def test_native_loading_tells_its_progress_over_images_and_masks(half_run: Any, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    spec = half_run.spec(resolution="native").model_copy(update={"cache_dir": tmp_path / "fresh"})
    Evaluator(spec, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 16) for done in range(1, 17)]


@pytest.mark.parametrize("mode", MODES)
def test_the_picture_shows_the_scaled_prediction_in_every_mode(
    half_run: Any, make_network: MakeNetwork, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    shown: list[overlays.Shown] = []
    titles: list[str] = []
    real = overlays.draw

    def draw(entries: Sequence[overlays.Shown], *rest: Any, title: str) -> Image.Image:
        shown.extend(entries)
        titles.append(title)
        return real(entries, *rest, title=title)

    monkeypatch.setattr(overlays, "draw", draw)
    net = make_network()
    list(Evaluator(half_run.spec(**MODES[mode])).evaluate(half_run.save(net)))
    assert len(shown) == 4 + 4, "the same images each time, and the worst ones"
    for entry in shown:
        assert entry.prediction.shape == entry.pixels.shape[:2]
        if "windows" not in mode:
            image = torch.from_numpy(entry.pixels[..., :3].copy()).permute(2, 0, 1)[None].float() / 255
            with torch.inference_mode():
                np.testing.assert_array_equal(entry.prediction, net(image).argmax(1)[0].numpy())
    assert titles[0] == "attempt 1, epoch 1, test" + (", native" if "native" in mode else "")
    assert len(titles) == 2


def test_out_of_memory_halves_the_windows_of_a_pass(
    half_run: Any, make_network: MakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault comes from inside a forward pass, in the middle of an image."""
    request = half_run.save(make_network())
    settings = {"resolution": "native", "window": 8, "overlap": 0.5}
    expected = reports(half_run, list(Evaluator(half_run.spec(batch_size=1, **settings)).evaluate(request)))
    real, passes = UNet.forward, []

    def forward(self: UNet, images: torch.Tensor) -> torch.Tensor:
        passes.append(len(images))
        if len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return real(self, images)

    monkeypatch.setattr(UNet, "forward", forward)
    found = reports(half_run, list(Evaluator(half_run.spec(batch_size=4, **settings)).evaluate(request)))
    assert passes[:3] == [4, 2, 1]
    assert set(passes[2:]) == {1}
    assert {split: report.confusion for split, report in found.items()} == {
        split: report.confusion for split, report in expected.items()
    }


# --- the policy, in words


def test_the_policy_names_merges_skipped_files_and_images_that_training_saw(
    tiny_run: Any, make_network: MakeNetwork
) -> None:
    roof = tiny_run.data.classes[2].model_copy(update={"ids": (7, 9)})
    run = tiny_run.freeze(classes=(*tiny_run.data.classes[:2], roof), skipped={"test": 2}, leaked={"val": 1, "test": 3})
    found = reports(run, list(Evaluator(run.spec()).evaluate(run.save(make_network()))))
    assert "roof joins the ids 7, 9" in found["test"].policy
    assert "2 unusable images skipped" in found["test"].policy
    assert "3 of 5 images are also in train" in found["test"].policy
    assert "1 of 3 images is also in train" in found["val"].policy
    assert "skipped" not in found["val"].policy
    assert found["test"].skipped_images == 2


def test_the_policy_speaks_of_colours_where_masks_are_read_by_colour(tiny_run: Any) -> None:
    data = tiny_run.data.model_copy(update={"reading": Reading.COLOURS})
    assert "unused and unknown colours ignored" in policy(None, data, "test", "scaled", WHOLE)
    assert "id 255 and unused ids ignored" in policy(None, tiny_run.data, "test", "scaled", WHOLE)
