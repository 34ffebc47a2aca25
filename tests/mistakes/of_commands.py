"""Mistakes on the command line, and with run directories: each names what was typed, and what may be typed instead."""

from __future__ import annotations

import json
import sqlite3
import tomllib
from pathlib import Path

import tomli_w
from filelock import FileLock
from segwatch.daemon.config import load_config
from segwatch.daemon.freezing import create
from segwatch.daemon.rundir import RunDir
from segwatch.daemon.store import Store
from segwatch.data.resolved import ResolvedClass, ResolvedData
from segwatch.trainer.contract import Cause

from ..daemon.conftest import Story
from .table import CLOSING, DISK, FAILED, HELD, USAGE, Make, Mistake, both, of_somebody_else, wrong


def begun(story: Story, name: str = "aerial") -> Make:
    def make(place: Path) -> None:
        run = RunDir(place / "runs" / name)
        classes = tuple(ResolvedClass(id=i, name=n, colour=(0, 0, 0), pixels={"train": 9}) for i, n in enumerate("ab"))
        data = ResolvedData(root=place, scale=0.5, classes=classes, splits={"train": (), "val": (), "test": ()})
        run.path.parent.mkdir(exist_ok=True)
        run.path.mkdir(mode=0o700)
        create(run, place / "run.toml", load_config(place / "run.toml"), data)
        store = Store(run.path)
        for _, event in story.told:
            store.append(event)
        store.close()

    return make


def scored() -> Story:
    story = Story()
    story.begins(epochs=3, names=("a", "b"))
    story.trains(1, 0.5)
    return story


def troubled() -> Story:
    story = scored()
    story.suffers(Cause.NAN_LOSS)
    return story


def only_begun() -> Story:
    story = Story()
    story.begins(epochs=3, names=("a", "b"))
    return story


def stepped() -> Story:
    story = scored()
    story.ends("stopped")
    return story


def held(place: Path) -> None:
    """As by a daemon that watches it."""
    lock = FileLock(place / "runs/aerial/daemon.lock", timeout=0)
    lock.acquire()
    CLOSING.append(lock.release)


RUN = begun(scored())
NEWER = {"seq": 99, "time": 1.0, "kind": "teleported", "where": "mars"}


def newer_fact(place: Path) -> None:
    with (place / "runs/aerial/events.jsonl").open("a") as file:
        file.write(json.dumps(NEWER) + "\n")


def newer_setting(place: Path) -> None:
    lock = place / "runs/aerial/run.lock.toml"
    document = tomllib.loads(lock.read_text())
    document["config"]["trainer"]["warp"] = 9
    lock.write_text(tomli_w.dumps(document))


def newer_state(place: Path) -> None:
    database = sqlite3.connect(place / "runs/aerial/state.db")
    database.execute("pragma user_version = 99")
    database.close()


def open_to_all(place: Path) -> None:
    (place / "runs" / "run").mkdir(parents=True)
    (place / "runs" / "run").chmod(0o777)


def file_called(name: str) -> Make:
    return lambda place: (place / name).write_text("a file") and None


def usage(name: str, command: str, *says: str, make: Make = RUN) -> Mistake:
    return Mistake(name, command, says, make, code=USAGE)


