"""What lies in `evaluations/`: the report of one score, the counts of its images, the difference between two epochs.

Whatever is missing or cannot be read is `None`: a score stands without it.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from ..evaluator.report import EvaluationReport, PictureKind, picture_path, report_path
from ..evaluator.statistics import Difference, PerImage, difference, read_per_image
from .members import Epoch

log = logging.getLogger(__name__)
FORMER = "former"
"""Below `evaluations/`: scores on files that were changed since."""


def read_report(path: Path) -> EvaluationReport | None:
    try:
        return EvaluationReport.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValidationError, OSError) as error:
        log.warning("%s is not a report: %s", path, error)
        return None


def report_of(run_dir: Path, epoch: Epoch, split: str) -> EvaluationReport | None:
    """The report of this very checkpoint on this split."""
    report = read_report(report_path(run_dir, *epoch.key, split))
    return None if report is None or report.checkpoint_sha256 != epoch.sha256 else report


def set_aside(run_dir: Path, report: EvaluationReport) -> None:
    """Move a report, with what stands beside it, to `evaluations/former/FINGERPRINT/`: another will take its name."""
    path = report_path(run_dir, report.attempt, report.epoch, report.split)
    former = path.parent / FORMER / report.data_fingerprint
    former.mkdir(parents=True, exist_ok=True)
    beside = [path.with_name(report.per_image)] if report.per_image else []
    if report.split == "test":
        beside += [picture_path(run_dir, report.attempt, report.epoch, kind) for kind in get_args(PictureKind)]
    for file in [*beside, path]:  # the report last: while it is there, the rest is still to be moved
        if file.exists():
            file.replace(former / file.name)


def compare(run_dir: Path, before: Epoch, after: Epoch, split: str) -> Difference | None:
    """The mIoU of `after` minus that of `before` over the same images, with its interval."""
    old = counts_of(run_dir, before, split)
    new = None if old is None else counts_of(run_dir, after, split)
    return None if old is None or new is None else difference(old, new)


def counts_of(run_dir: Path, epoch: Epoch, split: str) -> PerImage | None:
    """The counts of every image of a split at this very checkpoint."""
    report = report_of(run_dir, epoch, split)
    if report is None or report.per_image is None:
        return None
    try:
        return read_per_image(report_path(run_dir, *epoch.key, split).with_name(report.per_image))
    except (ValueError, OSError) as error:
        log.warning("epoch %d of attempt %d is compared without its images: %s", epoch.epoch, epoch.attempt, error)
        return None
