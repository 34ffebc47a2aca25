"""Each verdict end to end: a real worker process meets a fault, a real diagnosis process says what it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from segwatch.trainer.contract import AttemptSpec, Drill, ExitCode
from segwatch.trainer.diagnosis import Diagnosis, DiagnosisSpec

DEADLINE_SECONDS = 120


def call(module: str, argument: Path, log: Path) -> int:
    with log.open("ab") as file:
        command = [sys.executable, "-m", module, str(argument)]
        return subprocess.run(command, stdout=file, stderr=file, timeout=DEADLINE_SECONDS, check=False).returncode


def diagnose(spec: AttemptSpec) -> Diagnosis:
    """What a diagnosis process of its own says of the first incident."""
    incident = spec.run_dir / "incidents" / "001"
    epochs = sorted(
        (json.loads(path.read_text()) for path in (spec.run_dir / "checkpoints").glob("checkpoint_epoch*.json")),
        key=lambda manifest: -manifest["epoch"],
    )
    question = DiagnosisSpec(
        run_dir=spec.run_dir,
        incident=1,
        attempt=1,
        directory="incidents/001",
        good=tuple(f"checkpoints/checkpoint_epoch{manifest['epoch']}.json" for manifest in epochs[:2]),
        seconds=60,
    )
    path = incident / "diagnosis_spec.json"
    path.write_text(question.model_dump_json())
    log = incident / "diagnosis.log"
    assert call("segwatch.trainer.diagnose", path, log) == 0, log.read_text()
    return Diagnosis.model_validate_json((incident / "diagnosis.json").read_text())


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("drill", "amp", "code", "finding"),
    [
        ("nan-loss@10", "off", ExitCode.UNSTABLE, "transient"),
        ("overflow@10", "fp16", ExitCode.UNSTABLE, "precision"),
        ("bad-file@10", "off", ExitCode.CRASHED, "data"),
        ("lr-spike@30", "off", ExitCode.UNSTABLE, "learning-rate"),
    ],
)
def test_a_worker_breaks_and_a_diagnosis_says_why(make_spec, drill, amp, code, finding):
    spec = make_spec(drills=(Drill.parse(drill),), amp=amp, epochs=20)
    assert call("segwatch.trainer", spec.directory / "spec.json", spec.directory / "worker.log") == code
    diagnosis = diagnose(spec)
    assert diagnosis.finding == finding, diagnosis.because
    assert diagnosis.seconds < 60
    assert f"{finding}: " in (spec.run_dir / "incidents" / "001" / "diagnosis.log").read_text()
