"""The corpus is what the table says, and the table stands where it belongs. Runs nothing."""

from __future__ import annotations

import pytest
from segwatch.daemon.config import parse_config
from segwatch.daemon.drilled import explains
from segwatch.trainer.contract import Drill

from .corpus import CALM, KINDS, REFERENCE, SEEDS
from .outcome import Result
from .recovery_table import BEGIN, END, Figures, table, written_between


def result(name: str, seed: int = 0, **values: object) -> Result:
    return Result.model_validate({"name": name, "seed": seed, "exit_code": 0, "seconds": 50.0, **values})


@pytest.mark.parametrize("row", [*KINDS, *CALM], ids=lambda row: row.name)
def test_every_row_is_a_run_that_can_be_started(row, tmp_path):
    config = parse_config(row.settings.toml(root="scenes", seed=3).encode(), tmp_path / "run.toml")
    assert config.trainer.seed == 3
    assert config.trainer.epochs == row.settings.epochs


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.drill], ids=lambda kind: kind.name)
def test_a_fault_explains_its_trouble_and_comes_early_enough_to_be_got_over(kind):
    steps_per_epoch = 32 // kind.settings.batch_size
    for seed in range(SEEDS):
        drills = [Drill.parse(text) for text in kind.drills(seed)]
        assert len(drills) == kind.times
        assert any(explains(drills[0], cause) for cause in kind.causes)
        assert drills[-1].step < (kind.settings.epochs - 2) * steps_per_epoch


def test_the_final_weights_of_a_transient_are_compared_with_those_of_the_same_seed():
    results = [
        result(REFERENCE, 0, weights="a"),
        result(REFERENCE, 1, weights="b"),
        result("transient", 0, weights="a", right=True, healthy=True),
        result("transient", 1, weights="a", right=True, healthy=True),
    ]
    assert "undisturbed run: 1 of 2." in table(results, Figures())


def test_what_did_not_come_out_right_and_what_was_alarmed_for_nothing_is_named():
    results = [
        result("kill", 0, right=True, healthy=True, said="as it should"),
        result("data", 4, right=False, healthy=True, said="worker-crashed -> transient -> resume"),
        result("cosine-tail", 2, said="miou-stall: no gain"),
    ]
    words = table(results, Figures())
    assert "Right verdict: 1 of 2 (50%)" in words
    assert "data, seed 4: worker-crashed -> transient -> resume." in words
    assert "False alarms: 1 of 1" in words
    assert "cosine-tail 2: miou-stall: no gain." in words


def test_what_an_incident_leaves_is_told_with_its_time_and_its_size_where_it_was_measured():
    assert "bundle" not in table([], Figures())
    assert "moments; 6.1 MB): 23 ms, after" in table([], Figures(bundle_ms=23.4, bundle_mb=6.12))


def test_the_table_takes_the_place_of_the_one_before_and_of_nothing_else():
    page = f"# Recovery\n\nBefore.\n\n{BEGIN}\nold\n{END}\n\nBehind.\n"
    once = written_between(page, "new")
    assert once == f"# Recovery\n\nBefore.\n\n{BEGIN}\nnew\n{END}\n\nBehind.\n"
    assert written_between(once, "new") == once
    assert written_between("# Recovery\n", "new").startswith("# Recovery\n\n## Measured\n\n")
