"""A run on synthetic scenes for the benchmarks: pixels, frozen data, and specs. Knows nothing about what is timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tomli_w
from segwatch.data.resolved import Pair, ResolvedClass, ResolvedData
from segwatch.data.scenes import TABLE_COLOURS, write_scenes
from segwatch.trainer.config import LossConfig, ModelConfig
from segwatch.trainer.contract import AttemptSpec, attempt_dir

IDS = sorted(TABLE_COLOURS)
CLASSES = len(IDS)


def make_data(place: Path, *, size: tuple[int, int], train: int, test: int = 1, scale: float = 1.0) -> ResolvedData:
    """Scenes of (height, width) in `place`, without an audit; drawn again only where they are not there."""
    if not (place / "classes.toml").exists():
        write_scenes(place, counts={"train": train, "val": 1, "test": test}, size=size, seed=1)
    splits = {}
    for split in ("train", "val", "test"):
        names = sorted(path.stem for path in (place / "images" / split).iterdir())
        splits[split] = tuple(
            Pair(image=f"images/{split}/{name}.jpg", mask=f"masks/{split}/{name}.png") for name in names
        )
    classes = tuple(
        ResolvedClass(id=number, name=f"class {number}", colour=TABLE_COLOURS[number], pixels={"train": 1})
        for number in IDS
    )
    return ResolvedData(root=place, scale=scale, classes=classes, splits=splits)


def make_spec(run_dir: Path, data: ResolvedData, **values: Any) -> AttemptSpec:
    """An attempt in a new run directory, with its data frozen there."""
    spec = AttemptSpec.model_validate(
        {
            "run_dir": run_dir,
            "attempt": 1,
            "resume_from": None,
            "lr": 1e-3,
            "amp": "off",
            "batch_size": 4,
            "accumulate": 1,
            "optimizer": "adamw",
            "weight_decay": 1e-8,
            "momentum": 0.9,
            "clip_grad_norm": 1.0,
            "seed": 0,
            "epochs": 1,
            "recovery_seconds": 300.0,
            "model": ModelConfig(base_channels=16),
            "loss": LossConfig(),
            "cache_dir": run_dir.parent / "cache",
            "config_hash": "bench",
            **values,
        }
    )
    directory = attempt_dir(run_dir, spec.attempt)
    directory.mkdir(parents=True)
    (directory / "spec.json").write_text(spec.model_dump_json())
    (run_dir / "checkpoints").mkdir()
    (run_dir / "run.lock.toml").write_text(tomli_w.dumps({"resolved": data.model_dump(mode="json")}))
    return spec
