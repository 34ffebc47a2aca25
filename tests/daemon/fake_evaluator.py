"""An evaluator without torch: keeps the real contract and gives the scores it is told.

Started as `python fake_evaluator.py SCENARIO SPEC`. SCENARIO: `miou` (list by epoch, the last one repeats), `verdicts`
("attempt:epoch" -> verdict), `die` (list of "attempt:epoch" to die over, counted in a file), `never_ready`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from segwatch.checkpoints.manifest import read_manifest, verify_file
from segwatch.durable import write_text
from segwatch.errors import CorruptCheckpointError
from segwatch.evaluator.metrics import score
from segwatch.evaluator.report import (
    Done,
    EvaluationReport,
    EvaluatorSpec,
    Ready,
    Refused,
    Request,
    Scored,
    Unable,
    Verdict,
    report_path,
)


def say(answer) -> None:
    print(answer.model_dump_json(), flush=True)


def matrix_with(miou: float) -> list[list[int]]:
    """A symmetric two-class matrix of exactly this mIoU: TP / (TP + 2 E) for both classes."""
    right = round(miou * 1_000_000)
    wrong = (1_000_000 - right) // 2
    return [[right, wrong], [wrong, right]]


def evaluate(scenario: dict, spec: EvaluatorSpec, request: Request) -> None:
    key = f"{request.attempt}:{request.epoch}"
    path = spec.run_dir / request.manifest
    with (spec.run_dir / "asked.txt").open("a") as asked:
        asked.write(key + "\n")
    if key in scenario.get("die", []):
        os._exit(9)
    try:
        manifest = read_manifest(path)
        verify_file(path.parent, manifest.weights)
    except FileNotFoundError as error:
        say(Refused(attempt=request.attempt, epoch=request.epoch, reason="missing", message=str(error)))
        say(Done(attempt=request.attempt, epoch=request.epoch))
        return
    except CorruptCheckpointError as error:
        say(Refused(attempt=request.attempt, epoch=request.epoch, reason="corrupt", message=error.what))
        say(Done(attempt=request.attempt, epoch=request.epoch))
        return
    time.sleep(scenario.get("score_seconds", 0.0))
    figures = scenario.get("miou", [0.5])
    miou = figures[min(request.epoch, len(figures)) - 1]
    verdict = Verdict(scenario.get("verdicts", {}).get(key, "ok"))
    for split in request.splits:
        matrix = matrix_with(miou)
        report = EvaluationReport(
            attempt=request.attempt,
            epoch=request.epoch,
            step=manifest.step,
            split=split,
            verdict=verdict,
            scores=None if verdict is Verdict.NOT_FINITE else score(np.array(matrix)),
            confusion=matrix,
            class_ids=(0, 1),
            class_names=("a", "b"),
            policy="two classes",
            images=3,
            ignored_pixels=0,
            counted_pixels=sum(map(sum, matrix)),
            seconds=0.01,
            device="cpu",
            checkpoint_sha256=request.sha256,
            data_fingerprint="f",
            message="logits are NaN" if verdict is Verdict.NOT_FINITE else "",
        )
        target = report_path(spec.run_dir, request.attempt, request.epoch, split)
        write_text(target, report.model_dump_json())
        say(
            Scored(
                attempt=request.attempt, epoch=request.epoch, split=split, report=str(target.relative_to(spec.run_dir))
            )
        )
    say(Done(attempt=request.attempt, epoch=request.epoch))


def main() -> None:
    scenario = json.loads(Path(sys.argv[1]).read_text())
    spec = EvaluatorSpec.model_validate_json(Path(sys.argv[2]).read_bytes())
    if scenario.get("never_ready"):
        sys.exit(3)
    if "unable" in scenario:
        say(Unable(message=scenario["unable"]))
        sys.exit(78)
    say(Ready(device="cpu", seconds=0.0))
    for line in sys.stdin:
        evaluate(scenario, spec, Request.model_validate_json(line))


if __name__ == "__main__":
    main()
