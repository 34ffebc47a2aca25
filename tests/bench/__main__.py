"""`python -m tests.bench [PART...]`: measures every part and writes docs/performance.md, or prints those it is given.

A part that fails is named on the page with its reason, and the exit code is 1; a goal that is missed is only shown.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from . import data_parts, process_parts, scoring_parts, training_parts
from .table import Row, machine, page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "performance.md"
PARTS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "loading": data_parts.loading,
    "audit": data_parts.audit,
    "step": training_parts.step,
    "compiled": training_parts.compiled,
    "loss": training_parts.loss_share,
    "checks": training_parts.checks,
    "host-waits": training_parts.host_waits,
    "loop": training_parts.loop,
    "checkpoint": training_parts.checkpoint,
    "scoring": scoring_parts.scoring,
    "counting": scoring_parts.counting,
    "shared-gpu": scoring_parts.shared_gpu,
    "memory": process_parts.memory,
    "daemon": process_parts.daemon,
    "commands": process_parts.commands,
    "recovery": lambda place: process_parts.recovery(place / "recovery"),
}


def measure(names: list[str]) -> tuple[list[Row], dict[str, str]]:
    """The rows of these parts, and why the others have none. Tells of each on standard error."""
    rows: list[Row] = []
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as place:
        for name in names:
            began = time.monotonic()
            try:
                rows += PARTS[name](Path(place))
            except Exception as error:  # noqa: BLE001 - named on the page
                # Boundary: one part that cannot be measured must not cost the figures of the others.
                traceback.print_exc()
                failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return rows, failed


def main(arguments: list[str]) -> int:
    logging.disable(logging.WARNING)
    unknown = [name for name in arguments if name not in PARTS]
    if unknown:
        print(f"no part {', '.join(unknown)}: there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    began = time.monotonic()
    rows, failed = measure(arguments or list(PARTS))
    minutes = (time.monotonic() - began) / 60
    text = page(rows, failed, machine=machine(), minutes=minutes, command="make bench")
    if arguments:
        print(text)
    else:
        PAGE.write_text(text)
        print(f"{PAGE} is written", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
