"""An evaluator without torch: keeps the real contract and gives the scores it is told.

Started as `python fake_evaluator.py SCENARIO SPEC`. SCENARIO: `miou` (list by epoch, the last one repeats), `miou_of`
("attempt:epoch" -> another one), `verdicts`
("attempt:epoch" -> verdict), `die` (list of "attempt:epoch" to die over, counted in a file), `hang` (the same, to stand
still over when asked first), `hang_at_start` (in its first process), `never_ready`, `read_images` (as the real one),
`out_of_memory` (list of "attempt:epoch", refused as such), `overwrite` ("attempt:epoch" -> a file that is given other
content when that epoch is asked for), `replace` (the same with [file, what takes its place, or null]), `refuse`
("attempt:epoch" -> why; foreign checkpoints are of attempt 0).
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from segwatch.checkpoints.manifest import read_manifest, verify_file
from segwatch.data.frozen import fingerprint, read_frozen, require_unchanged
from segwatch.data.resolved import ResolvedData
from segwatch.durable import write_text
from segwatch.errors import ConfigError, CorruptCheckpointError
from segwatch.evaluator.metrics import score
from segwatch.evaluator.report import (
    Done,
    EvaluationReport,
    EvaluatorSpec,
    ImageScore,
    Ready,
    Refused,
    Request,
    Scored,
    Unable,
    Verdict,
    report_path,
)
from segwatch.evaluator.statistics import PerImage, miou_interval, write_per_image
from segwatch.evaluator.terms import terms

PIXELS = 3_000_000_000
"""Of each class in the truth."""


def say(answer) -> None:
    print(answer.model_dump_json(), flush=True)


def matrix_with(miou: float) -> list[list[int]]:
    """A symmetric two-class matrix of this mIoU to 1e-9, always of the same truth: TP / (TP + 2 E) for both classes."""
    right = round(PIXELS * 2 * miou / (1 + miou))
    wrong = PIXELS - right
    return [[right, wrong], [wrong, right]]


def images_of(matrix: list[list[int]]) -> PerImage:
    """Three images that sum up to the matrix and are as alike as whole pixels let them be."""
    whole = np.array(matrix)
    thirds = np.stack([whole // 3, whole // 3, whole - 2 * (whole // 3)])
    return PerImage(("a", "b", "c"), thirds.diagonal(axis1=1, axis2=2), thirds.sum(axis=2), thirds.sum(axis=1))


def committed_step(path: Path) -> int:
    manifest = read_manifest(path)
    verify_file(path.parent, manifest.weights)
    return manifest.step


def load(spec: EvaluatorSpec, *, read_images: bool) -> dict[str, str]:
    """The fingerprints of val and test, as the real one takes them when it loads.

    Raises ConfigError for files that are not what was frozen, OSError for an image that is cut short or gone.
    """
    data = ResolvedData.load(spec.run_dir / spec.data_lock)
    files = None if spec.files is None or not (spec.run_dir / spec.files).exists() else spec.run_dir / spec.files
    if files is None:
        told = {split: data.fingerprint(split) for split in data.splits if split != "train"}
    else:
        frozen = read_frozen(files)
        require_unchanged(data.root, frozen, splits=("val", "test"))
        told = {split: fingerprint(data, split, frozen) for split in ("val", "test")}
    if read_images:
        for split in told:
            for pair in data.splits[split]:
                Image.open(data.root / pair.image).load()
    return told


def refusal(scenario: dict, key: str, request: Request, path: Path) -> Refused | None:
    """What the scenario tells to refuse, and what the real one would refuse as well."""

    def because(reason: str, message: str) -> Refused:
        return Refused(attempt=request.attempt, epoch=request.epoch, reason=reason, message=message)

    if key in scenario.get("out_of_memory", []):
        return because("out-of-memory", "not even one image of val fits into memory")
    if key in scenario.get("refuse", {}):
        return because("foreign", scenario["refuse"][key])
    try:
        if not request.foreign:
            committed_step(path)
    except FileNotFoundError as error:
        return because("missing", str(error))
    except CorruptCheckpointError as error:
        return because("corrupt", error.what)
    return None


def tamper(scenario: dict, key: str) -> None:
    """Change files of the data just before they are scored."""
    if key in scenario.get("overwrite", {}):
        Path(scenario["overwrite"][key]).write_bytes(b"other content")
    if key in scenario.get("replace", {}):
        file, other = scenario["replace"][key]
        Path(file).unlink(missing_ok=True)
        if other is not None:
            Path(other).replace(file)


def evaluate(scenario: dict, spec: EvaluatorSpec, request: Request, fingerprints: dict[str, str]) -> None:
    key = f"{request.attempt}:{request.epoch}"
    path = spec.run_dir / request.manifest
    with (spec.run_dir / "asked.txt").open("a") as asked:
        asked.write(key + "\n")
    tamper(scenario, key)
    if key in scenario.get("die", []):
        os._exit(9)
    if key in scenario.get("hang", []) and (spec.run_dir / "asked.txt").read_text().split().count(key) == 1:
        time.sleep(600)
    refused = refusal(scenario, key, request, path)
    if refused is not None:
        say(refused)
        say(Done(attempt=request.attempt, epoch=request.epoch))
        return
    step = 0 if request.foreign else committed_step(path)
    time.sleep(scenario.get("score_seconds", 0.0))
    figures = scenario.get("miou", [0.5])
    miou = scenario.get("miou_of", {}).get(key, figures[min(request.epoch, len(figures)) - 1])
    data = ResolvedData.load(spec.run_dir / spec.data_lock)
    verdict = Verdict(scenario.get("verdicts", {}).get(key, "ok"))
    for split in request.splits:
        matrix = matrix_with(miou)
        target = report_path(spec.run_dir, request.attempt, request.epoch, split)
        target.parent.mkdir(exist_ok=True)
        scored = verdict is not Verdict.NOT_FINITE
        if scored:
            write_per_image(target.with_suffix(".npz"), images_of(matrix))
        report = EvaluationReport(
            attempt=request.attempt,
            epoch=request.epoch,
            step=step,
            split=split,
            verdict=verdict,
            scores=score(np.array(matrix)) if scored else None,
            confusion=matrix if scored else None,
            class_ids=(0, 1),
            class_names=data.class_names if request.foreign else ("a", "b"),
            policy=f"two classes; {terms(data, split, spec.resolution, spec.window, spec.overlap)}",
            images=3,
            skipped_images=data.skipped.get(split, 0),
            ignored_pixels=0,
            counted_pixels=sum(map(sum, matrix)),
            seconds=0.01,
            device="cpu",
            checkpoint_sha256=request.sha256,
            data_fingerprint=fingerprints[split],
            resolution=spec.resolution,
            message="" if scored else "logits are NaN",
            miou_interval=miou_interval(images_of(matrix)) if scored else None,
            worst_images=(ImageScore(name="b", miou=miou),) if scored else (),
            per_image=target.with_suffix(".npz").name if scored else None,
        )
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
    if scenario.get("hang_at_start") and not (spec.run_dir / "hung.txt").exists():
        (spec.run_dir / "hung.txt").touch()
        time.sleep(600)
    if "unable" in scenario:
        say(Unable(message=scenario["unable"]))
        sys.exit(78)
    try:
        fingerprints = load(spec, read_images=bool(scenario.get("read_images")))
    except (ConfigError, OSError) as error:
        say(Unable(message=str(error)))
        sys.exit(78)
    say(Ready(device="cpu", seconds=0.0))
    for line in sys.stdin:
        evaluate(scenario, spec, Request.model_validate_json(line), fingerprints)


if __name__ == "__main__":
    main()
