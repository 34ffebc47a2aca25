"""`segwatch run run.toml` around the fakes of a soak."""

from __future__ import annotations

import sys
from pathlib import Path

from segwatch.daemon import pictures, report
from segwatch.daemon.job import StoppedEarly, run_job
from segwatch.daemon.screen import Terminal

HERE = Path(__file__).resolve().parent
report.draw_results = lambda _run, _history: None  # matplotlib costs a second at every end
pictures.DRAW_COMMAND = ("true",)  # and so it does for each incident; test_steps_plot.py draws


def main() -> int:
    scenario = str(Path("scenario.json").resolve())
    try:
        return run_job(
            Path("run.toml"),
            name=None,
            runs_dir=Path("runs"),
            drills=[],
            retry=False,
            console=Terminal(width=200),
            worker_command=(sys.executable, str(HERE / "soak_worker.py"), scenario),
            evaluator_command=(sys.executable, str(HERE.parent / "daemon" / "fake_evaluator.py"), scenario),
        )
    except StoppedEarly as stopped:
        return stopped.exit_code


if __name__ == "__main__":
    sys.exit(main())
