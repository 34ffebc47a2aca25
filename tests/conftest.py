"""Fixtures that every room shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:  # torch and its children read it when they are loaded
    # OpenMP threads that wait spin, and keep from the processor those of the other test processes that they wait for:
    # three trainings with two threads each on two cores take twice as long as with one thread each.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parent.parent

LONGEST = ("e2e", "fault")
"""Marks, the longest first."""

settings.register_profile("segwatch", deadline=None)  # two busy cores make any deadline a lottery
settings.load_profile("segwatch")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that no process is left with it when the others are done."""
    items.sort(
        key=lambda item: next((n for n, mark in enumerate(LONGEST) if item.get_closest_marker(mark)), len(LONGEST))
    )


@pytest.fixture(scope="session")
def shared() -> Path:
    """The real aerial tiles and the oracle figures, which are not part of the repository."""
    directory = Path(os.environ.get("SEGWATCH_SHARED", REPOSITORY.parent / "shared"))
    if not directory.is_dir():
        pytest.skip(f"no shared data at {directory}: set SEGWATCH_SHARED to run this test")
    return directory.resolve()
