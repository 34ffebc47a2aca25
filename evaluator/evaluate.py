"""Scores checkpoint after checkpoint: torch, the device, the network and the pixels are loaded once.

Each answer says what became of one request; a report lies on the disk before it is announced. Knows nothing about
pipes or processes, about how a checkpoint came to be, or about what is done with its score.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from ..checkpoints.manifest import Architecture
from ..data.cache import LabelCache, PixelCache, open_cache, open_labels
from ..data.frozen import FrozenFile, fingerprint, read_frozen, require_unchanged
from ..data.resolved import ResolvedData
from ..durable import dumps, write_text
from ..errors import ConfigError
from . import confusion_picture, overlays, statistics
from .batching import Choice, choose, sample
from .foreign import read_foreign
from .judging import judge, policy
from .metrics import Scores, score
from .reading import Checkpoint, Reason, RefusalError, blueprint, read_checkpoint, refuse_foreign
from .report import (
    Answer,
    Done,
    EvaluationReport,
    EvaluatorSpec,
    PictureKind,
    Refused,
    Request,
    Scored,
    Verdict,
    Working,
    per_image_path,
    picture_path,
    report_path,
)
from .scoring import Tally, tally
from .terms import Resolution
from .windows import Window

SPLITS = ("val", "test")
WORST_IMAGES = 10
"""How many a report names."""
KEPT_BYTES = 256 << 20
"""For the predictions of all test images, a byte a pixel at the size of the network, until the score is known."""
CHANGES_NAMED = 5
"""Files that changed, in a refusal that each epoch without a score repeats; `segwatch run` names more."""

log = logging.getLogger(__name__)


class DeviceLostError(Exception):
    """The device answers no more. A CUDA fault stays in its process: only a new process helps."""


class Evaluator:
    """Scores the checkpoints of one run on its val and test splits."""

    def __init__(self, spec: EvaluatorSpec, *, progress: Callable[[int, int], None] | None = None) -> None:
        """Load everything. `progress` is told (done, total) images.

        Raises ConfigError for a device that is not there and for data that cannot be read or is not that of the run,
        DeviceLostError for a device that is there and does not work.
        """
        self.device = resolve_device(spec.device)
        self._run_dir = spec.run_dir
        self._batch = None if spec.batch_size is None else Choice(spec.batch_size, "")
        self._resolution: Resolution = spec.resolution
        self._window = Window(spec.window, spec.overlap if spec.window else 0.0)
        self._data = ResolvedData.load(spec.run_dir / spec.data_lock)
        files = require_same_files(spec, self._data)
        self._splits = load_splits(self._data, spec.cache_dir, progress, resolution=spec.resolution, files=files)
        require_same_files(spec, self._data)  # again: to load them may take minutes
        self._shell: _Shell | None = None
        self._worst_before: Sequence[int] = ()
        """Indices of the worst test images of the score before."""
        if not answers(self.device):
            raise DeviceLostError(f"{self.device} does not answer")

    def evaluate(self, request: Request) -> Iterator[Answer]:
        """Score one checkpoint: Working while at it, Scored or Refused, and Done at the end.

        Raises DeviceLostError, behind Refused and Done, where no further request could be served.
        """
        lost = False
        try:
            yield from self._evaluate(request)
        except RefusalError as refusal:
            yield _refused(request, refusal.reason, str(refusal))
        except Exception as error:
            # Boundary: one bad checkpoint must not end the evaluator, in whatever way it is bad.
            log.exception("attempt %d epoch %d could not be scored", request.attempt, request.epoch)
            yield _refused(request, "error", f"{type(error).__name__}: {error}")
            lost = not answers(self.device)
        yield Done(attempt=request.attempt, epoch=request.epoch)
        if lost:
            raise DeviceLostError(f"{self.device} answers no more")

    def _evaluate(self, request: Request) -> Iterator[Answer]:
        checkpoint = self._read(request)
        tries: Sequence[Try] = tries_of(self.device, self._chosen(checkpoint).batch_size)
        for name in request.splits:
            if name not in self._splits:
                raise ValueError(f"no split {name!r}: loaded are {', '.join(self._splits)}")
            split = self._splits[name]
            started = time.perf_counter()
            counted, tries = yield from self._tally(checkpoint, split, tries)
            report = self._report(checkpoint, split, counted, tries[0], time.perf_counter() - started)
            path = write_report(self._run_dir, report, counted.per_image)
            if counted.predictions and report.scores is not None:
                self._draw(report, report.scores, split.cache, counted)  # before it is told: TensorBoard shows it
            yield Scored(
                attempt=request.attempt,
                epoch=request.epoch,
                split=name,
                report=path.relative_to(self._run_dir).as_posix(),
            )

    def _read(self, request: Request) -> Checkpoint:
        if request.foreign:
            return read_foreign(request, self._data)
        checkpoint = read_checkpoint(self._run_dir, request)
        refuse_foreign(checkpoint, self._data)
        return checkpoint

    def _tally(
        self, checkpoint: Checkpoint, split: Split, tries: Sequence[Try]
    ) -> Generator[Working, None, tuple[Tally, Sequence[Try]]]:
        """Count with the first try whose memory suffices; return the tries from that one on, for the next split."""
        while tries:
            device, batch_size = tries[0].device, tries[0].batch_size
            try:
                passes = tally(
                    self._network(checkpoint, device),
                    split.cache,
                    classes=len(self._data.classes),
                    device=device,
                    batch_size=batch_size,
                    labels=split.labels,
                    window=self._window,
                    keep=self._to_draw(split.cache) if split.name == "test" else (),
                )
                return (yield from _working(split, passes)), tries
            except (MemoryError, RuntimeError) as error:
                if not ran_out_of_memory(error):
                    raise
                log.warning("out of memory on %s with %d images at once: %s", device, batch_size, error)
            # Behind the except clause, whose traceback still held the tensors.
            if device.type == "cuda":
                torch.cuda.empty_cache()
            tries = tries[1:]
        raise RefusalError("out-of-memory", f"not even one image of {split.name} fits into memory")

    def _chosen(self, checkpoint: Checkpoint) -> Choice:
        """How many images at once: what was set, or what the first checkpoint shows, once for this process."""
        if self._batch is None:
            try:
                images = sample([split.cache for split in self._splits.values()], self._window, self.device)
                self._batch = choose(self._network(checkpoint, self.device), images)
            except (MemoryError, RuntimeError) as error:
                if not ran_out_of_memory(error):
                    raise
                self._batch = Choice(1, "1 image at once: there is no memory to measure more")
            log.info("%s", self._batch.because)
        return self._batch

    def release(self) -> None:
        """Keep nothing on the GPU until the next request, which builds the network anew. The CPU keeps all."""
        if self.device.type == "cuda":
            self._shell = None
            torch.cuda.empty_cache()

    def _network(self, checkpoint: Checkpoint, device: torch.device) -> nn.Module:
        """The network with these weights on `device`, built and filled only where it is not already."""
        architecture = checkpoint.manifest.architecture
        if self._shell is None or (self._shell.architecture, self._shell.device) != (architecture, device):
            self._shell = None  # the old one first: there may be no room for two
            self._shell = _Shell(architecture, device)
        return self._shell.filled(checkpoint)

    def _report(
        self, checkpoint: Checkpoint, split: Split, counted: Tally, how: Try, seconds: float
    ) -> EvaluationReport:
        manifest = checkpoint.manifest
        verdict, message = judge(counted, self._data.class_names, checkpoint.nonfinite)
        scored = verdict is not Verdict.NOT_FINITE
        scores = score(counted.confusion) if scored else None
        name = report_path(self._run_dir, manifest.attempt, manifest.epoch, split.name)
        return EvaluationReport(
            attempt=manifest.attempt,
            epoch=manifest.epoch,
            step=manifest.step,
            split=split.name,
            verdict=verdict,
            scores=scores,
            confusion=counted.confusion.tolist() if scored else None,
            class_ids=self._data.class_ids,
            class_names=self._data.class_names,
            policy=policy(scores, self._data, split.name, self._resolution, self._window),
            images=counted.images,
            skipped_images=self._data.skipped.get(split.name, 0),
            ignored_pixels=counted.ignored_pixels,
            counted_pixels=counted.counted_pixels,
            seconds=round(seconds, 3),
            device=describe(how.device),
            batch_size=how.batch_size,
            batch_choice="" if self._batch is None else self._batch.because,
            checkpoint_sha256=manifest.weights.sha256,
            data_fingerprint=split.fingerprint,
            message="; ".join(filter(None, (message, *checkpoint.caveats))),
            resolution=self._resolution,
            window=self._window.side,
            overlap=self._window.overlap,
            miou_interval=statistics.miou_interval(counted.per_image) if scored else None,
            worst_images=statistics.worst_images(counted.per_image, WORST_IMAGES) if scored else (),
            per_image_foreground_dice=statistics.per_image_foreground_dice(counted.per_image) if scored else None,
            per_image=per_image_path(name).name if scored else None,
        )

    def _to_draw(self, cache: PixelCache) -> Collection[int]:
        """The images whose predictions are kept. Which are the worst is known at the end only: all, where they fit;
        else the same ones as every epoch, and those that were the worst last time.
        """
        indices = range(len(cache))
        if sum(height * width for height, width in map(cache.size, indices)) <= KEPT_BYTES:
            return indices
        return {*overlays.chosen(len(cache)), *self._worst_before}

    def _draw(self, report: EvaluationReport, scores: Scores, cache: PixelCache, counted: Tally) -> None:
        native = ", native" if report.resolution == "native" else ""  # its figures; the picture is scaled all the same
        name = f"attempt {report.attempt}, epoch {report.epoch}"
        worst = [index for index, _ in statistics.worst_places(counted.per_image, WORST_IMAGES)]
        self._worst_before = worst
        shown: dict[PictureKind, Callable[[], Image.Image]] = {
            "": lambda: self._sheet(
                overlays.chosen(len(cache)), scores, cache, counted, f"{name}, {report.split}{native}"
            ),
            "_worst": lambda: self._sheet(
                [index for index in worst if index in counted.predictions][: overlays.IMAGES],
                scores,
                cache,
                counted,
                f"{name}, worst of {report.split}{native}",
            ),
            "_confusion": lambda: confusion_picture.draw(
                counted.confusion, self._data.class_names, title=f"{name}, {report.split}"
            ),
        }
        for kind, draw in shown.items():
            try:
                overlays.write(picture_path(self._run_dir, report.attempt, report.epoch, kind), draw())
            except Exception:
                # Boundary: the score stands on the disk already, and a picture of it must not undo that.
                log.exception("no overlay%s of attempt %d epoch %d", kind, report.attempt, report.epoch)

    def _sheet(
        self, indices: Sequence[int], scores: Scores, cache: PixelCache, counted: Tally, title: str
    ) -> Image.Image:
        shown = [overlays.Shown(cache.name(i), cache.item(i), counted.predictions[i]) for i in indices]
        return overlays.draw(shown, self._data.classes, scores, title=title)


@dataclass(frozen=True)
class Split:
    """The pixels of one split, and the fingerprint of the files they came from."""

    name: str
    cache: PixelCache
    labels: LabelCache | None
    """The masks at full size, where that is what the logits are compared with."""
    fingerprint: str


@dataclass(frozen=True)
class Try:
    """One way to score a split, given the memory."""

    device: torch.device
    batch_size: int


class _Shell:
    """A network on a device that takes on one checkpoint's weights after another's."""

    def __init__(self, architecture: Architecture, device: torch.device) -> None:
        self.architecture = architecture
        self.device = device
        network = blueprint(architecture).to_empty(device=device)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub leaves it out
        self._network: nn.Module = network.eval()
        self._sha256: str | None = None

    def filled(self, checkpoint: Checkpoint) -> nn.Module:
        sha256 = checkpoint.manifest.weights.sha256
        if self._sha256 != sha256:
            self._sha256 = None  # until every tensor is copied it is nobody's
            self._network.load_state_dict(checkpoint.weights, strict=True)
            self._sha256 = sha256
        return self._network


def resolve_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N` -> a device of this machine. Raises ConfigError for one that it has not."""
    gpus = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda:0" if gpus else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    kind, _, number = name.partition(":")
    if kind == "cuda" and (not number or number.isdecimal()) and int(number or 0) < gpus:
        return torch.device("cuda", int(number or 0))
    raise ConfigError(
        f"there is no device {name!r}: torch sees {gpus} GPUs here",
        where="evaluator.device",
        remedy='set it to "auto" or "cpu"' + (f', or to "cuda:0" ... "cuda:{gpus - 1}"' if gpus else ""),
    )


