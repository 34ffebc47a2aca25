"""One checkpoint, verified against the frozen data of its run, as a network that is ready to be used.

Knows nothing about what it is used for.
"""

from __future__ import annotations

import torch
from torch import nn

from ..checkpoints.manifest import Architecture, poison_in_words
from ..data.resolved import ResolvedData
from ..errors import CorruptCheckpointError, SegwatchError
from .foreign import read_foreign
from .reading import NAMED, Checkpoint, RefusalError, blueprint, read_checkpoint, refuse_foreign
from .task import Source


def load(source: Source) -> tuple[ResolvedData, Checkpoint]:
    """The classes of the run and the weights, whose hash, classes and shapes are those that they should be.

    Raises SegwatchError for whatever is not the network that was asked for, and for weights that are not finite: argmax
    of NaN is class 0, which would look like a prediction.
    """
    data = ResolvedData.load(source.run_dir / source.data_lock)
    request = source.checkpoint
    try:
        if request.foreign:
            checkpoint = read_foreign(request, data)
        else:
            checkpoint = read_checkpoint(source.run_dir, request)
            refuse_foreign(checkpoint, data)
    except RefusalError as refusal:
        raise CorruptCheckpointError(
            f"this checkpoint cannot be used: {refusal}", where=source.run_dir, remedy="take another one with --epoch"
        ) from refusal
    if checkpoint.nonfinite:
        raise SegwatchError(
            f"its weights are broken, it holds {poison_in_words(checkpoint.nonfinite, NAMED)}",
            where=source.run_dir / request.manifest,
            remedy="take another one with --epoch",
        )
    return data, checkpoint


def architecture_of(checkpoint: Checkpoint) -> Architecture:
    return checkpoint.manifest.architecture


def network_of(checkpoint: Checkpoint, device: torch.device) -> nn.Module:
    """In eval mode on `device`, channels_last."""
    network = blueprint(architecture_of(checkpoint)).to_empty(device=device)
    network.load_state_dict(checkpoint.weights, strict=True)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub leaves it out
    return network.eval()
