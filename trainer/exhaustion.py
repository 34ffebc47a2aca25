"""Whether an exception says that memory ran out, of the host or of a device. No torch."""

from __future__ import annotations

import sys

OUT_OF_HOST_MEMORY = "DefaultCPUAllocator: can't allocate memory"
"""torch says it with a plain RuntimeError."""


def is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError) or OUT_OF_HOST_MEMORY in str(error):
        return True
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)
