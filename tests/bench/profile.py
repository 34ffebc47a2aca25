"""Where the time of some work goes, by torch's own profiler, in one line. Knows nothing about goals or peers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

SHOWN = 4
"""Operators; the rest is summed up."""


def profiled(work: Callable[[], object]) -> str:
    """The operators in which the time of one more round is spent themselves, the largest first, in percent."""
    on_gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as found:
        work()
    spent = {
        event.key.removeprefix("aten::"): event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for event in found.key_averages()
    }
    total = sum(spent.values())
    largest = sorted(spent, key=lambda name: -spent[name])[:SHOWN]
    shares = [f"{name} {100 * spent[name] / total:.0f} %" for name in largest]
    rest = 100 * (total - sum(spent[name] for name in largest)) / total
    return f"profile: {', '.join(shares)}, all else {rest:.0f} %"
