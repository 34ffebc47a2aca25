"""Checkpoints in, reports out: on a tiny set, in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from segwatch.data.cache import open_cache
from segwatch.errors import ConfigError
from segwatch.evaluator import evaluate, overlays
from segwatch.evaluator.evaluate import DeviceLostError, Evaluator, judge, ran_out_of_memory, resolve_device, tries_of
from segwatch.evaluator.metrics import confusion, score
from segwatch.evaluator.report import (
    Answer,
    Done,
    EvaluationReport,
    Refused,
    Request,
    Scored,
    Verdict,
    Working,
    report_path,
)
from segwatch.evaluator.scoring import tally
from segwatch.trainer.unet import UNet

MakeNetwork = Callable[..., UNet]
CPU = torch.device("cpu")


@pytest.fixture
def evaluator(tiny_run: Any) -> Evaluator:
    return Evaluator(tiny_run.spec())


def reports(run: Any, answers: Sequence[Answer]) -> dict[str, EvaluationReport]:
    scored = [answer for answer in answers if isinstance(answer, Scored)]
    return {
        answer.split: EvaluationReport.model_validate_json((run.directory / answer.report).read_bytes())
        for answer in scored
    }


def refusal(answers: Sequence[Answer]) -> Refused:
    assert isinstance(answers[-1], Done)
    assert isinstance(answers[-2], Refused)
    return answers[-2]


def reference(run: Any, split: str, net: UNet) -> np.ndarray:
    """The matrix by numpy, an image at a time, straight from the files."""
    cache = open_cache(run.data, split, run.cache_dir)
    total = np.zeros((3, 3), dtype=np.int64)
    with torch.inference_mode():
        for index in range(len(cache)):
            item = cache.item(index)
            image = torch.from_numpy(item[..., :3].copy()).permute(2, 0, 1)[None].float() / 255
            total += confusion(item[..., 3], net(image).argmax(1)[0].numpy(), 3)
    return total


def test_the_report_holds_the_matrix_of_the_numpy_reference(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork
) -> None:
    net = make_network()
    found = reports(tiny_run, list(evaluator.evaluate(tiny_run.save(net))))
    assert set(found) == {"val", "test"}
    for split, report in found.items():
        expected = reference(tiny_run, split, net)
        assert np.count_nonzero(expected) > 3, "the untrained network must predict more than one class"
        assert report.confusion == expected.tolist()
        assert report.scores == score(expected)
        assert report.verdict is Verdict.OK
        assert report.counted_pixels == expected.sum()


def test_the_report_says_what_was_scored_on_what(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork
) -> None:
    request = tiny_run.save(make_network(), epoch=3)
    report = reports(tiny_run, list(evaluator.evaluate(request)))["test"]
    assert (report.attempt, report.epoch, report.step, report.split) == (1, 3, 30, "test")
    assert report.checkpoint_sha256 == request.sha256
    assert report.data_fingerprint == tiny_run.data.fingerprint("test")
    assert report.class_ids == (0, 4, 7)
    assert (report.images, report.skipped_images, report.device) == (5, 1, "cpu")
    pixels = sum(32 * 40 if index % 2 == 0 else 37 * 33 for index in range(5))
    assert report.counted_pixels + report.ignored_pixels == pixels
    assert report.ignored_pixels > 0
    assert report.policy == (
        "mean over the 3 classes with truth or prediction, of the 3 in use; scaled to 1; id 255 and unused ids ignored"
    )


def test_the_report_is_strict_json_and_lies_there_before_it_is_announced(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork
) -> None:
    announced = 0
    for answer in evaluator.evaluate(tiny_run.save(make_network())):
        if isinstance(answer, Scored):
            path = report_path(tiny_run.directory, answer.attempt, answer.epoch, answer.split)
            assert tiny_run.directory / answer.report == path
            json.loads(path.read_text(), parse_constant=pytest.fail)
            announced += 1
    assert announced == 2


def test_batch_size_does_not_change_a_score(tiny_run: Any, make_network: MakeNetwork) -> None:
    request = tiny_run.save(make_network())
    matrices = []
    for batch_size in (1, 2, 16):
        answers = list(Evaluator(tiny_run.spec(batch_size=batch_size)).evaluate(request))
        matrices.append(reports(tiny_run, answers)["test"].confusion)
    assert matrices[0] == matrices[1] == matrices[2]


def test_progress_counts_to_the_number_of_images_of_each_split(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork
) -> None:
    working = [answer for answer in evaluator.evaluate(tiny_run.save(make_network())) if isinstance(answer, Working)]
    assert [(w.done, w.total) for w in working if w.what == "val"] == [(2, 3), (3, 3)]
    assert [(w.done, w.total) for w in working if w.what == "test"] == [(2, 5), (3, 5), (5, 5)]


def test_loading_tells_its_progress_over_both_splits(tiny_run: Any, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    spec = tiny_run.spec().model_copy(update={"cache_dir": tmp_path / "fresh"})
    Evaluator(spec, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 8) for done in range(1, 9)]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("statistic", ["running_mean", "running_var"])
def test_a_poisoned_batchnorm_is_not_finite_and_has_no_score(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork, statistic: str, value: float
) -> None:
    net = make_network()
    getattr(net.down1.maxpool_conv[1].double_conv[1], statistic)[0] = value
    found = reports(tiny_run, list(evaluator.evaluate(tiny_run.save(net))))
    for report in found.values():
        assert report.verdict is Verdict.NOT_FINITE
        assert report.scores is None
        assert report.confusion is None
        assert report.policy.startswith("no score")
        assert f"down1.maxpool_conv.1.double_conv.1.{statistic}" in report.message


def test_logits_that_overflow_though_all_weights_are_finite_have_no_score(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork
) -> None:
    net = make_network()
    with torch.no_grad():
        net.up4.conv.double_conv[4].bias.fill_(10)
        net.outc.conv.weight.fill_(3e38)
    report = reports(tiny_run, list(evaluator.evaluate(tiny_run.save(net))))["val"]
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
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork
) -> None:
    net = make_network()
    with torch.no_grad():
        net.outc.conv.bias.copy_(torch.tensor([0.0, 1e9, 0.0]))
    report = reports(tiny_run, list(evaluator.evaluate(tiny_run.save(net))))["test"]
    assert report.verdict is Verdict.SINGLE_CLASS
    assert report.scores is not None
    assert report.scores.per_class[1].accuracy == 1.0
    assert report.message == "'road' is predicted everywhere; the truth has 3 classes"


def test_one_class_is_right_where_the_truth_has_no_other(tiny_run: Any) -> None:
    cache = open_cache(tiny_run.data, "test", tiny_run.cache_dir)
    passes = tally(_Constant(), cache, classes=3, device=CPU, batch_size=4)
    counted = _exhausted(passes)
    only = replace(counted, confusion=np.diag([10, 0, 0]))
    assert judge(only, cache, tiny_run.data.class_names, ())[0] is Verdict.OK
    assert judge(counted, cache, tiny_run.data.class_names, ())[0] is Verdict.SINGLE_CLASS


def test_a_split_of_ignored_pixels_alone_has_no_figure_and_says_why(tiny_run: Any) -> None:
    cache = open_cache(tiny_run.data, "test", tiny_run.cache_dir)
    counted = _exhausted(tally(_Constant(), cache, classes=3, device=CPU, batch_size=4))
    nothing = replace(counted, confusion=np.zeros((3, 3), dtype=np.int64), counted_pixels=0)
    verdict, message = judge(nothing, cache, tiny_run.data.class_names, ())
    assert (verdict, "ignored" in message) == (Verdict.OK, True)
    assert score(nothing.confusion).miou is None


def test_weights_that_changed_after_the_commit_are_corrupt(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork
) -> None:
    request = tiny_run.save(make_network())
    weights = tiny_run.directory / "checkpoints" / "checkpoint_epoch1.pth"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    assert refusal(list(evaluator.evaluate(request))).reason == "corrupt"
    assert not (tiny_run.directory / "evaluations").exists()


def test_other_bytes_than_the_daemon_knows_of_are_corrupt(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork
) -> None:
    request = tiny_run.save(make_network()).model_copy(update={"sha256": "0" * 64})
    assert refusal(list(evaluator.evaluate(request))).reason == "corrupt"


def test_a_manifest_that_is_none_is_corrupt(tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork) -> None:
    request = tiny_run.save(make_network())
    (tiny_run.directory / request.manifest).write_text("{}")
    assert refusal(list(evaluator.evaluate(request))).reason == "corrupt"


@pytest.mark.parametrize("gone", ["checkpoint_epoch1.json", "checkpoint_epoch1.pth"])
def test_a_checkpoint_that_was_moved_aside_is_missing(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork, gone: str
) -> None:
    request = tiny_run.save(make_network())
    (tiny_run.directory / "checkpoints" / gone).unlink()
    answer = refusal(list(evaluator.evaluate(request)))
    assert answer.reason == "missing"
    assert gone in answer.message


def test_an_epoch_whose_name_another_attempt_has_taken_is_missing_and_not_corrupt(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork
) -> None:
    request = tiny_run.save(make_network(), attempt=2).model_copy(update={"attempt": 1})
    answer = refusal(list(evaluator.evaluate(request)))
    assert answer.reason == "missing"
    assert "attempt 2" in answer.message


def test_another_number_of_classes_is_foreign(tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork) -> None:
    request = tiny_run.save(make_network(classes=4), classes=4)
    answer = refusal(list(evaluator.evaluate(request)))
    assert answer.reason == "foreign"
    assert "4 classes, this run has 3" in answer.message


def test_other_class_ids_are_foreign_even_if_they_are_as_many(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork
) -> None:
    answer = refusal(list(evaluator.evaluate(tiny_run.save(make_network(), class_ids=(0, 4, 8)))))
    assert answer.reason == "foreign"
    assert "[0, 4, 8]" in answer.message


def test_tensors_of_another_shape_are_foreign_and_the_first_are_named(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork
) -> None:
    request = tiny_run.save(make_network(base_channels=3), base_channels=2)
    answer = refusal(list(evaluator.evaluate(request)))
    assert answer.reason == "foreign"
    assert "inc.double_conv.0.weight is (3, 3, 3, 3), not (2, 3, 3, 3)" in answer.message
    assert "more" in answer.message


def test_networks_of_another_width_are_scored_one_after_another(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork
) -> None:
    for epoch, base_channels in enumerate((2, 3, 2), start=1):
        net = make_network(base_channels=base_channels)
        answers = list(evaluator.evaluate(tiny_run.save(net, epoch=epoch, base_channels=base_channels)))
        assert reports(tiny_run, answers)["val"].confusion == reference(tiny_run, "val", net).tolist()


def test_what_nobody_foresaw_is_refused_with_its_message_and_the_next_request_is_served(
    tiny_run: Any,
    evaluator: Evaluator,
    make_network: MakeNetwork,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    request = tiny_run.save(make_network())
    with monkeypatch.context() as patched:
        patched.setattr(evaluate, "score", _raising(KeyError("nobody knows")))
        answer = refusal(list(evaluator.evaluate(request)))
    assert (answer.reason, answer.message) == ("error", "KeyError: 'nobody knows'")
    assert "Traceback" in caplog.text
    assert set(reports(tiny_run, list(evaluator.evaluate(request)))) == {"val", "test"}


def test_a_split_that_is_not_loaded_is_refused_by_name(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork
) -> None:
    request = tiny_run.save(make_network()).model_copy(update={"splits": ("val", "holdout")})
    answers = list(evaluator.evaluate(request))
    assert set(reports(tiny_run, answers)) == {"val"}
    assert "no split 'holdout'" in refusal(answers).message


def test_a_device_that_answers_no_more_ends_the_evaluator_after_the_refusal(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = RuntimeError("CUDA error: device-side assert triggered")

    def from_now_on_everything_fails(*_: Any, **__: Any) -> None:
        monkeypatch.setattr(torch, "zeros", _raising(fault))
        raise fault

    monkeypatch.setattr(evaluate, "tally", from_now_on_everything_fails)
    answers = evaluator.evaluate(tiny_run.save(make_network()))
    assert [type(next(answers)) for _ in range(2)] == [Refused, Done]
    with pytest.raises(DeviceLostError):
        next(answers)


def test_a_device_whose_memory_is_full_works_and_one_that_fails_does_not(
    tiny_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "zeros", _raising(torch.OutOfMemoryError("CUDA out of memory")))
    assert evaluate.answers(CPU)
    monkeypatch.setattr(torch, "zeros", _raising(RuntimeError("CUDA error: unknown error")))
    with pytest.raises(DeviceLostError):
        Evaluator(tiny_run.spec())


def test_out_of_memory_halves_the_batch_until_it_fits(
    tiny_run: Any, make_network: MakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def small_memory(*arguments: Any, batch_size: int, **options: Any) -> Generator[int, None, Any]:
        tried.append(batch_size)
        if batch_size > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return (yield from tally(*arguments, batch_size=batch_size, **options))

    net = make_network()
    monkeypatch.setattr(evaluate, "tally", small_memory)
    found = reports(tiny_run, list(Evaluator(tiny_run.spec(batch_size=6)).evaluate(tiny_run.save(net))))
    assert tried == [6, 3, 1, 1], "the second split begins with the batch that fitted"
    assert found["test"].confusion == reference(tiny_run, "test", net).tolist()


def test_not_even_one_image_in_memory_is_refused_as_out_of_memory(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "tally", _raising(torch.OutOfMemoryError("CUDA out of memory")))
    assert refusal(list(evaluator.evaluate(tiny_run.save(make_network())))).reason == "out-of-memory"


def test_behind_a_gpu_stands_the_cpu_with_one_image() -> None:
    gpu = torch.device("cuda", 1)
    assert [(str(entry.device), entry.batch_size) for entry in tries_of(gpu, 4)] == [
        ("cuda:1", 4),
        ("cuda:1", 2),
        ("cuda:1", 1),
        ("cpu", 1),
    ]
    assert [entry.batch_size for entry in tries_of(CPU, 5)] == [5, 2, 1]


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            True,
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (OSError("out of memory"), False),
    ],
)
def test_the_ends_of_memory_are_told_from_other_errors(error: BaseException, memory: bool) -> None:
    assert ran_out_of_memory(error) is memory


@pytest.mark.parametrize("name", ["cuda:64", "cuda:x", "mps", ""])
def test_a_device_that_is_not_there_is_a_mistake_in_the_configuration(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_device(name)
    assert caught.value.where == "evaluator.device"
    assert caught.value.remedy


def test_auto_takes_the_first_gpu_and_else_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert str(resolve_device("auto")) == "cuda:0"
    assert str(resolve_device("cuda:1")) == "cuda:1"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert str(resolve_device("auto")) == "cpu"


def test_test_gets_a_picture_and_val_does_not(tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork) -> None:
    list(evaluator.evaluate(tiny_run.save(make_network(), epoch=2)))
    pictures = list((tiny_run.directory / "evaluations" / "overlays").iterdir())
    assert pictures == [overlays.overlay_path(tiny_run.directory, 1, 2)]


def test_a_picture_that_fails_leaves_the_score_alone(
    tiny_run: Any,
    evaluator: Evaluator,
    make_network: MakeNetwork,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(overlays, "draw", _raising(OSError("no font")))
    answers = list(evaluator.evaluate(tiny_run.save(make_network())))
    assert [answer.split for answer in answers if isinstance(answer, Scored)] == ["val", "test"]
    assert not [answer for answer in answers if isinstance(answer, Refused)]
    assert "no font" in caplog.text


class _Constant(torch.nn.Module):
    """Predicts class 0 everywhere."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(images), 3, *images.shape[2:])
        logits[:, 0] = 1
        return logits


def _exhausted(passes: Generator[int, None, Any]) -> Any:
    while True:
        try:
            next(passes)
        except StopIteration as stop:
            return stop.value


def _raising(error: BaseException) -> Callable[..., Any]:
    def raise_it(*_: Any, **__: Any) -> Any:
        raise error

    return raise_it


def test_an_empty_split_has_no_score(tiny_run: Any) -> None:
    empty = tiny_run.data.model_copy(update={"splits": {"test": ()}})
    cache = open_cache(empty, "test", tiny_run.cache_dir)
    with pytest.raises(ValueError, match="without images"):
        _exhausted(tally(_Constant(), cache, classes=3, device=CPU, batch_size=1))


def test_a_request_for_the_same_checkpoint_gives_the_same_report(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork
) -> None:
    request: Request = tiny_run.save(make_network())
    first, second = (reports(tiny_run, list(evaluator.evaluate(request)))["val"] for _ in range(2))
    assert first.model_copy(update={"seconds": 0.0}) == second.model_copy(update={"seconds": 0.0})
