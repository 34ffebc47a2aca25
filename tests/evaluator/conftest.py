"""A run in small: eight images of three classes, and a way to commit networks to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from PIL import Image
from segwatch.checkpoints.files import Identity, commit
from segwatch.checkpoints.manifest import Architecture, Role
from segwatch.data.resolved import Pair, ResolvedClass, ResolvedData
from segwatch.evaluator.evaluate import Evaluator
from segwatch.evaluator.report import EvaluatorSpec, Request
from segwatch.trainer.unet import UNet

from .scored import MODES

CLASSES = ((0, "field", (120, 160, 60)), (4, "road", (90, 90, 95)), (7, "roof", (200, 60, 50)))
UNUSED_ID = 9
COUNTS = {"train": 1, "val": 3, "test": 5}


@dataclass(frozen=True)
class TinyRun:
    """A run directory with frozen data; `save` commits a network as an epoch."""

    directory: Path
    cache_dir: Path
    data: ResolvedData

    def spec(self, *, batch_size: int | None = 2, device: str = "cpu", **settings: Any) -> EvaluatorSpec:
        return EvaluatorSpec(
            run_dir=self.directory,
            cache_dir=self.cache_dir,
            device=device,
            batch_size=batch_size,
            threads=1,
            **settings,
        )

    def freeze(self, **changes: Any) -> TinyRun:
        """The same run whose frozen data differs in these fields."""
        data = self.data.model_copy(update=changes)
        lock = tomli_w.dumps({"resolved": data.model_dump(mode="json")})
        (self.directory / "run.lock.toml").write_text(lock)
        return replace(self, data=data)

    def save(
        self,
        network: UNet,
        *,
        epoch: int = 1,
        attempt: int = 1,
        classes: int = len(CLASSES),
        class_ids: tuple[int, ...] | None = None,
        base_channels: int = 2,
    ) -> Request:
        manifest = commit(
            self.directory / "checkpoints",
            Identity(
                attempt=attempt,
                class_ids=class_ids or self.data.class_ids,
                class_names=self.data.class_names,
                architecture=Architecture(base_channels=base_channels, classes=classes),
                config_hash="0",
            ),
            role=Role.EPOCH,
            epoch=epoch,
            step=10 * epoch,
            step_in_epoch=0,
            weights=network.state_dict(),
            state=None,
        )
        return Request(
            manifest=f"checkpoints/{manifest.stem}.json",
            attempt=attempt,
            epoch=epoch,
            sha256=manifest.weights.sha256,
            splits=("val", "test"),
        )


def network(seed: int = 0, *, classes: int = len(CLASSES), base_channels: int = 2) -> UNet:
    """A small untrained UNet whose output is centred, so that it predicts more than one class."""
    generator = torch.random.get_rng_state()
    torch.manual_seed(seed)
    net = UNet(classes=classes, base_channels=base_channels).eval()
    with torch.no_grad():
        net.outc.conv.bias.sub_(net(torch.rand(4, 3, 40, 40)).mean(dim=(0, 2, 3)))
    torch.random.set_rng_state(generator)
    return net


@pytest.fixture
def make_network() -> Callable[..., UNet]:
    return network


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> ResolvedData:
    """Two sizes of image in every split, an unused id in every mask, scale 1: the files are what is scored."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    splits: dict[str, tuple[Pair, ...]] = {}
    for split, count in COUNTS.items():
        pairs = []
        for index in range(count):
            height, width = ((32, 40), (37, 33))[index % 2]
            pair = Pair(image=f"{split}_{index}.image.png", mask=f"{split}_{index}.mask.png")
            ids = random.choice([0, 4, 7, UNUSED_ID], p=[0.6, 0.2, 0.15, 0.05], size=(height, width))
            ids = ids.repeat(4, axis=0)[:height].repeat(4, axis=1)[:, :width].astype(np.uint8)
            image = (ids[..., None] * [20, 9, 3] + random.integers(0, 60, (height, width, 3))).astype(np.uint8)
            Image.fromarray(image).save(root / pair.image)
            Image.fromarray(ids).save(root / pair.mask)
            pairs.append(pair)
        splits[split] = tuple(pairs)
    classes = tuple(ResolvedClass(id=id_, name=name, colour=colour, pixels={}) for id_, name, colour in CLASSES)
    return ResolvedData(root=root, scale=1.0, classes=classes, splits=splits, skipped={"test": 1})


@pytest.fixture(scope="session")
def tiny_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def tiny_run(tmp_path: Path, tiny_data: ResolvedData, tiny_cache: Path) -> TinyRun:
    return TinyRun(tmp_path, tiny_cache, tiny_data).freeze()


@pytest.fixture
def half_run(tiny_run: TinyRun) -> TinyRun:
    """Images and masks are scaled to half their size."""
    return tiny_run.freeze(scale=0.5)


@pytest.fixture
def evaluator(tiny_run: TinyRun) -> Evaluator:
    return Evaluator(tiny_run.spec())


@pytest.fixture(params=list(MODES.values()), ids=list(MODES))
def any_evaluator(request: pytest.FixtureRequest, half_run: TinyRun) -> Evaluator:
    """At both resolutions, whole and in windows."""
    return Evaluator(half_run.spec(**request.param))