MISTAKES = (
    # --- commands and options
    usage("no such command", "walk", "No such command 'walk'"),
    usage("a command with a typo", "stats", "Did you mean 'status'?"),
    usage("another command with a typo", "evalute", "evaluate"),
    usage("an option with a typo", "status --jsn", "--json"),
    usage("run of two", "run run.toml other.toml", "other.toml"),
    usage("a drill without a step", "run run.toml --drill nan-loss", "nan-loss@", "--drill"),
    usage("a drill with a typo", "run run.toml --drill nan-los@5", "did you mean 'nan-loss@5'?"),
    usage("a drill at step 0", "run run.toml --drill kill@0", "--drill"),
    usage("a name that is a path", "run run.toml --name a/b", "--name", "--runs-dir"),
    usage("a port out of range", "run run.toml --tensorboard-port 99999", "--tensorboard-port", "65535"),
    usage("a log format", "run run.toml --log-format yaml", "--log-format", "'text', 'json'"),
    usage("a moment that is none", "alerts --since yesterday", "--since", "'yesterday' is no moment", "2h"),
    usage("a severity", "alerts --severity warn", "--severity", "did you mean 'warning'?"),
    usage("a span that is none", "silence aerial nan-loss --for ever", "--for", "'ever' is no span of time", "8h"),
    usage("a silence of a hundred years", "silence aerial nan-loss --for 5500w", "at most a year"),
    usage("a code with a typo", "silence aerial nan-los --for 8h", "did you mean 'nan-loss'?"),
    usage("an alert that does not fire", "ack aerial disk-low", "'disk-low'", "firing here: nothing"),
    usage("an incident that is not a number", "why aerial two", "'N'", "integer"),
    # --- which run
    usage("no run at all", "status", "no run in runs", "segwatch run run.toml", make=lambda place: None),
    usage("no such run", "status areal", "no run", "did you mean 'aerial'?"),
    usage("a directory that is no run", "status images", "images", "is no run directory", "runs here: aerial"),
    usage("run.toml for a run", "status run.toml", "run.toml", "this is a file", "runs here: aerial"),
    usage("no such --runs-dir", "status --runs-dir rnus", "rnus", "did you mean 'runs'?"),
    usage("best of no such run", "best other", "runs here: aerial"),
    usage("a report without a run", "report", "no run in runs", make=lambda place: None),
    usage("a name that no file can have", f"status {'x' * 300}", "no run at xxx", "runs here: aerial"),
    usage(
        "a run of somebody else",
        "status aerial",
        "runs/aerial: cannot be looked at: Permission denied",
        "ask who owns it",
        make=both(RUN, of_somebody_else("runs/aerial")),
    ),
    usage(
        "runs of somebody else",
        "list",
        "runs: cannot be looked at: Permission denied",
        make=both(RUN, of_somebody_else("runs")),
    ),
    usage(
        "a run among those of somebody else",
        "run run.toml",
        "runs/run: cannot be looked at",
        make=both(RUN, of_somebody_else("runs")),
    ),
    usage(
        "only runs of somebody else",
        "status",
        "no run in runs",
        make=both(RUN, of_somebody_else("runs/aerial")),
    ),
    usage("stopping nothing", "stop nobody", "runs here: aerial"),
    usage("comparing one run", "compare aerial", "'B'"),
    Mistake(
        "comparing a run with itself",
        "compare aerial runs/aerial",
        ("both are the same run", "segwatch list"),
        RUN,
        code=USAGE,
    ),
    usage("no such incident", "why aerial 7", "no incident 7", "incidents here: 1", make=begun(troubled())),
    usage("replay of no incident", "replay aerial 1", "no incident 1", "incidents here: none"),
    usage(
        "replay without a batch", "replay aerial 1", "incident 1 left no batch", "incidents/001", make=begun(troubled())
    ),
    # --- networks
    usage("predict without images", "predict", "IMAGE"),
    usage("predict of no file", "predict nowhere.png", "not there: nowhere.png", "name images"),
    Mistake("predict of a directory without images", "predict runs", ("runs: no images there", ".png"), RUN),
    usage("predict into a file", "predict images --output run.toml", "run.toml", "is a file", "--output"),
    usage(
        "predict over results",
        "predict images --output out",
        "out/one_ids.png",
        "--overwrite",
        make=both(RUN, lambda place: (place / "out").mkdir(), file_called("out/one_ids.png")),
    ),
    usage(
        "predict by two wishes",
        "predict images --by val --epoch 1",
        "--by and --epoch name different checkpoints",
        "leave all but one",
    ),
    usage(
        "predict with no such epoch", "predict images --epoch 9", "this run has no epoch 9", "committed so far: epoch 1"
    ),
    usage(
        "predict before the first epoch",
        "predict images",
        "no epoch of this run has a score on test yet",
        make=begun(only_begun()),
    ),
    usage(
        "predict with no such checkpoint", "predict images --checkpoint none.pth", "none.pth", "is not there", "--epoch"
    ),
    usage("predict on a device that there is none of", "predict images --device gpu", "--device", "cuda"),
    usage("an overlap of everything", "predict images --overlap 1.5", "--overlap", "0.9"),
    usage("export in an unknown format", "export --format tflite", "--format", "'safetensors', 'onnx'"),
    usage("export to an unknown ending", "export --output net.tflite", "net.tflite", "safetensors, onnx", "--format"),
    usage(
        "export over a file",
        "export --output net.onnx",
        "net.onnx",
        "is there already",
        "--overwrite",
        make=both(RUN, file_called("net.onnx")),
    ),
    usage(
        "export to no directory", "export --output nowhere/net.onnx", "its directory is not there", "nowhere/net.onnx"
    ),
    # --- scoring
    usage("checkpoints without their data", "evaluate --checkpoints images", "--config", "go together"),
    Mistake(
        "a directory without checkpoints",
        "evaluate --config run.toml --checkpoints images",
        ("images: no checkpoint_epochN.pth in it", "sub-directories are not searched"),
        code=FAILED,
    ),
    usage("no directory of checkpoints", "evaluate --config run.toml --checkpoints none", "none", "No such file"),
    usage("scores of a run elsewhere", "evaluate aerial --output out", "--output", "its own directory"),
    # --- services
    Mistake("a service of no file", "systemd none.toml", ("none.toml",)),
    usage("a service with a name of two lines", "systemd run.toml --name 'a\nb'", "control character", "rename"),
    Mistake("a test of nobody", "notify test", ("alerts.notify is empty", "run.toml")),
    # --- run directories
    Mistake("a run that others may write to", "run run.toml", ("mode 0777", "runs/run", "chmod go-w"), open_to_all),
    Mistake(
        "runs where no directory can be made",
        "run run.toml --runs-dir /proc/runs",
        ("/proc/runs", "--runs-dir"),
        code=DISK,
    ),
    Mistake(
        "a run that another daemon watches",
        "run run.toml --name aerial",
        ("runs/aerial", "already watches this run", "segwatch status"),
        both(RUN, held),
        code=HELD,
    ),
    Mistake(
        "gaps that a daemon fills already",
        "evaluate aerial",
        ("every epoch is scored as soon as it is there", "segwatch stop"),
        both(RUN, held),
        code=HELD,
    ),
    Mistake(
        "another learning rate for a run that trained",
        "run run.toml --name aerial",
        ("this run began with other settings", "line 4, data.scale: 0.5 -> 0.25", "--name"),
        both(begun(stepped()), wrong("scale = 0.5", "scale = 0.25")),
    ),
    Mistake("runs in a file", "run run.toml --runs-dir run.toml", ("run.toml", "--runs-dir"), code=DISK),
    Mistake(
        "a run by a newer release, its settings",
        "predict images",
        ("run.lock.toml", "trainer.warp", "newer"),
        both(RUN, newer_setting),
    ),
    Mistake(
        "a run by a newer release, its facts",
        "best",
        ("events.jsonl", "teleported", "newer"),
        both(RUN, newer_fact),
        code=FAILED,
    ),
    Mistake(
        "a run by a newer release, its state",
        "run run.toml --name aerial",
        ("state.db", "version 99", "the release"),
        both(RUN, newer_state),
        code=FAILED,
    ),
)
