"""What the tests of whole evaluations share: answers read back, and the same figures found another way."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from segwatch.data.cache import open_cache
from segwatch.data.resolved import ResolvedData
from segwatch.evaluator.metrics import confusion
from segwatch.evaluator.report import (
    Answer,
    Done,
    EvaluationReport,
    Refused,
    Scored,
)
from segwatch.trainer.unet import UNet

MakeNetwork = Callable[..., UNet]
CPU = torch.device("cpu")
MODES: dict[str, dict[str, Any]] = {
    "scaled": {},
    "native": {"resolution": "native"},
    "windows": {"window": 16, "overlap": 0.5},
    "native-windows": {"resolution": "native", "window": 16, "overlap": 0.25},
}
"""At both resolutions, whole and in windows: settings of an EvaluatorSpec."""


def reports(run: Any, answers: Sequence[Answer]) -> dict[str, EvaluationReport]:
    scored = [answer for answer in answers if isinstance(answer, Scored)]
    return {
        answer.split: EvaluationReport.model_validate_json((run.directory / answer.report).read_bytes())
        for answer in scored
    }


def refusal(answers: Sequence[Answer]) -> Refused:
    assert isinstance(answers[-1], Done)
    assert isinstance(answers[-2], Refused)
    return answers[-2]


def matrices(run: Any, split: str, net: UNet, *, resolution: str = "scaled", **_: Any) -> list[np.ndarray]:
    """The matrix of each image by numpy, whole and at once."""
    cache = open_cache(run.data, split, run.cache_dir)
    found = []
    with torch.inference_mode():
        for index in range(len(cache)):
            item = cache.item(index)
            truth = item[..., 3]
            logits = net(torch.from_numpy(item[..., :3].copy()).permute(2, 0, 1)[None].float() / 255)
            if resolution == "native":
                truth = full_labels(run.data, cache.pair(index).mask)
                logits = torch.nn.functional.interpolate(logits, truth.shape, mode="bilinear", align_corners=False)
            found.append(confusion(truth, logits.argmax(1)[0].numpy(), 3))
    return found


def full_labels(data: ResolvedData, mask: str) -> np.ndarray:
    """uint8 (H, W), straight from the file."""
    with Image.open(data.root / mask) as image:
        return data.lookup[np.asarray(image)]


def reference(run: Any, split: str, net: UNet, **mode: Any) -> np.ndarray:
    return sum(matrices(run, split, net, **mode), start=np.zeros((3, 3), dtype=np.int64))


class Constant(torch.nn.Module):
    """Predicts class 0 everywhere."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(images), 3, *images.shape[2:])
        logits[:, 0] = 1
        return logits


def exhausted(passes: Generator[int, None, Any]) -> Any:
    while True:
        try:
            next(passes)
        except StopIteration as stop:
            return stop.value


def raising(error: BaseException) -> Callable[..., Any]:
    def raise_it(*_: Any, **__: Any) -> Any:
        raise error

    return raise_it