def answers(device: torch.device) -> bool:
    """Whether the device works. One whose memory is full does: there is a way round that, by the CPU."""
    try:
        torch.zeros(1, device=device).item()
    except RuntimeError as error:
        return ran_out_of_memory(error)
    return True


def describe(device: torch.device) -> str:
    """`cpu`, or `cuda:0 (NVIDIA H100)`."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def require_same_files(spec: EvaluatorSpec, data: ResolvedData) -> tuple[FrozenFile, ...] | None:
    """What the run froze; `None` where nothing was frozen: a directory that is no run, a run of an older release.

    Raises ConfigError where val or test is not that any more: its scores would not compare.
    """
    path = None if spec.files is None else spec.run_dir / spec.files
    if path is None or not path.exists():
        return None
    files = read_frozen(path)
    require_unchanged(data.root, files, splits=SPLITS, where=spec.run_dir, listed=CHANGES_NAMED)
    return files


def load_splits(
    data: ResolvedData,
    cache_dir: Path,
    progress: Callable[[int, int], None] | None = None,
    *,
    resolution: Resolution = "scaled",
    files: Sequence[FrozenFile] | None = None,
) -> dict[str, Split]:
    """Open val and test; `progress` is told (done, total) over both. Raises ConfigError for unreadable files.

    The fingerprint follows the content of `files`, without them size and time.
    """
    names = [name for name in SPLITS if name in data.splits]
    passes = 2 if resolution == "native" else 1
    total = passes * sum(len(data.splits[name]) for name in names)
    before = 0
    splits: dict[str, Split] = {}
    for name in names:
        images = len(data.splits[name])
        cache = open_cache(data, name, cache_dir, progress=_shifted(progress, before, total))
        labels = None
        if resolution == "native":
            labels = open_labels(data, name, cache_dir, progress=_shifted(progress, before + images, total))
        told = data.fingerprint(name) if files is None else fingerprint(data, name, files)
        splits[name] = Split(name, cache, labels, told)
        before += passes * images
    return splits


def tries_of(device: torch.device, batch_size: int) -> list[Try]:
    """The batch halved down to one image, and behind a GPU the CPU: slow, but a score."""
    tries = []
    while batch_size:
        tries.append(Try(device, batch_size))
        batch_size //= 2
    return [*tries, Try(torch.device("cpu"), 1)] if device.type == "cuda" else tries


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether this is an end of memory: torch has a type for it on a GPU, and only words on the CPU and in cuDNN."""
    words = ("can't allocate memory", "out of memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def write_report(run_dir: Path, report: EvaluationReport, images: statistics.PerImage) -> Path:
    """One JSON object, a field a line, so that the matrix does not fill the screen. Returns its path.

    The counts of the images come first: a report never names a file that is not there.
    """
    path = report_path(run_dir, report.attempt, report.epoch, report.split)
    path.parent.mkdir(parents=True, exist_ok=True)
    if report.per_image is not None:
        statistics.write_per_image(path.parent / report.per_image, images)
    fields = report.model_dump(mode="json")
    write_text(path, "{\n" + ",\n".join(f" {dumps(name)}: {dumps(value)}" for name, value in fields.items()) + "\n}\n")
    return path


def _working(split: Split, passes: Generator[int, None, Tally]) -> Generator[Working, None, Tally]:
    while True:
        try:
            done = next(passes)
        except StopIteration as stop:
            counted: Tally = stop.value
            return counted
        yield Working(what=split.name, done=done, total=len(split.cache))


def _refused(request: Request, reason: Reason, message: str) -> Refused:
    return Refused(attempt=request.attempt, epoch=request.epoch, reason=reason, message=message)


def _shifted(progress: Callable[[int, int], None] | None, before: int, total: int) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, _: progress(before + done, total)
