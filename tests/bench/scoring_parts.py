"""Scoring a checkpoint and counting its pixels, against the bare forward pass and the common way."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import torch
from segwatch.checkpoints.files import Identity, commit
from segwatch.checkpoints.manifest import Architecture, Role
from segwatch.data.batches import load_batch, to_device
from segwatch.data.cache import open_cache
from segwatch.data.resolved import ResolvedData
from segwatch.evaluator.evaluate import Evaluator
from segwatch.evaluator.report import EvaluatorSpec, Request, Scored
from segwatch.evaluator.scoring import _BatchCounts, batches_of_one_size, tally
from segwatch.trainer.unet import UNet

from .common_way import confusion_of
from .profile import profiled
from .scenes import CLASSES, make_data, make_spec
from .table import Row, Times, at_most, below, by_turns, faster, growth, seconds, spoken
from .training_parts import ON_GPU, device, named, ours, waited

MAP = (1024, 1224)
COUNTED = 14
BASES = (16, 64)
"""Channels at full size: a small network, where all but its forward pass weighs most, and the published one."""
IMAGES = 12


def scoring(place: Path, rounds: int = 5) -> Iterator[Row]:
    """One more checkpoint, the evaluator running, against the forward pass alone over the same batches."""
    taken = []
    data = make_data(place / "scenes-score", size=(180, 240), train=1, test=IMAGES)
    cache = open_cache(data, "test", place / "cache")
    for base in BASES:
        network = UNet(classes=CLASSES, base_channels=base).to(device(), memory_format=torch.channels_last).eval()
        batches = batches_of_one_size([cache.size(index) for index in range(len(cache))], 4)
        inputs = [to_device(load_batch(cache, indices), device())[0] for indices in batches]

        def score(network=network) -> None:
            for _ in tally(network, cache, classes=CLASSES, device=device(), batch_size=4):
                pass

        def forward(network=network, inputs=inputs) -> None:
            with torch.inference_mode():
                for images in inputs:
                    network(images)

        times = by_turns(waited(score), waited(forward), rounds if base == BASES[-1] else 3 * rounds)
        taken.append(times.mine)
        size = f"UNet-{base}, {IMAGES} images of 240x180"
        note = profiled(waited(score))
        yield at_most("scoring", "next checkpoint", size, times, against="bare forward", goal=1.05, note=note)
    yield growth("scoring", "next checkpoint", [base**2 for base in BASES], taken)
    yield from whole(place, rounds)
    yield fresh_process(place, rounds)


def whole(place: Path, rounds: int = 5, counts: tuple[int, ...] = (12, 96)) -> Iterator[Row]:
    """All that one more checkpoint costs an evaluator: hash, load, forward passes, counting, report and pictures."""
    taken = []
    for images in counts:
        data = make_data(place / f"scenes-whole-{images}", size=(180, 240), train=1, test=images)
        spec = make_spec(place / f"whole-{images}", data)
        requests = itertools.cycle([_committed(spec.run_dir, data, epoch) for epoch in (1, 2)])
        evaluator = Evaluator(
            EvaluatorSpec(
                run_dir=spec.run_dir, cache_dir=place / "cache", device=str(device()), batch_size=4,
                threads=torch.get_num_threads(),
            )
        )  # fmt: skip
        cache = open_cache(data, "test", place / "cache")
        network = UNet(classes=CLASSES, base_channels=16).to(device(), memory_format=torch.channels_last).eval()
        batches = batches_of_one_size([cache.size(index) for index in range(len(cache))], 4)
        inputs = [to_device(load_batch(cache, indices), device())[0] for indices in batches]

        def evaluate(evaluator=evaluator, requests=requests) -> None:
            answers = list(evaluator.evaluate(next(requests)))
            assert any(isinstance(answer, Scored) for answer in answers), answers

        def forward(network=network, inputs=inputs) -> None:
            with torch.inference_mode():
                for one in inputs:
                    network(one)

        times = by_turns(waited(evaluate), waited(forward), rounds)
        taken.append(times.mine)
        spent = median(mine - bare for mine, bare in zip(times.ours, times.other, strict=True))
        note = f"{spoken(max(spent, 0.0))} besides: hash, load, count, report, and three pictures that do not grow"
        size = f"UNet-16, {images} images of 240x180"
        yield at_most(
            "scoring", "next checkpoint, all of it", size, times, against="bare forward", goal=1.05, note=note
        )
    yield growth("scoring", "next checkpoint, all of it", counts, taken)


def _committed(run_dir: Path, data: ResolvedData, epoch: int) -> Request:
    """Two of them by turns: the weights of the one that was scored last would not be filled in again."""
    torch.manual_seed(epoch)
    manifest = commit(
        run_dir / "checkpoints",
        Identity(1, data.class_ids, data.class_names, Architecture(base_channels=16, classes=CLASSES), "bench"),
        role=Role.EPOCH,
        epoch=epoch,
        step=epoch,
        step_in_epoch=0,
        weights=UNet(classes=CLASSES, base_channels=16).state_dict(),
        state=None,
    )
    return Request(
        manifest=f"checkpoints/{manifest.stem}.json", attempt=1, epoch=epoch, sha256=manifest.weights.sha256,
        splits=("test",),
    )  # fmt: skip


def fresh_process(place: Path, rounds: int) -> Row:
    """The common way pays for a start at every checkpoint; segwatch at the first alone."""
    root = place / "scenes-score"
    data = make_data(root, size=(180, 240), train=1, test=IMAGES)
    cache = open_cache(data, "test", place / "cache")
    network = UNet(classes=CLASSES, base_channels=16).eval()
    torch.save(network.state_dict(), place / "weights.pth")
    here = [str(root / "images/test"), str(root / "masks/test")]
    command = [
        sys.executable,
        "-m",
        "tests.bench.common_way",
        str(place / "weights.pth"),
        str(CLASSES),
        "16",
        *here,
        "1",
    ]
    network.to(device(), memory_format=torch.channels_last)
    times = by_turns(
        lambda: list(tally(network, cache, classes=CLASSES, device=device(), batch_size=4)),
        lambda: subprocess.run(command, check=True),
        min(rounds, 5),
    )
    what, size = "next checkpoint, start and all", f"UNet-16, {IMAGES} images of 240x180"
    return faster("scoring", what, size, times, against="fresh process, common way", goal=None)


def counting(place: Path, rounds: int = 5) -> Iterator[Row]:
    """A map of logits into a confusion matrix: argmax, counting by image, and the look for what is not finite."""
    taken = []
    for height, width in ((MAP[0] // 2, MAP[1] // 2), MAP):
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(1, COUNTED, height, width, generator=generator).to(device())
        logits = logits.to(memory_format=torch.channels_last)  # as the network leaves them
        truth = torch.randint(0, COUNTED, (1, height, width), dtype=torch.uint8, generator=generator).to(device())

        def count(logits=logits, truth=truth) -> None:
            counts = _BatchCounts((0,), COUNTED, device(), ())
            counts.count(counts.looked_at([(0, logits)]), truth)

        size = f"{width}x{height}, {COUNTED} classes"
        masks = truth.long()
        times = by_turns(waited(count), waited(lambda: confusion_of(logits, masks, COUNTED)), rounds)
        yield faster("counting", "a map", size, times, against="common way", goal=None)
        taken.append(times.mine)
        if (height, width) == MAP:
            note = f"{_floors(logits)}; {profiled(waited(count))}"
            yield below("counting", "a map, all of it", size, times.mine * 1e3, 5, "ms", note)
        yield from _against_torchmetrics(size, count, logits, masks, rounds)
        yield from _against_sklearn(size, count, logits, masks, rounds)
    yield growth("counting", "a map", [1, 4], taken)


def _floors(logits: torch.Tensor) -> str:
    """What any way has to do at least: read each logit for the largest of its pixel, and tell of which class it is."""
    times = by_turns(waited(lambda: logits.amax(dim=1)), waited(lambda: logits.argmax(dim=1)))
    return f"floors: amax alone {spoken(times.mine)}, argmax alone {spoken(times.theirs)} in torch"


def _against_torchmetrics(size, count, logits, masks, rounds) -> Iterator[Row]:
    from torchmetrics.classification import MulticlassConfusionMatrix  # takes seconds to import

    metric = MulticlassConfusionMatrix(COUNTED, ignore_index=255).to(logits.device)
    times = by_turns(waited(count), waited(lambda: metric.update(logits, masks)), rounds)
    yield faster("counting", "a map", size, times, against="torchmetrics", goal=None)


def _against_sklearn(size, count, logits, masks, rounds) -> Iterator[Row]:
    from sklearn.metrics import confusion_matrix  # takes seconds to import

    truth, classes = masks.flatten().cpu().numpy(), range(COUNTED)

    def theirs() -> None:
        confusion_matrix(truth, logits.argmax(dim=1).flatten().cpu().numpy(), labels=classes)

    times = by_turns(waited(count), theirs, rounds)
    yield faster("counting", "a map", size, times, against="scikit-learn", goal=None)


def shared_gpu(place: Path, rounds: int = 5) -> Iterator[Row]:
    """On a GPU: a training step while another process scores there, against one that has the GPU to itself."""
    if device().type != "cuda":
        return
    mine = ours(place, ON_GPU)
    alone, beside = [], []
    command = [sys.executable, "-m", "tests.bench.scoring_parts", str(place)]
    for _ in range(rounds):
        alone.append(seconds(waited(lambda: [mine.step() for _ in range(50)])))
        scorer = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            assert scorer.stdout is not None
            assert scorer.stdout.readline() == b"scoring\n"
            beside.append(seconds(waited(lambda: [mine.step() for _ in range(50)])))
        finally:
            scorer.terminate()
            scorer.wait()
    times = Times(tuple(beside), tuple(alone))
    yield at_most("scoring", "training beside it", named(ON_GPU), times, against="alone", goal=1.03)


def keep_scoring(place: Path) -> None:
    """Until it is ended."""
    data = make_data(place / "scenes-beside", size=ON_GPU[2:], train=1, test=IMAGES)
    cache = open_cache(data, "test", place / "cache")
    network = UNet(classes=CLASSES, base_channels=16).to(device(), memory_format=torch.channels_last).eval()
    told = threading.Event()
    while True:
        for _ in tally(network, cache, classes=CLASSES, device=device(), batch_size=4):
            if not told.is_set():
                told.set()
                print("scoring", flush=True)


if __name__ == "__main__":
    keep_scoring(Path(sys.argv[1]))
