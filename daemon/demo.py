"""`segwatch demo`: the main job on synthetic aerial scenes, small enough for two CPU cores, with a fault on purpose."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.console import Console

from ..data.scenes import write_scenes
from ..durable import write_text
from ..errors import UsageError
from ..trainer.contract import Drill, DrillKind
from .job import run_job
from .rundir import RunDir

MARK = "# segwatch demo"
COUNTS = {"train": 64, "val": 12, "test": 16}
SIZE = (192, 192)
DRILL = Drill(kind=DrillKind.NAN_LOSS, step=80)
RUN_TOML = f"""\
{MARK}: synthetic aerial scenes; 26 ids in the class table, of which several have no name and several never occur

[data]
classes = "classes.toml"
use = "named-and-present"
scale = 0.5
[data.train]
images = "images/train"
masks = "masks/train"
[data.val]
images = "images/val"
masks = "masks/val"
[data.test]
images = "images/test"
masks = "masks/test"

[model]
base_channels = 8                      # 64 is the published UNet

[trainer]
epochs = 12
batch_size = 2
lr = 2e-3
seed = 0
"""


def run_demo(directory: Path, console: Console) -> int:
    """Make the scenes, train, break, recover, score, report. Each call is a new run beside the earlier ones."""
    source = _prepare(directory)
    runs_dir = directory / "runs"
    name = _free_name(runs_dir)
    console.print(
        f"[bold]segwatch demo[/]: a small UNet learns synthetic aerial scenes in {directory}; at step {DRILL.step} its "
        "loss becomes NaN on purpose.\nWatch it be noticed, repeated to find out what it was, and trained to the end, "
        "each epoch scored on the test set as it appears.\n",
        soft_wrap=True,
        highlight=False,
    )
    code = run_job(source, name=name, runs_dir=runs_dir, drills=[DRILL], retry=False, console=console)
    if code == 0:
        run = shlex.quote(str(runs_dir / name))
        console.print(
            f"\nLook at it:   tensorboard --logdir {run}/tensorboard   (then open http://localhost:6006)\n"
            f"Read on:      segwatch status {run} · segwatch alerts {run} · segwatch best {run}\n"
            f"Your data:    segwatch init DIR   (writes a careful run.toml for it; {source} is tuned to these scenes)",
            soft_wrap=True,
            highlight=False,
        )
    return code


def _prepare(directory: Path) -> Path:
    source = directory / "run.toml"
    if source.exists():
        if not source.read_text().startswith(MARK):
            raise UsageError(
                "holds a run.toml that is not the demo's", where=directory, remedy="name another directory"
            )
        return source
    if directory.exists() and any(directory.iterdir()):
        raise UsageError("is not empty", where=directory, remedy="name a new directory: segwatch demo DIR")
    write_scenes(directory, counts=COUNTS, size=SIZE, seed=0)
    write_text(source, RUN_TOML)
    return source


def _free_name(runs_dir: Path) -> str:
    number = 1
    while RunDir(runs_dir / f"demo-{number}").exists:
        number += 1
    return f"demo-{number}"
