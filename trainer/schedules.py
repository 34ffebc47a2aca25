"""PURE: how the learning rate falls over a run, as a share of its base. No torch: the daemon asks too."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["constant", "poly", "cosine"]


def rate_share(done: float, schedule: Schedule) -> float:
    """The share of the base rate when the share `done` of all steps is behind.

    poly is that of DeepLab (Chen et al., 2017, arXiv:1606.00915), cosine that of SGDR (arXiv:1608.03983).
    """
    match schedule:
        case "constant":
            return 1.0
        case "poly":
            return float((1.0 - done) ** 0.9)
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * done))
