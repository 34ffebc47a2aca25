"""A diagnosis without torch: keeps the real contract and finds what it is told to find.

Started as `python fake_diagnosis.py SCENARIO SPEC`. SCENARIO is JSON: `diagnosis` maps an incident's number to the
fields of its answer, or to one of hang, crash, garbage. `replays.txt` in the run directory has a line for each start.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from segwatch.durable import write_text
from segwatch.trainer.diagnosis import DIAGNOSIS, Diagnosis, DiagnosisSpec, Finding

FOUND = {"because": "as the scenario says.", "device": "cpu", "seconds": 0.1}


def answer_of(told: dict) -> Diagnosis:
    files = [{"reproduced": 2, "what": "mask value 137", **file} for file in told.get("files", [])]
    return Diagnosis.model_validate({**FOUND, **told, "files": files})


def main() -> int:
    scenario = json.loads(Path(sys.argv[1]).read_text())
    spec = DiagnosisSpec.model_validate_json(Path(sys.argv[2]).read_bytes())
    with (spec.run_dir / "replays.txt").open("a") as file:
        file.write(f"{spec.incident} {os.getpid()} {' '.join(spec.good)}\n")
    told = scenario["diagnosis"].get(str(spec.incident), {"finding": Finding.UNKNOWN})
    answer = spec.run_dir / spec.directory / DIAGNOSIS
    match told:
        case "hang":
            while True:
                time.sleep(60)
        case "crash":
            return 1
        case "garbage":
            write_text(answer, '{"finding": "witchcraft"}')
        case _:
            write_text(answer, answer_of(told).model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
