"""Writes a run as it stands after thousands of epochs, and measures a daemon on it: `python -m tests.faults.long_run`.

The facts are written at once, as no daemon would: an fsync for each would take longer than the test may.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from segwatch.checkpoints.manifest import Manifest, Role, StoredFile
from segwatch.daemon import process, upkeep
from segwatch.daemon.events import (
    AttemptPlanned,
    AttemptSpawned,
    AttemptStarted,
    DaemonStarted,
    EpochCommitted,
    Event,
    Gain,
    IncidentOpened,
    RunCreated,
    ScoreRecorded,
)
from segwatch.daemon.glance import Glance
from segwatch.daemon.journal import tail
from segwatch.daemon.recording import DELIVERED
from segwatch.daemon.store import Store
from segwatch.durable import dumps
from segwatch.trainer.contract import JOURNAL, Cause, Progress, attempt_dir

from .in_process import SimDaemon, World

CLASSES = 12
WRITTEN = 40_000
"""Lines that really stand at the beginning and at the end of a long journal."""


def facts(epochs: int) -> list[Event]:
    """A run that learns less and less, with a skipped step now and then."""
    told: list[Event] = [
        RunCreated(config_hash="c", epochs=epochs + 100, class_names=tuple(f"class {n}" for n in range(CLASSES))),
        DaemonStarted(pid=1, create_time=0.0, host="nowhere"),
        AttemptPlanned(
            attempt=1,
            lr=1e-3,
            amp="off",
            batch_size=4,
            accumulate=1,
            resume_from=None,
            resume_epoch=0,
            resume_step=0,
            because="the run begins",
        ),
        AttemptSpawned(attempt=1, pid=1, create_time=0.0),
        AttemptStarted(attempt=1, lr=1e-3, amp="off", device="cpu", parameters=1000, steps_per_epoch=2),
    ]
    for epoch in range(1, epochs + 1):
        told += epoch_facts(epoch)
        if epoch % 20 == 0:
            told.append(
                IncidentOpened(
                    number=epoch // 20,
                    attempt=1,
                    cause=Cause.INF_GRADIENTS,
                    step=2 * epoch - 1,
                    epoch=epoch,
                    message="the gradients are Inf",
                    fatal=False,
                )
            )
    return told


def epoch_facts(epoch: int) -> list[Event]:
    sha256 = f"{epoch:064d}"
    committed = EpochCommitted(
        attempt=1,
        epoch=epoch,
        step=2 * epoch,
        manifest=f"checkpoints/checkpoint_epoch{epoch}.json",
        sha256=sha256,
        finite=True,
    )
    miou = 0.7 - 0.5 / epoch
    gain = Gain(against_attempt=1, against_epoch=1, difference=miou - 0.2, low=-0.1, high=0.6) if epoch > 1 else None
    scores = [
        ScoreRecorded(
            attempt=1,
            epoch=epoch,
            step=2 * epoch,
            split=split,
            verdict="ok",
            miou=miou,
            fwiou=miou,
            pixel_accuracy=miou,
            mean_accuracy=miou,
            mean_dice=miou,
            class_iou=(miou,) * CLASSES,
            gain=gain if split == "test" else None,
            images=3,
            seconds=0.5,
            checkpoint_sha256=sha256,
        )
        for split in ("val", "test")
    ]
    return [committed, *scores]


def grow(run_dir: Path, epochs: int) -> None:
    """A run whose daemon is gone and whose worker trains on, as after that many epochs: facts, rows and files."""
    store = Store(run_dir)
    known = {event.epoch for _, event in store.events() if isinstance(event, EpochCommitted)}
    missing = [number for number in range(1, epochs + 1) if number not in known]
    store.append_all([event for number in missing for event in epoch_facts(number)])
    store.note(DELIVERED, str(store.sequence))
    store.close()
    for number in missing:
        write_checkpoint(run_dir / "checkpoints", number)


def write_run(world: World, epochs: int) -> None:
    """Facts and files, as that many epochs leave them."""
    directory = world.run.checkpoints
    with (world.run.path / "events.jsonl").open("w") as log:
        for number, event in enumerate(facts(epochs), start=1):
            log.write(dumps({"seq": number, "time": float(number), **event.model_dump(mode="json")}) + "\n")
    attempt_dir(world.run.path, 1).mkdir(parents=True, exist_ok=True)
    directory.mkdir(exist_ok=True)
    for epoch in range(1, epochs + 1):
        write_checkpoint(directory, epoch)


def write_checkpoint(directory: Path, epoch: int) -> None:
    manifest = Manifest.model_construct(
        role=Role.EPOCH,
        attempt=1,
        epoch=epoch,
        step=2 * epoch,
        step_in_epoch=0,
        weights=StoredFile(name=f"checkpoint_epoch{epoch}.pth", sha256=f"{epoch:064d}", size=0),
        state=None,
        finite=True,
        class_ids=(0, 1),
        class_names=("a", "b"),
        architecture={"base_channels": 1, "classes": 2},
        config_hash="c",
        created="2026-01-01T00:00:00+00:00",
    )
    (directory / f"{manifest.stem}.pth").touch()
    (directory / f"{manifest.stem}.json").write_text(manifest.model_dump_json(warnings=False))


def write_journal(path: Path, lines: int) -> None:
    line = Progress(
        time=0.0,
        step=1,
        epoch=1,
        step_in_epoch=1,
        loss=0.5,
        grad_norm=1.0,
        lr=1e-3,
        images_per_second=10.0,
        p99_step_seconds=0.1,
    ).model_dump_json()
    text = (line + "\n").encode()
    with path.open("wb") as journal:
        journal.write(text * WRITTEN)
        journal.truncate(lines * len(text))  # a hole in the middle: nobody reads it again
        journal.seek(0, 2)
        journal.write(b"\n" + text * WRITTEN)


def milliseconds(what: Callable[[], object], times: int = 15, clock: Callable[[], float] = time.perf_counter) -> float:
    """The median: one look may meet somebody else's work."""
    taken = []
    for _ in range(times):
        began = clock()
        what()
        taken.append(1000 * (clock() - began))
    return statistics.median(taken)


