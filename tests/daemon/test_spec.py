"""From run.toml to the spec of an attempt: every effective value, class weights as numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from segwatch.daemon.config import load_config
from segwatch.daemon.events import AttemptPlanned
from segwatch.daemon.freezing import create
from segwatch.daemon.job import SpecWriter
from segwatch.daemon.rundir import RunDir
from segwatch.data.resolved import Pair, ResolvedClass, ResolvedData
from segwatch.errors import ConfigError
from segwatch.trainer.contract import AttemptSpec

from .conftest import CONFIG

PAIR = (Pair(image="a.png", mask="a.png"),)
DATA = ResolvedData(
    root=Path("/data"),
    scale=0.25,
    classes=(
        ResolvedClass(id=3, name="road", colour=(1, 2, 3), pixels={"train": 100}, seen={"train": 1000}),
        ResolvedClass(id=7, name="roof", colour=(9, 2, 3), pixels={"train": 400}, seen={"train": 1000}),
        ResolvedClass(id=9, name="field", colour=(9, 9, 3), pixels={"train": 200}, seen={"train": 1000}),
    ),
    splits={"train": PAIR, "val": PAIR, "test": PAIR},
)
PLAN = AttemptPlanned(
    attempt=2,
    lr=5e-4,
    amp="off",
    batch_size=2,
    accumulate=2,
    resume_from=None,
    resume_epoch=0,
    resume_step=0,
    because="a test",
)


def spec_of(tmp_path: Path, extra: str) -> AttemptSpec:
    source = tmp_path / "run.toml"
    source.write_text(CONFIG.format(epochs=3, amp="off", extra=extra))
    config = load_config(source)
    run = RunDir(tmp_path / "runs" / "one")
    create(run, source, config, DATA)
    spec = SpecWriter(run, config)(PLAN, ())
    return AttemptSpec.model_validate_json(spec.model_dump_json())  # as the worker reads it


def test_a_spec_holds_class_weights_as_numbers_in_the_order_of_the_classes(tmp_path):
    spec = spec_of(tmp_path, '[loss]\nclass_weights = "median-frequency"\nlovasz = 0.5\n')
    assert spec.loss.class_weights == pytest.approx([2.0, 0.5, 1.0])
    assert spec.loss.lovasz == 0.5


def test_a_spec_holds_the_weights_that_a_person_gave(tmp_path):
    assert spec_of(tmp_path, "[loss]\nclass_weights = [1, 0, 2.5]\n").loss.class_weights == [1.0, 0.0, 2.5]


def test_a_spec_without_wishes_weighs_nothing_and_changes_nothing(tmp_path):
    spec = spec_of(tmp_path, "")
    assert spec.loss.class_weights == "none"
    assert not any((spec.augment.flip, spec.augment.turn, spec.augment.crop))


def test_a_spec_says_what_is_augmented_and_keeps_the_plans_own_values(tmp_path):
    spec = spec_of(tmp_path, "[augment]\nflip = true\nscale = [0.8, 1.25]\ncrop = 64\n")
    assert (spec.augment.flip, spec.augment.scale, spec.augment.crop) == (True, (0.8, 1.25), 64)
    assert (spec.attempt, spec.lr, spec.batch_size, spec.accumulate) == (2, 5e-4, 2, 2)


def test_weights_that_do_not_fit_the_classes_stop_a_run_before_anything_trains(daemon):
    daemon.configure(extra="[loss]\nclass_weights = [1.0, 2.0, 3.0]")
    code, said = daemon.run()
    assert code == 78
    assert "loss.class_weights: 3 numbers, and 2 classes are used" in " ".join(said.split())
    assert "in this order: 0 a, 1 b" in " ".join(said.split())
    assert not (daemon.place / "runs" / "run" / "attempts").exists()


def test_mistakes_of_loss_and_augmentation_are_told_together_each_with_its_key(tmp_path):
    extra = "[loss]\nclass_weights = [0, 0]\n[augment]\nscale = [1.5, 0.7]\ncrop = 8\nhue = 3"
    with pytest.raises(ConfigError) as caught:
        spec_of(tmp_path, extra)
    for line in (
        "loss.class_weights: every class has the weight 0",
        "augment.scale: from 1.5 to 0.7: the smaller one comes first",
        "augment.crop: 8 pixels: the network halves them four times, so 32 is the least",
        "augment.hue: input should be less than or equal to 0.5",
    ):
        assert line in str(caught.value)


def test_the_audit_says_so_too_and_leaves_with_the_same_code(daemon):
    daemon.configure(extra="[loss]\nclass_weights = [1.0]")
    done = subprocess.run(
        [sys.executable, "-c", "from segwatch.daemon.cli import main; main()", "audit", "run.toml"],
        cwd=daemon.place,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 78
    assert "in this order: 0 a, 1 b" in " ".join(done.stderr.split())


def test_a_run_hands_its_worker_what_the_audit_counted(daemon):
    daemon.configure(epochs=1, extra='[loss]\nclass_weights = "inverse"\n[augment]\nturn = true')
    code, said = daemon.run()
    assert code == 0, said
    spec = json.loads((daemon.place / "runs" / "run" / "attempts" / "001" / "spec.json").read_text())
    assert spec["loss"]["class_weights"] == [1.0, 1.0]  # both classes cover one half
    assert spec["augment"]["turn"] is True
