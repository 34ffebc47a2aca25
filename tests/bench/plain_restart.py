"""A small plain training script, and how long it takes to step again under whoever restarts it once it was killed.

`python -m tests.bench.plain_restart PLACE BASE` is the script: the common way's step on a synthetic batch, with a
checkpoint by torch.save at every tenth, from which it resumes. It writes a line with the time for each step.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

SCRIPT = "tests.bench.plain_restart"
STEPPED = 12
"""Steps before it is killed: behind its first checkpoint."""
WAYS: Mapping[str, Sequence[str]] = {
    "bash loop, plain script": ("bash", "-c", 'while true; do "$0" -m "$@"; done', sys.executable),
    "torchrun": (
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=1", "--max-restarts=1000",
        "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "-m",
    ),
}  # fmt: skip


def killed_to_step(place: Path, way: str, base: int, until) -> float:
    """Seconds from the kill to the end of the first new step. `until` waits for what it is given, up to a deadline."""
    place.mkdir(parents=True)
    steps = place / "steps.txt"
    with (place / "output.txt").open("wb") as output:
        command = [*WAYS[way], SCRIPT, str(place), str(base)]
        keeper = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        until(lambda: len(_lines(steps)) >= STEPPED)
        known = _lines(steps)
        killed_at = time.time()
        psutil.Process(int(known[-1].split()[0])).kill()
        until(lambda: any(line.split()[0] != known[-1].split()[0] for line in _lines(steps)))
        return (
            next(float(line.split()[1]) for line in _lines(steps) if line.split()[0] != known[-1].split()[0])
            - killed_at
        )
    finally:
        os.killpg(keeper.pid, signal.SIGKILL)
        keeper.wait()
        for process in psutil.process_iter(["cmdline"]):  # torchrun puts its workers into sessions of their own
            if str(place) in (process.info["cmdline"] or []):
                process.kill()


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def train(place: Path, base: int) -> None:
    import torch

    from .common_way import Steps
    from .scenes import CLASSES

    torch.set_num_threads(1)
    steps, saved = Steps(classes=CLASSES, base_channels=base, device=torch.device("cpu")), place / "last.pth"
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        steps.model.load_state_dict(state["model"])
        steps.optimizer.load_state_dict(state["optimizer"])
    images, masks = torch.rand(4, 3, 192, 192), torch.randint(0, CLASSES, (4, 192, 192))
    with (place / "steps.txt").open("a", buffering=1) as told:
        number = 0
        while True:
            steps.step(images, masks)
            number += 1
            told.write(f"{os.getpid()} {time.time()}\n")
            if number % 10 == 0:
                half = saved.with_suffix(".half")
                torch.save({"model": steps.model.state_dict(), "optimizer": steps.optimizer.state_dict()}, half)
                half.replace(saved)


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]))
