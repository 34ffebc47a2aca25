"""The `[evaluator]` table of run.toml. No torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..section import Section

USUAL_BATCH = 4
"""Images at once where nothing is measured."""


class EvaluatorConfig(Section):
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda:\d+)$")] = "auto"
    """`auto` takes the first GPU where there is one. `cpu` leaves the GPU to training."""
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Images of one size per forward pass; does not change any score. `auto` measures a few sizes on the first
    checkpoint and keeps the fastest; reports say which."""
    release_gpu: bool = False
    """Give the GPU's memory back whenever there is nothing to score; what the driver itself holds stays. On the CPU
    there is nothing to give back."""
    resolution: Literal["scaled", "native"] = "scaled"
    """`scaled` compares with the mask reduced by `data.scale`; `native` enlarges the logits (bilinear) to the mask's
    own size. Two different figures: every report says which one it holds."""
    window: Annotated[int, Field(ge=0)] = 0
    """Side in pixels, after scaling, of the squares in which an image goes through the network; 0 takes it whole. For
    images larger than memory, and for networks trained on crops of this size."""
    overlap: Annotated[float, Field(ge=0, le=0.9)] = 0.25
    """Share of a window that its neighbour covers as well; there the logits are averaged."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of torch; 0 takes half the cores, so that training keeps the other half."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 1800.0
    """An evaluator that scores no image for so long is hung and started anew."""
