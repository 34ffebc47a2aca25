"""`segwatch predict`: which images, where what is predicted of them goes, and what came of it in words.

Everything that a person may have got wrong is said before the first image is looked at. The pixels are the evaluator's,
in a process of its own. A run is only read.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from ..data.directories import find_files, normal
from ..data.pairs import IMAGE_SUFFIXES
from ..data.resolved import ResolvedData
from ..errors import UsageError
from ..evaluator.config import USUAL_BATCH
from ..evaluator.report import Working
from ..evaluator.task import Predicted, PredictTask, Source, Spoiled, Target, TaskAnswer
from ..plain import one_line
from . import next_steps
from .choosing import Choice, Wish, choose
from .errands import PREDICT, send
from .freezing import frozen_config, frozen_data
from .job import StoppedEarly, signals_raise
from .rundir import RunDir
from .screen import nobody_may_look
from .words import percent

DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
NAMED = 5
"""Files that a message names before it only counts them."""


@dataclass(frozen=True)
class Manner:
    """How the network looks at an image. What is `None` is as the run has it."""

    window: int | None = None
    overlap: float | None = None
    flips: bool = False
    scaled: bool = False
    device: str | None = None


@dataclass(frozen=True)
class Prediction:
    """What one call predicted."""

    choice: Choice
    data: ResolvedData
    task: PredictTask
    output: Path
    predicted: tuple[Predicted, ...]
    spoiled: tuple[Spoiled, ...]

    @property
    def exit_code(self) -> int:
        """1 where an image could not be predicted."""
        return int(bool(self.spoiled))


def predict(
    run: RunDir,
    images: Sequence[Path],
    output: Path,
    console: Console,
    *,
    wish: Wish,
    manner: Manner,
    overwrite: bool = False,
    command: Sequence[str] = PREDICT,
) -> Prediction:
    """Predict every image into `output`. Raises SegwatchError for a person's mistake, before anything is written."""
    with signals_raise():
        choice = choose(run, wish)
        data = frozen_data(run)
        _require_sense(output, manner)
        targets = find_targets(images, output)
        require_free(targets, overwrite=overwrite)
        task = _task(run, choice, targets, manner)
        _say(console, choice.words)
        for note in _notes(run, manner):
            _say(console, f"note: {note}")
        answers: list[TaskAnswer] = []
        try:
            answers.extend(_followed(send(command, task), len(targets), console))
        except StoppedEarly:
            done = sum(isinstance(answer, Predicted) for answer in answers)
            _say(console, f"stopped: the results of {done} of {len(targets)} images are in {output.absolute()}")
            raise
    return Prediction(
        choice=choice,
        data=data,
        task=task,
        output=output.absolute(),
        predicted=tuple(answer for answer in answers if isinstance(answer, Predicted)),
        spoiled=tuple(answer for answer in answers if isinstance(answer, Spoiled)),
    )


def _require_sense(output: Path, manner: Manner) -> None:
    """Raises UsageError for what can be told before torch is loaded."""
    if output.exists() and not output.is_dir():
        raise UsageError("is a file", where=output, remedy="name a directory for the results with --output")
    if manner.device is not None and not DEVICE.fullmatch(manner.device):
        raise UsageError(f"{manner.device!r} is no device", where="--device", remedy="auto, cpu, cuda or cuda:N")


def find_targets(images: Sequence[Path], output: Path) -> tuple[Target, ...]:
    """Each image once, in the order given; those of a directory by name, its sub-directories kept below `output`.

    Raises UsageError for what is not there, for two images whose results would have one name, and for results that
    would lie upon an image.
    """
    found: dict[Path, str] = {}
    missing = [path for path in images if not path.exists()]
    if missing:
        raise UsageError(f"not there: {_named(missing)}", remedy="name images, or directories that hold some")
    for path in images:
        if path.is_dir():
            for file in find_files(path.absolute(), IMAGE_SUFFIXES, "images", apart=[output.absolute()]):
                found.setdefault(file.path, file.key)
        else:
            found.setdefault(path.absolute(), normal(path.stem))
    targets = tuple(Target(image=path, stem=output.absolute() / key) for path, key in found.items())
    _refuse_collisions(targets)
    return targets


def _refuse_collisions(targets: Iterable[Target]) -> None:
    by_file: dict[Path, list[Path]] = {}
    for target in targets:
        for file in target.files:
            by_file.setdefault(file, []).append(target.image)
    twice = {tuple(images): None for images in by_file.values() if len(images) > 1}
    if twice:
        raise UsageError(
            "their results would have the same names:\n"
            + "\n".join(f"  {' and '.join(map(str, images))}" for images in [*twice][:NAMED])
            + (f"\n  and {len(twice) - NAMED} more" if len(twice) > NAMED else ""),
            remedy="rename them, or predict them one after the other into different directories (--output)",
        )
    images = {os.path.realpath(image) for found in by_file.values() for image in found}
    if upon := [file for file in by_file if os.path.realpath(file) in images]:
        raise UsageError(
            f"the results would lie upon images that are to be predicted: {_named(upon)}",
            remedy="name another directory with --output",
        )


