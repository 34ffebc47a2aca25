"""What a checkpoint is said to be: sound, of one class, or not finite, at both resolutions and in windows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from segwatch.data.cache import open_cache
from segwatch.evaluator.evaluate import Evaluator
from segwatch.evaluator.judging import judge
from segwatch.evaluator.metrics import score
from segwatch.evaluator.report import (
    Verdict,
)
from segwatch.evaluator.scoring import tally

from .scored import (
    CPU,
    Constant,
    MakeNetwork,
    exhausted,
    reference,
    reports,
)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("statistic", ["running_mean", "running_var"])
def test_a_poisoned_batchnorm_is_not_finite_and_has_no_score(
    half_run: Any, any_evaluator: Evaluator, make_network: MakeNetwork, statistic: str, value: float
) -> None:
    net = make_network()
    getattr(net.down1.maxpool_conv[1].double_conv[1], statistic)[0] = value
    found = reports(half_run, list(any_evaluator.evaluate(half_run.save(net))))
    for report in found.values():
        assert report.verdict is Verdict.NOT_FINITE
        assert report.scores is None
        assert report.confusion is None
        assert (report.miou_interval, report.worst_images, report.per_image_foreground_dice) == (None, (), None)
        assert report.per_image is None
        assert report.policy.startswith("no score")
        assert f"down1.maxpool_conv.1.double_conv.1.{statistic}" in report.message


@pytest.mark.parametrize("value", [-5e-6, -1.0])
def test_a_negative_variance_is_named_and_has_no_score_though_logits_may_be_finite(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork, value: float
) -> None:
    net = make_network()
    net.down1.maxpool_conv[1].double_conv[1].running_var[0] = value
    for report in reports(tiny_run, list(evaluator.evaluate(tiny_run.save(net)))).values():
        assert (report.verdict, report.scores) == (Verdict.NOT_FINITE, None)
        told = "the checkpoint holds a negative variance: down1.maxpool_conv.1.double_conv.1.running_var < 0"
        assert told in report.message


def test_logits_that_overflow_though_all_weights_are_finite_have_no_score(
    half_run: Any, any_evaluator: Evaluator, make_network: MakeNetwork
) -> None:
    net = make_network()
    with torch.no_grad():
        net.up4.conv.double_conv[4].bias.fill_(10)
        net.outc.conv.weight.fill_(3e38)
    report = reports(half_run, list(any_evaluator.evaluate(half_run.save(net))))["val"]
    assert report.verdict is Verdict.NOT_FINITE
    assert "the logits of 3 of 3 images are NaN or Inf: val_0.image.png" in report.message


def test_a_good_checkpoint_is_scored_right_after_a_poisoned_one(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork
) -> None:
    poisoned = make_network(1)
    poisoned.outc.conv.bias.data.fill_(float("nan"))
    list(evaluator.evaluate(tiny_run.save(poisoned, epoch=1)))
    report = reports(tiny_run, list(evaluator.evaluate(tiny_run.save(make_network(), epoch=2))))["test"]
    assert report.confusion == reference(tiny_run, "test", make_network()).tolist()


def test_one_class_everywhere_is_named_and_keeps_its_score(
    half_run: Any, any_evaluator: Evaluator, make_network: MakeNetwork
) -> None:
    net = make_network()
    with torch.no_grad():
        net.outc.conv.bias.copy_(torch.tensor([0.0, 1e9, 0.0]))
    report = reports(half_run, list(any_evaluator.evaluate(half_run.save(net))))["test"]
    assert report.verdict is Verdict.SINGLE_CLASS
    assert report.scores is not None
    assert report.scores.per_class[1].accuracy == 1.0
    assert report.message == "'road' is predicted everywhere; the truth has 3 classes"


def test_one_class_is_right_where_the_truth_has_no_other(tiny_run: Any) -> None:
    cache = open_cache(tiny_run.data, "test", tiny_run.cache_dir)
    passes = tally(Constant(), cache, classes=3, device=CPU, batch_size=4)
    counted = exhausted(passes)
    only = replace(counted, confusion=np.diag([10, 0, 0]))
    assert judge(only, tiny_run.data.class_names, ())[0] is Verdict.OK
    assert judge(counted, tiny_run.data.class_names, ())[0] is Verdict.SINGLE_CLASS


def test_a_split_of_ignored_pixels_alone_has_no_figure_and_says_why(tiny_run: Any) -> None:
    cache = open_cache(tiny_run.data, "test", tiny_run.cache_dir)
    counted = exhausted(tally(Constant(), cache, classes=3, device=CPU, batch_size=4))
    nothing = replace(counted, confusion=np.zeros((3, 3), dtype=np.int64), counted_pixels=0)
    verdict, message = judge(nothing, tiny_run.data.class_names, ())
    assert (verdict, "ignored" in message) == (Verdict.OK, True)
    assert score(nothing.confusion).miou is None
