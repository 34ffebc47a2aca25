"""`segwatch run` with the fakes in place of worker and evaluator; the scenario lies beside run.toml."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from segwatch.daemon import pictures, report
from segwatch.daemon.job import StoppedEarly, run_job
from segwatch.daemon.json_lines import JsonConsole
from segwatch.daemon.screen import Terminal
from segwatch.errors import SegwatchError
from segwatch.trainer.contract import Drill

HERE = Path(__file__).parent
report.draw_results = lambda _run, _history: None  # matplotlib costs a second a run; test_report.py draws
pictures.DRAW_COMMAND = ("true",)  # and so it does for each incident; test_steps_plot.py draws


def standby_command(scenario: str) -> tuple[str, ...] | None:
    """None unless the scenario asks for one: most tests are about something else."""
    if json.loads(Path(scenario).read_text()).get("standby") is None:
        return None
    return sys.executable, str(HERE / "fake_standby.py"), scenario


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("--drill", action="append", default=[])
    parser.add_argument("--retry", action="store_true")
    parser.add_argument("--accept-data", action="store_true")
    parser.add_argument("--log-format", default="text")
    arguments = parser.parse_args()
    scenario = str(Path("scenario.json").resolve())
    try:
        return run_job(
            arguments.config,
            name=None,
            runs_dir=Path("runs"),
            drills=[Drill.parse(text) for text in arguments.drill],
            retry=arguments.retry,
            accept_data=arguments.accept_data,
            console=JsonConsole(sys.stdout) if arguments.log_format == "json" else Terminal(width=200),
            worker_command=(sys.executable, str(HERE / "fake_worker.py"), scenario),
            evaluator_command=(sys.executable, str(HERE / "fake_evaluator.py"), scenario),
            standby_command=standby_command(scenario),
            diagnosis_command=(sys.executable, str(HERE / "fake_diagnosis.py"), scenario),
        )
    except StoppedEarly as stopped:
        return stopped.exit_code
    except SegwatchError as error:
        print(f"segwatch: {error}")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
