"""docs/run-directory.md as patterns, and which files of a run none of them names. For tests only."""

from __future__ import annotations

import re
from pathlib import Path

from .conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "run-directory.md").read_text()
PLACEHOLDERS = {
    r"\*": ".+",
    "NNN": r"\d{3}",
    "N": r"\d+",
    "SPLIT": "(?:val|test)",
    "FINGERPRINT": "[0-9a-f]+",
    "TIME": r"[0-9TZ-]+",
    "CHANNEL": "[^/]+",
    "CLASS": "[^/]+",
}
PLACEHOLDER = re.compile(r"\\\*|(?<![A-Z])(?:NNN|N|SPLIT|FINGERPRINT|TIME|CHANNEL|CLASS)(?![A-Z])")
OF_THE_FAKES = {"replays.txt", "asked.txt"}
"""What stands in for evaluator and diagnosis in some tests notes down for them."""


def named() -> list[str]:
    """Every path of the tables' first columns, as it stands there."""
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    more = re.findall(r"`(tensorboard/\S+-N/\S+)`", PAGE)
    return [path for row in rows for path in re.findall(r"`([^`]+)`", row)] + more


def may_go() -> list[str]:
    """Those of which the page says that they may be deleted, at any time or when nothing runs."""
    rows = [line.split("|") for line in PAGE.splitlines() if line.startswith("| `")]
    free = [row[1] for row in rows if row[4].strip().startswith(("yes", "when nothing runs"))]
    return [path for cell in free for path in re.findall(r"`([^`]+)`", cell)]


def pattern(path: str) -> re.Pattern[str]:
    return re.compile(PLACEHOLDER.sub(lambda found: PLACEHOLDERS[found[0]], re.escape(path)))


def files_without_a_name(run_dir: Path) -> list[str]:
    """Files of a run that the page does not name."""
    patterns = [pattern(path) for path in named()]
    files = [str(path.relative_to(run_dir)) for path in run_dir.rglob("*") if not path.is_dir()]
    assert len(files) > 10
    return [
        file for file in sorted(files) if file not in OF_THE_FAKES and not any(one.fullmatch(file) for one in patterns)
    ]
