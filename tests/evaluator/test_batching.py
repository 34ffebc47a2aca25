"""The batch size by measurement: found cheaply, once, and never visible in a score."""

from __future__ import annotations

from queue import SimpleQueue
from typing import Any

import pytest
import torch
from segwatch.data.cache import open_cache
from segwatch.evaluator import __main__, batching, evaluate
from segwatch.evaluator.batching import choose, sample
from segwatch.evaluator.evaluate import Evaluator
from segwatch.evaluator.report import Done, Request
from segwatch.evaluator.scoring import batches_of_one_size
from segwatch.evaluator.windows import WHOLE, Window
from torch import Tensor, nn

from .scored import CPU, MODES, MakeNetwork, raising, reference, reports


class Timed(nn.Module):
    """Takes as long as `seconds` says for a batch of each size, by the clock of `batching`."""

    def __init__(self, seconds: dict[int, float]) -> None:
        super().__init__()
        self.now = 0.0
        self.images = 0
        self._seconds = seconds

    def perf_counter(self) -> float:
        return self.now

    def forward(self, images: Tensor) -> Tensor:
        self.now += self._seconds[len(images)]
        self.images += len(images)
        return self.logits(images)

    def logits(self, images: Tensor) -> Tensor:
        return images.sum(dim=1, keepdim=True).repeat(1, 3, 1, 1)


def measured(network: Timed, monkeypatch: pytest.MonkeyPatch, *, images: int = 4) -> batching.Choice:
    monkeypatch.setattr(batching, "time", network)
    return choose(network, torch.rand(images, 3, 4, 4))


def test_where_one_image_at_a_time_is_the_fastest_nine_images_show_it(monkeypatch):
    network = Timed({1: 0.1, 2: 0.2, 4: 0.04})
    choice = measured(network, monkeypatch)
    assert choice.batch_size == 1
    assert network.images == 9
    assert choice.because == "1 image at once: 10 images/s by 1, 10 images/s by 2"


def test_batches_grow_while_each_pays(monkeypatch):
    assert measured(Timed({1: 0.1, 2: 0.15, 4: 0.2}), monkeypatch).batch_size == 4
    assert measured(Timed({1: 0.1, 2: 0.15, 4: 0.29}), monkeypatch).batch_size == 2


def test_a_batch_that_changes_one_bit_is_not_taken_however_fast(monkeypatch):
    class Rounded(Timed):
        def logits(self, images: Tensor) -> Tensor:
            sums = super().logits(images)
            return torch.nextafter(sums, sums + 1) if len(images) == 4 else sums

    choice = measured(Rounded({1: 0.1, 2: 0.1, 4: 0.1}), monkeypatch)
    assert choice.batch_size == 2
    assert choice.because == "2 images at once: 4 would change the logits"


def test_a_network_of_nan_is_measured_like_any_other(monkeypatch):
    class Broken(Timed):
        def logits(self, images: Tensor) -> Tensor:
            return super().logits(images) * float("nan")

    assert measured(Broken({1: 0.1, 2: 0.1, 4: 0.1}), monkeypatch).batch_size == 4


def test_without_two_images_of_one_size_nothing_is_measured(monkeypatch):
    network = Timed({1: 0.1})
    assert measured(network, monkeypatch, images=1).batch_size == 1
    assert network.images == 0


def test_what_is_measured_is_what_the_network_will_see_of_every_image(tiny_run: Any) -> None:
    cache = open_cache(tiny_run.data, "test", tiny_run.cache_dir)
    windows = sample([cache], Window(16, 0.5), CPU)
    assert windows is not None
    assert windows.shape == (4, 3, 16, 16)


def test_images_of_several_sizes_go_by_the_usual_number_since_each_would_have_to_be_looked_at(tiny_run: Any) -> None:
    cache = open_cache(tiny_run.data, "test", tiny_run.cache_dir)
    assert sample([cache], WHOLE, CPU) is None
    assert choose(nn.Identity(), None).batch_size == 4


