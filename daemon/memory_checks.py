"""Does it fit? What training and scoring take on this device, against what is free. PURE but for asking for RAM."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import psutil

from ..evaluator.config import USUAL_BATCH
from ..trainer.footprint import Network, Training, on_a_gpu, scoring_bytes
from .check import Check, fail, gigabytes, ok, warn
from .config import RunConfig
from .device_checks import Gpu
from .survey import Survey

NAME = "memory"
ON_THE_CPU_BYTES = 600_000_000
"""Of a process that has imported torch."""
TIGHT = 0.9
"""Share of the free memory from which on it is worth saying: the estimate is good to a fifth."""


@dataclass(frozen=True)
class Need:
    """Bytes, with all that a device adds."""

    training: int
    scoring: int
    """0 where the evaluator uses another device."""

    @property
    def total(self) -> int:
        return self.training + self.scoring


def need_of(config: RunConfig, found: Survey, *, gpu: bool) -> Need:
    """What a run with this configuration takes on its device."""
    training = training_of(config, found)
    network = training.network
    sides = (config.evaluator.window,) * 2 if config.evaluator.window else found.largest_alone(config.data.scale)
    at_once = config.evaluator.batch_size
    scoring = scoring_bytes(network, USUAL_BATCH if at_once == "auto" else at_once, *sides)  # more only where it fits
    if not gpu:
        return Need(ON_THE_CPU_BYTES + training.peak_bytes, ON_THE_CPU_BYTES + scoring)
    return Need(training.on_a_gpu_bytes, 0 if config.evaluator.device == "cpu" else on_a_gpu(scoring))


def training_of(config: RunConfig, found: Survey) -> Training:
    trainer, scale = config.trainer, config.data.scale
    crop = config.augment.crop
    if crop:
        height, width = crop, crop
    else:
        height, width = found.largest(scale) if trainer.batch_size > 1 else found.largest_alone(scale)
    return Training(
        Network.of(config.model, found.classes),
        trainer.batch_size,
        height,
        width,
        amp=trainer.amp,
        optimizer=trainer.optimizer,
        loss=config.loss,
        accumulates=trainer.accumulate > 1,
    )


def check_memory(config: RunConfig, found: Survey, gpu: Gpu | None) -> Check:
    """`gpu` is the one that trains; `None` for the CPU."""
    free = psutil.virtual_memory().available if gpu is None else gpu.free
    return judge(config, found, free, gpu=gpu is not None)


def judge(config: RunConfig, found: Survey, free: int | None, *, gpu: bool) -> Check:
    """PURE."""
    training, need = training_of(config, found), need_of(config, found, gpu=gpu)
    where = "on the GPU" if gpu else "of RAM"
    words = (
        f"about {gigabytes(need.training)} to train "
        f"(batch {training.batch_size} of {training.width}x{training.height}, AMP {config.trainer.amp.value})"
    )
    if need.scoring:
        words += f" + {gigabytes(need.scoring)} to score"
    if free is None:
        return warn(NAME, f"{words}; how much is free is not known", "see nvidia-smi")
    words += f"; {gigabytes(free)} free {where}"
    if need.total < TIGHT * free:
        return ok(NAME, words)
    fits = next(
        (said for said, changed in _smaller(config) if need_of(changed, found, gpu=gpu).total < TIGHT * free), None
    )
    remedy = f"this would fit: {fits}" if fits else "nothing smaller fits: free memory, or model.base_channels = 32"
    return (fail if need.training > free else warn)(NAME, words, remedy)


def _smaller(config: RunConfig) -> Iterator[tuple[str, RunConfig]]:
    """What takes less, the least painful first: in words, and as a configuration."""
    trainer, scale = config.trainer, config.data.scale
    now = config.model_copy(update={"evaluator": config.evaluator.model_copy(update={"batch_size": 1})})
    yield "evaluator.batch_size = 1 (the scores stay the same)", now
    batch, accumulate = trainer.batch_size, trainer.accumulate
    while batch > 1:
        batch, accumulate = batch // 2, accumulate * 2
        now = now.model_copy(
            update={"trainer": trainer.model_copy(update={"batch_size": batch, "accumulate": accumulate})}
        )
        yield f"evaluator.batch_size = 1, trainer.batch_size = {batch}, accumulate = {accumulate}", now
    said = f"evaluator.batch_size = 1, trainer.batch_size = {batch}"
    for part in (0.75, 0.5, 0.25):
        smaller = round(scale * part, 4)
        yield (
            f"{said}, data.scale = {smaller:g}",
            now.model_copy(update={"data": config.data.model_copy(update={"scale": smaller})}),
        )
