"""A run directory with a tiny synthetic data set, and the spec of an attempt in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from PIL import Image
from segwatch.data.resolved import Pair, ResolvedClass, ResolvedData
from segwatch.trainer.config import LossConfig, ModelConfig
from segwatch.trainer.contract import AttemptSpec, attempt_dir

IMAGES = 7
SIZES = [(48, 40), (32, 48)]
"""(height, width), by turns: a batch of both is padded."""


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """IMAGES images of two sizes, three classes that differ in brightness, and some pixels that are ignored."""
    root = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for number in range(IMAGES):
        height, width = SIZES[number % 2]
        mask = (np.arange(width)[None, :] * 3 // width + np.zeros((height, 1), int)).astype(np.uint8)
        noise = generator.integers(0, 60, (height, width, 3))
        image = (mask[..., None] * 80 + noise).clip(0, 255).astype(np.uint8)
        mask[:3] = 255
        Image.fromarray(image).save(root / f"image{number}.png")
        Image.fromarray(mask).save(root / f"mask{number}.png")
    return root


@pytest.fixture
def make_spec(tmp_path: Path, dataset: Path) -> Callable[..., AttemptSpec]:
    """make_spec(run="a", attempt=1, lr=...) writes spec.json below a run directory and returns the spec."""

    def make(*, run: str = "run", **values: object) -> AttemptSpec:
        run_dir = tmp_path / run
        spec = AttemptSpec.model_validate(
            {
                "run_dir": run_dir,
                "attempt": 1,
                "resume_from": None,
                "lr": 0.01,
                "amp": "off",
                "batch_size": 2,
                "accumulate": 1,
                "optimizer": "adamw",
                "weight_decay": 1e-8,
                "momentum": 0.9,
                "clip_grad_norm": 1.0,
                "seed": 3,
                "epochs": 2,
                "device": "cpu",
                "threads": 1,
                "recovery_seconds": 300.0,
                "model": ModelConfig(base_channels=2),
                "loss": LossConfig(),
                "cache_dir": tmp_path / "cache",
                "config_hash": "settings",
                **values,
            }
        )
        directory = attempt_dir(run_dir, spec.attempt)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "spec.json").write_text(spec.model_dump_json())
        (run_dir / "checkpoints").mkdir(exist_ok=True)
        _write_lock(run_dir / "run.lock.toml", dataset)
        return spec

    return make


def _write_lock(path: Path, dataset: Path) -> None:
    pairs = tuple(Pair(image=f"image{number}.png", mask=f"mask{number}.png") for number in range(IMAGES))
    classes = tuple(
        ResolvedClass(id=number, name=name, colour=(80 * number,) * 3, pixels={"train": 1})
        for number, name in enumerate(["dark", "grey", "bright"])
    )
    data = ResolvedData(
        root=dataset, scale=1.0, classes=classes, splits={"train": pairs, "val": pairs[:1], "test": pairs[:1]}
    )
    path.write_text(tomli_w.dumps({"resolved": data.model_dump(mode="json")}))
