"""docs/metrics.md is true: its examples print what stands there, its table is that of the real matrix."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from segwatch.evaluator.metrics import Scores, score, select, without_truth
from segwatch.evaluator.report import EvaluationReport

from .conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "metrics.md").read_text()
EXAMPLE = re.compile(r"```python\n(?P<code>.*?)```\n\n```text\n(?P<output>.*?)```", flags=re.DOTALL)


def test_every_example_prints_what_stands_below_it() -> None:
    names: dict[str, Any] = {}
    examples = list(EXAMPLE.finditer(PAGE))
    assert len(examples) == PAGE.count("```python") >= 8
    for example in examples:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(example["code"], "docs/metrics.md", "exec"), names)
        assert printed.getvalue() == example["output"]


def rows() -> dict[str, list[str]]:
    section = PAGE.split("## Which classes enter the mean")[1].split("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if "%" in line]
    return {entry[0]: entry[1:] for entry in cells if len(entry) == 7}


def test_the_table_of_class_policies_is_that_of_the_real_matrix(shared: Path) -> None:
    oracle = json.loads((shared / "oracles" / "amtown03_confusion.json").read_text())
    matrix = np.array(oracle["confusion_matrix"])
    named = [index for index in range(26) if index not in oracle["unnamed_ids"]]
    everything = score(matrix)
    expected = {
        "all ids in truth or prediction": everything,
        "row and column of id 25 removed": score(select(matrix, [index for index in range(26) if index != 25])),
        "true pixels of id 25 ignored, predictions of 25 stay errors": score(
            without_truth(matrix, [25]), average=named
        ),
    }
    table = rows()
    for words, scores in expected.items():
        assert table[words] == cells_of(scores)
    zero_filled = [sum(getattr(entry, name) or 0 for entry in everything.per_class) / 26 for name in ("iou", "dice")]
    assert table["ids that occur nowhere counted as 0"][:3] == [
        "26",
        *(f"{100 * value:.4f} %" for value in zero_filled),
    ]
    assert f"{matrix[25].sum():,}".replace(",", " ") in PAGE
    assert f"{100 * zero_filled[1]:.2f} % beside an mIoU of {100 * (everything.miou or 0):.2f} %" in PAGE


def cells_of(scores: Scores) -> list[str]:
    names = ("miou", "mean_dice", "mean_accuracy", "fwiou", "pixel_accuracy")
    return [str(scores.classes_averaged), *(f"{100 * getattr(scores, name):.4f} %" for name in names)]


def test_every_field_it_names_is_one_of_a_report() -> None:
    section = PAGE.split("## A report, field by field")[1]
    fields = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    listed = {name for field in fields for name in re.findall(r"`(\w+)`", field)}
    assert len(listed) >= 16
    assert sorted(listed - set(EvaluationReport.model_fields)) == []


@pytest.mark.parametrize("words", ["72.73", "39.80", "84.21", "per_image_foreground_dice", "native", "miou_interval"])
def test_it_speaks_of_what_people_look_for(words: str) -> None:
    assert words in PAGE
