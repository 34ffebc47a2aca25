"""Whether what a network holds is still finite, as a flag that stays on the device. Knows nothing about losses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..checkpoints.files import largest_magnitudes

WHOLE_EVERY_STEPS = 20
"""How often all parameters are looked at between commits. A parameter that is not finite shows in the next loss too."""


class WatchedState:
    """Parameters and BatchNorm buffers of `model`, all on one device.

    The buffers are looked at after every step: training never uses them, so nothing else tells that they are poisoned.
    They are so few numbers that this costs no more than starting four kernels.
    """

    def __init__(self, model: nn.Module) -> None:
        self._all = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
        self._buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]

    def finite(self, step: int) -> Tensor:
        """float32 (1,): 1 where all that is looked at after `step` is finite. The host does not wait for it."""
        if step % WHOLE_EVERY_STEPS == 0:
            finite = torch.stack(largest_magnitudes(self._all)).isfinite().all()
        else:
            finite = torch.cat(self._buffers).isfinite().all()
        return finite.float().view(1)
