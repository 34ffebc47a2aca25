"""Each verdict for real: a worker breaks under `segwatch run`, a replay says why, and the run goes on to its end."""

from __future__ import annotations

import pytest

from ..run_directory import files_without_a_name
from .conftest import Site, strict

pytestmark = [pytest.mark.e2e, pytest.mark.long]


def run_with(site: Site, *drills: str, recovery: str) -> str:
    config = site.place / "run.toml"
    config.write_text(config.read_text() + recovery)  # its last table
    code, output = site.segwatch("run", "run.toml", *(word for drill in drills for word in ("--drill", drill)))
    assert code == 0, output
    return output


def test_precision_and_data_are_told_apart_and_neither_costs_the_learning_rate(site: Site) -> None:
    site.configure(epochs=6, amp="fp16")
    output = run_with(site, "overflow@6", "bad-file@14", recovery="undo = false\n")
    history, specs = site.history, site.specs()
    assert [history.diagnoses[number].finding for number in (1, 2)] == ["precision", "data"], output
    assert [attempt.plan.remedy for attempt in history.attempts] == [None, "bf16", "leave-out"]
    assert [spec["amp"] for spec in specs] == ["fp16", "bf16", "bf16"]
    assert {spec["lr"] for spec in specs} == {3e-3}
    facts = strict((site.run_dir / "incidents" / "002" / "worker.json").read_text())
    assert specs[2]["left_out"] == facts["images"][:1], "the drill spoils the first image of its step"
    (file,) = strict((site.run_dir / "incidents" / "002" / "diagnosis.json").read_text())["files"]
    assert (site.run_dir / "incidents" / "002" / file["picture"]).stat().st_size > 1000
    assert f"the data: {file['image']} left out from here on" in site.alerts_log()
    assert files_without_a_name(site.run_dir) == []


def test_memory_costs_the_micro_batch_and_a_rate_that_is_too_high_is_lowered_from_before_it_grew(site: Site) -> None:
    site.configure(epochs=12)
    output = run_with(site, "out-of-memory@6", "lr-spike@14", recovery='undo = false\non_collapse = "alert"\n')
    history, specs = site.history, site.specs()
    assert [attempt.plan.remedy for attempt in history.attempts] == [None, "micro-batch", "lower-lr"], output
    assert [(spec["batch_size"], spec["accumulate"]) for spec in specs] == [(4, 1), (2, 2), (2, 2)]
    assert "BatchNorm sees 2 at a time" in site.alerts_log()
    assert list(history.diagnoses) == [2], "memory that ran out needs no replay"
    assert history.diagnoses[2].finding == "learning-rate"
    assert [spec["lr"] for spec in specs] == [3e-3, 3e-3, 1.5e-3]
    assert history.attempts[2].plan.resume_step < 14, "from before it grew"
    assert specs[2]["warm_up_steps"] > 0


def test_a_precision_that_was_widened_has_proved_itself_and_is_taken_back_by_a_worker_of_its_own(site: Site) -> None:
    site.configure(epochs=12, amp="fp16")
    output = run_with(site, "overflow@6", recovery="probation_epochs = 1\nprobation_share = 0.5\n")
    history, specs = site.history, site.specs()
    assert history.diagnoses[1].finding == "precision", output
    plans = [attempt.plan for attempt in history.attempts]
    assert [(plan.remedy, plan.undoes) for plan in plans] == [(None, None), ("bf16", None), (None, "bf16")], output
    assert [spec["amp"] for spec in specs] == ["fp16", "bf16", "fp16"]
    assert {spec["lr"] for spec in specs} == {3e-3}
    assert history.attempts[1].ended.outcome == "stopped", "it saved and left, which is no incident"
    assert plans[2].resume_step == history.attempts[1].ended.step, "not a step is trained again"
    proved, undone = history.probations
    assert (proved.attempt, proved.incident, proved.passed) == (2, 1, True)
    assert (undone.attempt, undone.incident, undone.passed) == (3, None, True), "the drill breaks it once"
    page = (site.run_dir / "incidents" / "001" / "postmortem.md").read_text()
    assert "verdict: precision; remedy: bf16; recovered." in page
    assert "Undo: bf16 taken back in attempt 3: went well" in page
