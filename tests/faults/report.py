"""docs/faults.md from what pytest measured: `python tests/faults/report.py RESULTS.xml > docs/faults.md`.

RESULTS.xml is pytest's own (`--junitxml`); each test of a row carries the row's name and how often it provoked the
fault. Rows that no test ran are told as such.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

HEAD = """\
# Faults

Every fault that a long run meets, made to happen in a test: on the real daemon, mostly around a fake worker and a fake
evaluator that keep the real contract without torch. Each row asserts its promise, and that nothing else broke: every
epoch scored once or its reason recorded, no double row, at most one worker and none left, no alert told twice, no
incident lost.

A worker has no DataLoader processes that could die or be orphaned: batches are prepared by threads from pixels decoded
once ([decisions/0004](decisions/0004-cache-without-loader-processes.md)). That TensorBoard listens on loopback alone is
tested in `tests/daemon/test_board_server.py`, that addresses with secrets come from `env:` and `file:` alone in
`tests/daemon/test_outbox.py`.

`make fault ROW=name` runs one row. This page is written by `make faults`; a test compares its rows with the tests.

The promises:

- P1 every committed epoch is evaluated exactly once, or its reason is recorded.
- P2 no partial, unverified or foreign file is loaded; nothing is unpickled.
- P3 an incident, once recorded, is never lost; a notification arrives at least once, with a stable id.
- P4 at most one worker per run; none is left after `segwatch stop`.
- P5 a remedy is recorded before it is applied; budgets survive restarts.
- P6 kill the daemon before or after any system call, start it again, and the same results.csv comes out.
- P7 no fault in watching, notifying or plotting stops training.
"""


@dataclass
class Measured:
    """What became of the tests of one row."""

    passed: int = 0
    skipped: int = 0
    failed: int = 0
    provoked: int = 0

    @property
    def result(self) -> str:
        if self.failed:
            return "FAILED"
        if self.skipped:
            return "passed in part" if self.passed else "skipped"
        return "passed" if self.passed else "not run"


def measure(results: Path) -> dict[str, Measured]:
    """By the name of the row."""
    rows: dict[str, Measured] = {}
    for case in ET.parse(results).iter("testcase"):
        properties = {entry.get("name"): entry.get("value") for entry in case.iter("property")}
        name = properties.get("row")
        if name is None:
            continue
        row = rows.setdefault(name, Measured())
        row.provoked += int(properties.get("provoked") or 0)
        outcomes = {child.tag for child in case}
        if outcomes & {"failure", "error"}:
            row.failed += 1
        elif "skipped" in outcomes:
            row.skipped += 1
        else:
            row.passed += 1
    return rows


def page(measured: dict[str, Measured]) -> str:
    from tests.faults.matrix import declared_rows  # the script is started by its path

    parts, area = [HEAD], None
    rows = declared_rows()
    for row in sorted(rows, key=lambda row: row.area):  # stable: in the order of the tests within an area
        if row.area != area:
            area = row.area
            parts.append(f"\n## {area}\n\n| row | fault | promise | how it is provoked | times | result |")
            parts.append("|---|---|---|---|---:|---|")
        result = measured.get(row.name, Measured())
        parts.append(
            f"| `{row.name}` | {row.fault} | {row.promise} | {row.provoked} | {result.provoked} | {result.result} |"
        )
    total = sum(result.provoked for result in measured.values())
    parts.append(f"\n{len(rows)} rows, {total} faults made.")
    return "\n".join(parts) + "\n"


def main() -> int:
    measured = measure(Path(sys.argv[1]))
    print(page(measured), end="")
    return 1 if any(row.failed for row in measured.values()) else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    sys.exit(main())
