"""What a daemon holds of a long run: `python -m tests.bench.remembering PLACE EPOCHS write`, then the same with `keep`.

The two are processes of their own: what writing the facts of thousands of epochs takes is not the daemon's.
"""

from __future__ import annotations

import sys
from pathlib import Path


def write(place: Path, epochs: int) -> None:
    """Facts and files as that many epochs leave them."""
    from ..faults.in_process import World
    from ..faults.long_run import write_run

    write_run(World(place, epochs=epochs + 100), epochs)


def keep(place: Path) -> float:
    """Resident MB of all that `segwatch run` imports and keeps of the run, once everything was looked at."""
    import psutil
    from rich.console import Console
    from segwatch.daemon import cli, going_on, job, rules, supervisor
    from segwatch.daemon.config import load_config
    from segwatch.daemon.history import History
    from segwatch.daemon.observing import Observer
    from segwatch.daemon.recording import DELIVERED
    from segwatch.daemon.rundir import RunDir
    from segwatch.daemon.screen import PlainScreen
    from segwatch.daemon.store import Store
    from segwatch.daemon.upkeep import Retention

    assert cli
    assert supervisor
    run, config = RunDir(place / "runs" / "run"), load_config(place / "run.toml")
    store = Store(run.path)
    store.note(DELIVERED, str(store.sequence))  # as every round of a daemon does: only what is new is shown
    history, retention = History.of(store.events()), Retention()
    known = rules.Rules.of(config, going_on.calls(run))
    screen = PlainScreen(Console(quiet=True))
    recorder = job.recorder_for(run, store, history, screen)
    recorder.catch_up()
    observer = Observer(run, recorder, screen)
    observer.find_epochs()
    retention.remove_surplus(run.path, history, config.checkpoints)
    known.current_alerts(history)
    recorder.delivered()
    return float(psutil.Process().memory_info().rss / 1e6)


if __name__ == "__main__":
    if sys.argv[3] == "write":
        write(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        print(keep(Path(sys.argv[1])))