def test_what_is_left_over_goes_in_sizes_that_were_compared() -> None:
    assert [len(batch) for batch in batches_of_one_size(["a"] * 7, 4)] == [4, 2, 1]
    assert [len(batch) for batch in batches_of_one_size(["a"] * 11, 6)] == [6, 3, 1, 1]


@pytest.mark.parametrize("mode", list(MODES.values()), ids=list(MODES))
def test_measuring_happens_once_for_a_process_and_does_not_show_in_a_score(
    tiny_run: Any, make_network: MakeNetwork, monkeypatch: pytest.MonkeyPatch, mode: dict[str, Any]
) -> None:
    asked: list[batching.Choice] = []

    def chosen(*arguments: Any) -> batching.Choice:
        asked.append(choose(*arguments))
        return asked[-1]

    monkeypatch.setattr(evaluate, "choose", chosen)
    evaluator = Evaluator(tiny_run.spec(batch_size=None, **mode))
    one_by_one = Evaluator(tiny_run.spec(batch_size=1, **mode))
    for epoch in (1, 2):
        request = tiny_run.save(make_network(seed=epoch), epoch=epoch)
        slow = reports(tiny_run, list(one_by_one.evaluate(request)))["test"]
        found = reports(tiny_run, list(evaluator.evaluate(request)))["test"]
        assert found.confusion == slow.confusion
        assert (found.batch_size, found.batch_choice) == (asked[0].batch_size, asked[0].because)
        assert (slow.batch_size, slow.batch_choice) == (1, "")
    assert len(asked) == 1


def test_memory_that_ends_while_measuring_leaves_one_image_at_once(
    tiny_run: Any, make_network: MakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "choose", raising(torch.OutOfMemoryError("CUDA out of memory")))
    net = make_network()
    found = reports(tiny_run, list(Evaluator(tiny_run.spec(batch_size=None)).evaluate(tiny_run.save(net))))["test"]
    assert found.confusion == reference(tiny_run, "test", net).tolist()
    assert found.batch_size == 1


def test_what_was_released_is_built_anew_for_the_next_request(
    tiny_run: Any, make_network: MakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    emptied: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    evaluator, request = Evaluator(tiny_run.spec()), tiny_run.save(make_network())
    before = reports(tiny_run, list(evaluator.evaluate(request)))["test"]
    evaluator.release()
    assert not emptied, "the CPU has nothing to give back"
    assert evaluator._shell is not None
    evaluator.device = torch.device("cuda", 0)
    evaluator.release()
    assert emptied == [True]
    assert evaluator._shell is None
    evaluator.device = CPU
    assert reports(tiny_run, list(evaluator.evaluate(request)))["test"].confusion == before.confusion


@pytest.mark.parametrize(
    ("wished", "told"), [(True, ["1", "2", "released", "3", "released"]), (False, ["1", "2", "3"])]
)
def test_the_gpu_is_given_back_when_no_request_waits(
    tiny_run: Any, monkeypatch: pytest.MonkeyPatch, wished: bool, told: list[str]
) -> None:
    events: list[str] = []

    class Requests(SimpleQueue):  # type: ignore[type-arg]
        """Two at once, a third when the evaluator was idle, then the end."""

        def get(self, *arguments: Any, **named: Any) -> bytes:
            if self.empty():
                if "3" in events:
                    raise KeyboardInterrupt
                self.put(request(3))
            return super().get(*arguments, **named)  # type: ignore[no-any-return]

    class Recorded:
        def __init__(self, *_: Any, **__: Any) -> None:
            self.device = CPU

        def evaluate(self, asked: Request) -> list[Done]:
            events.append(str(asked.epoch))
            return [Done(attempt=1, epoch=asked.epoch)]

        def release(self) -> None:
            events.append("released")

    def request(epoch: int) -> bytes:
        line = Request(manifest="m", attempt=1, epoch=epoch, sha256="0", splits=("test",))
        return line.model_dump_json().encode()

    monkeypatch.setattr(evaluate, "Evaluator", Recorded)
    queue = Requests()
    queue.put(request(1))
    queue.put(request(2))
    with pytest.raises(KeyboardInterrupt):
        __main__.serve(tiny_run.spec(release_gpu=wished), queue, lambda _: None)
    assert events == told
