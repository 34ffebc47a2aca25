"""The drill `bad-file`: a mask that is wrong on the disk, for this run alone. Knows nothing about when it is made.

The pixel cache belongs to all runs of a directory, so the run first gets one of its own, which every process that
trains or repeats its steps reads from then on.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from ..data.cache import copy_entries, overwrite_entry
from ..data.resolved import ResolvedData
from ..durable import sync_directory
from .contract import AttemptSpec

SPOILT_CACHE = "drill-cache"
NO_CLASS = 200
"""More classes than this no table has; 255 would be ignored."""


def pixels_dir(spec: AttemptSpec) -> Path:
    """Where this run reads its training pixels."""
    own = spec.run_dir / SPOILT_CACHE
    return own if own.is_dir() else spec.cache_dir


def is_spoilt(spec: AttemptSpec) -> bool:
    """Whether a drill has put a bad mask where this run reads: it stands for one in the files."""
    return pixels_dir(spec) != spec.cache_dir


def spoil(spec: AttemptSpec, data: ResolvedData, index: int) -> None:
    """Give the middle of the mask of training image `index` a value that is no class. Raises OSError."""
    own = spec.run_dir / SPOILT_CACHE
    if not own.is_dir():
        copied = own.with_name(f".{SPOILT_CACHE}.tmp")
        shutil.rmtree(copied, ignore_errors=True)  # of a drill that was cut short
        copy_entries(data, spec.cache_dir, copied)
        copied.rename(own)
        sync_directory(spec.run_dir)

    def bad(item: np.ndarray) -> np.ndarray:
        height, width = item.shape[:2]
        changed = item.copy()
        changed[height // 4 : height - height // 4, width // 4 : width - width // 4, 3] = NO_CLASS
        return changed

    overwrite_entry(data, "train", own, index, bad)
