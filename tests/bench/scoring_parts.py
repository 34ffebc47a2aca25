"""Scoring a checkpoint and counting its pixels, against the bare forward pass and the common way."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import torch
from segwatch.data.batches import load_batch, to_device
from segwatch.data.cache import open_cache
from segwatch.evaluator.scoring import _BatchCounts, batches_of_one_size, tally
from segwatch.trainer.unet import UNet

from .common_way import confusion_of
from .profile import profiled
from .scenes import CLASSES, make_data
from .table import Row, Times, at_most, below, by_turns, faster, growth, seconds
from .training_parts import LARGE, device, named, ours, waited

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
    yield fresh_process(place, rounds)


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
    """A map of logits into a confusion matrix, besides argmax and with it."""
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
        note = "argmax, counting by image, and the look for what is not finite"
        yield faster("counting", "a map", size, times, against="common way", goal=None, note=note)
        alone = by_turns(waited(count), waited(lambda logits=logits: logits.argmax(dim=1)), rounds)
        besides = median(mine - theirs for mine, theirs in zip(alone.ours, alone.other, strict=True))
        taken.append(alone.mine)
        if (height, width) == MAP:
            note = f"argmax itself takes {alone.theirs * 1e3:.3g} ms in torch"
            yield below("counting", "besides argmax", size, besides * 1e3, 5, "ms", note)
        yield from _against_torchmetrics(size, count, logits, masks, rounds)
    yield growth("counting", "a map", [1, 4], taken)


def _against_torchmetrics(size, count, logits, masks, rounds) -> Iterator[Row]:
    from torchmetrics.classification import MulticlassConfusionMatrix  # takes seconds to import

    metric = MulticlassConfusionMatrix(COUNTED, ignore_index=255).to(logits.device)
    times = by_turns(waited(count), waited(lambda: metric.update(logits, masks)), rounds)
    yield faster("counting", "a map", size, times, against="torchmetrics", goal=None)


def shared_gpu(place: Path, rounds: int = 5) -> Iterator[Row]:
    """On a GPU: a training step while another process scores there, against one that has the GPU to itself."""
    if device().type != "cuda":
        return
    mine = ours(place, LARGE)
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
    yield at_most("scoring", "training beside it", named(LARGE), times, against="alone", goal=1.03)


def keep_scoring(place: Path) -> None:
    """Until it is ended."""
    data = make_data(place / "scenes-score", size=(180, 240), train=1, test=IMAGES)
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