def require_free(targets: Iterable[Target], *, overwrite: bool) -> None:
    """Raises UsageError where a result lies there already."""
    there = [file for target in targets for file in target.files if os.path.lexists(file)]
    if there and not overwrite:
        raise UsageError(
            f"{len(there)} results are there already: {_named(there)}",
            remedy="--overwrite replaces them; --output names another directory",
        )


def _task(run: RunDir, choice: Choice, targets: tuple[Target, ...], manner: Manner) -> PredictTask:
    """The run's own way to look at images, where nothing else is asked for: a score is then of the same pixels."""
    config = frozen_config(run).evaluator
    return PredictTask(
        source=Source(
            run_dir=run.path,
            checkpoint=choice.request,
            device=manner.device or config.device,
            threads=config.threads,
        ),
        targets=targets,
        batch_size=USUAL_BATCH if config.batch_size == "auto" else config.batch_size,
        window=(config.window or None) if manner.window is None else manner.window,
        overlap=config.overlap if manner.overlap is None else manner.overlap,
        flips=manner.flips,
        scaled=manner.scaled,
    )


def _notes(run: RunDir, manner: Manner) -> Iterable[str]:
    if manner.flips and not frozen_config(run).augment.flip:
        yield "this run was trained without augment.flip: an average over mirror images may be worse than none"


def _followed(answers: Iterable[TaskAnswer], total: int, console: Console) -> Iterable[TaskAnswer]:
    """The same answers; a bar where somebody looks, and a line for each image that cannot be predicted."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("loading", total=total)
        for answer in answers:
            _move(progress, bar, answer)
            if isinstance(answer, Spoiled):
                _say(console, f"{answer.image}: {answer.reason}")
            yield answer


def _move(progress: Progress, bar: TaskID, answer: TaskAnswer) -> None:
    match answer:
        case Working(what=what, done=done, total=rows):
            progress.update(bar, description=f"{one_line(Path(what).name)} {percent(done / rows, 0)}")
        case Predicted(image=image) | Spoiled(image=image):
            progress.update(bar, description=one_line(Path(image).name), advance=1)


def shares(predicted: Iterable[Predicted], data: ResolvedData) -> list[tuple[int, str, float]]:
    """(id, name, share of all predicted pixels) of each class, largest first."""
    counts = [sum(column) for column in zip(*(image.pixels for image in predicted), strict=True)]
    total = sum(counts)
    found = [(entry.id, entry.name, count / total) for entry, count in zip(data.classes, counts, strict=False)]
    return sorted(found, key=lambda share: -share[2])


def say(prediction: Prediction, console: Console) -> None:
    """Where the results are, what they hold, and which images are not among them."""
    done, spoiled = len(prediction.predicted), len(prediction.spoiled)
    if done:
        _say(console, "share of all predicted pixels")
    for id_, name, share in shares(prediction.predicted, prediction.data):
        _say(console, f"{id_:5} {name:24} {percent(share):>9}")
    windows = Counter(image.window for image in prediction.predicted if image.window)
    for side, count in sorted(windows.items()):
        _say(console, f"{count} of them in windows of {side} pixels")
    if done:
        size = "at the size that the network sees" if prediction.task.scaled else "at the size of each image"
        _say(console, f"{_images(done)} predicted {size}: {prediction.output}")
        _say(console, "  *_ids.png class ids   *_colour.png class colours   *_overlay.png to look at, with a legend")
    if spoiled:
        _say(console, f"{_images(spoiled)} could not be predicted, see above")
    if done:
        _say(console, next_steps.block(next_steps.command("report", prediction.task.source.run_dir)))


def as_json(prediction: Prediction) -> dict[str, Any]:
    """Shares are fractions of an image's pixels, by class id."""
    task, ids = prediction.task, prediction.data.class_ids
    targets = {str(target.image): target for target in task.targets}
    return {
        "run": str(task.source.run_dir),
        "checkpoint": prediction.choice.figures,
        "classes": [{"id": c.id, "name": c.name, "colour": c.colour} for c in prediction.data.classes],
        "flips": task.flips,
        "resolution": "scaled" if task.scaled else "native",
        "images": [
            {
                "image": image.image,
                "ids": str(targets[image.image].ids),
                "colour": str(targets[image.image].colour),
                "overlay": str(targets[image.image].overlay),
                "height": image.height,
                "width": image.width,
                "window": image.window,
                "seconds": image.seconds,
                "shares": {str(id_): count / sum(image.pixels) for id_, count in zip(ids, image.pixels, strict=True)},
            }
            for image in prediction.predicted
        ],
        "failed": [{"image": image.image, "reason": image.reason} for image in prediction.spoiled],
    }


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _named(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return ", ".join(map(str, paths[:NAMED])) + more


def _say(console: Console, words: str) -> None:
    with nobody_may_look():
        console.print(words, soft_wrap=True, highlight=False, markup=False)
