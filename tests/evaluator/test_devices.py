"""Memory that ends and devices that fail: a score where there can be one, and the reason where not."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import torch
from segwatch.errors import ConfigError
from segwatch.evaluator import evaluate
from segwatch.evaluator.evaluate import DeviceLostError, Evaluator, ran_out_of_memory, resolve_device, tries_of
from segwatch.evaluator.report import (
    Done,
    Refused,
)
from segwatch.evaluator.scoring import tally

from .scored import (
    CPU,
    MakeNetwork,
    raising,
    reference,
    refusal,
    reports,
)


def test_a_device_that_answers_no_more_ends_the_evaluator_after_the_refusal(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = RuntimeError("CUDA error: device-side assert triggered")

    def from_now_on_everything_fails(*_: Any, **__: Any) -> None:
        monkeypatch.setattr(torch, "zeros", raising(fault))
        raise fault

    monkeypatch.setattr(evaluate, "tally", from_now_on_everything_fails)
    answers = evaluator.evaluate(tiny_run.save(make_network()))
    assert [type(next(answers)) for _ in range(2)] == [Refused, Done]
    with pytest.raises(DeviceLostError):
        next(answers)


def test_a_device_whose_memory_is_full_works_and_one_that_fails_does_not(
    tiny_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "zeros", raising(torch.OutOfMemoryError("CUDA out of memory")))
    assert evaluate.answers(CPU)
    monkeypatch.setattr(torch, "zeros", raising(RuntimeError("CUDA error: unknown error")))
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
    monkeypatch.setattr(evaluate, "tally", raising(torch.OutOfMemoryError("CUDA out of memory")))
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
