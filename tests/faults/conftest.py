"""What every row of the matrix shares: the daemon around its fakes, a count of provocations, a look at all the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..daemon.conftest import daemon  # noqa: F401 - a fixture
from .broken import broken  # noqa: F401 - a fixture
from .in_turns import Night
from .matrix import Row
from .promises import assert_nothing_else_broke

PROVOKED = pytest.StashKey[int]()


@pytest.fixture
def provoked(request: pytest.FixtureRequest) -> Callable[[], None]:
    """Called once for each fault that was made to happen: `docs/faults.md` says how often."""

    def count(times: int = 1) -> None:
        request.node.stash[PROVOKED] = request.node.stash.get(PROVOKED, 0) + times

    return count


@pytest.fixture
def night(tmp_path: Path) -> Iterator[Night]:
    """A run in one process, told step by step."""
    night = Night(tmp_path)
    yield night
    night.close()


@pytest.fixture
def nothing_else_broke() -> Callable[..., None]:
    """`nothing_else_broke(daemon)` once the run has ended; see `promises`."""
    return assert_nothing_else_broke


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """A row that provoked nothing has shown nothing. The count goes into the report (`pytest --junitxml`)."""
    yield
    marker = item.get_closest_marker("fault")
    if marker is None:
        return
    row, times = marker.kwargs["row"], item.stash.get(PROVOKED, 0)
    assert isinstance(row, Row)
    assert times > 0, f"{row.name} provoked no fault: call provoked() once for each"
    item.user_properties.append(("provoked", times))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before the test, so that a row that is skipped or fails is told with its name too."""
    marker = item.get_closest_marker("fault")
    if marker is not None:
        item.user_properties.append(("row", marker.kwargs["name"]))
