"""The `[evaluator]` table of run.toml. No torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..section import Section


class EvaluatorConfig(Section):
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda:\d+)$")] = "auto"
    """`auto` takes the first GPU where there is one. `cpu` leaves the GPU to training."""
    batch_size: Annotated[int, Field(ge=1)] = 4
    """Images of one size per forward pass; does not change any score."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of torch; 0 takes half the cores, so that training keeps the other half."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 1800.0
    """An evaluator that scores no image for so long is hung and started anew."""