def measure(place: Path, epochs: int, lines: int) -> dict[str, float]:
    """What a daemon costs on a run of so many epochs whose worker has written so many lines."""
    world = World(place / "x", epochs=epochs + 100)
    write_run(world, epochs)
    journal = attempt_dir(world.run.path, 1) / JOURNAL
    with world.real():
        daemon = SimDaemon(world)
        daemon.begun = True
        supervisor, observer = daemon.supervisor, daemon.supervisor._observer
        daemon.tick()
        number = epochs

        def a_fact() -> None:
            nonlocal number
            number += 1
            (world.run.checkpoints / f"checkpoint_epoch{number}.pth").touch()
            for event in epoch_facts(number):
                daemon.recorder.record(event)
            supervisor._update_alerts()

        def a_commit() -> None:
            write_checkpoint(world.run.checkpoints, number)
            observer.find_epochs(anyway=True)

        result = {
            "idle_tick_ms": milliseconds(supervisor._look),
            "rules_ms": milliseconds(lambda: supervisor._rules.current_alerts(daemon.history)),
            "epoch_ms": milliseconds(a_fact),
            "listing_ms": milliseconds(a_commit, clock=time.process_time),
            "retention_ms": milliseconds(
                lambda: upkeep.remove_surplus(world.run.path, daemon.history, world.config.checkpoints, set()),
                3,
                time.process_time,
            ),
        }
        if lines:
            result |= read_long(daemon, journal, lines)
        result["glance_ms"] = sum_up(world, daemon)
        world.daemon = daemon
        world.close()
    return result


def read_long(daemon: SimDaemon, journal: Path, lines: int) -> dict[str, float]:
    """Once through the whole journal, then what the next daemon reads again, and one line at its end."""
    write_journal(journal, lines)
    supervisor, observer = daemon.supervisor, daemon.supervisor._observer
    adopt = lambda: supervisor._watched(supervisor._frozen_spec(daemon.history.attempts[0]), process.NOBODY)  # noqa: E731
    observer.read_journal_to_its_end(adopt(), 0.0)
    adopted = adopt()
    read_again = journal.stat().st_size - adopted.offset
    observer.read_journal_to_its_end(adopted, 0.0)

    def a_line() -> None:
        with journal.open("ab") as file:
            file.write(b'{"kind":"phase","time":0.0,"phase":"training"}\n')
        assert len(adopted.read(0.0)) == 1

    return {
        "read_again_mb": read_again / 1e6,
        "line_ms": milliseconds(a_line, clock=time.process_time),
        "tail_ms": milliseconds(lambda: tail(journal), clock=time.process_time),
    }


def sum_up(world: World, daemon: SimDaemon) -> float:
    """What glance.json costs after each fact; it is left there for `status`."""
    glance, store = Glance(world.run, daemon.history), daemon.recorder._store

    def refresh() -> None:
        glance._sequence = -1
        glance.refresh(store.sequence, store.log_bytes)

    return milliseconds(refresh)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("place", type=Path)
    parser.add_argument("--epochs", type=int, default=10_000)
    parser.add_argument("--lines", type=int, default=0)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.place, arguments.epochs, arguments.lines)))


if __name__ == "__main__":
    main()
