"""A short soak in every check; the long one is `make soak`."""

from __future__ import annotations

import pytest

from .matrix import fault
from .soak import soak

pytestmark = pytest.mark.alone

FAULTS = 20


@fault(
    "soak-short",
    area="Beyond single faults",
    fault="fault after fault on one run, some in mid-recovery",
    promise="P1 P2 P3 P4 P5 P6 P7",
    provoked="a seeded list of worker, evaluator, daemon and file faults on the real daemon",
)
def test_after_fault_upon_fault_every_epoch_is_scored_once_and_nothing_leaks(tmp_path, provoked):
    account = soak(tmp_path, faults=FAULTS, seed=7)
    account.check()
    provoked(FAULTS)
