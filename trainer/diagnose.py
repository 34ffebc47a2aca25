"""`python -m segwatch.trainer.diagnose SPEC`: a process that repeats the steps of an incident and says what it was.

It reads what worker and daemon left, and writes nothing but its answer and the pictures of bad files beside it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ..durable import read_lines, write_text
from ..errors import ConfigError, CorruptCheckpointError, SegwatchError
from .config import Compile
from .contract import COMPILED, JOURNAL, SPEC, AttemptSpec, Cause, ExitCode, Started, attempt_dir
from .diagnosis import DIAGNOSIS, STATE, Diagnosis, DiagnosisSpec, Finding

if TYPE_CHECKING:
    from .inquiry import Left
    from .replay import Held, Replayer

log = logging.getLogger("segwatch.trainer.diagnose")


def main(arguments: list[str]) -> int:
    """Answer what the spec asks. 0: there is an answer; 78: it cannot be asked so; 1: nobody foresaw it."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the daemon
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    if len(arguments) != 1:
        log.error("usage: python -m segwatch.trainer.diagnose SPEC")
        return ExitCode.PERMANENT
    try:
        diagnosis = run(Path(arguments[0]))
    except SegwatchError as error:
        log.error("%s", error)  # noqa: TRY400 - a person's mistake needs no traceback
        return ExitCode.PERMANENT
    except Exception:
        # Boundary: the daemon goes on without an answer, and a person finds the traceback in the log.
        log.exception("the diagnosis leaves without an answer")
        return ExitCode.CRASHED
    log.info("%s: %s", diagnosis.finding, diagnosis.because)
    return ExitCode.FINISHED


def run(path: Path) -> Diagnosis:
    """Diagnose, and leave the answer in the incident's directory. Raises ConfigError, OSError."""
    asked = _read(DiagnosisSpec, path)
    began = time.monotonic()
    try:
        diagnosis = diagnose(asked)
    except CorruptCheckpointError as error:
        diagnosis = unknown(str(error), time.monotonic() - began)
    write_text(asked.run_dir / asked.directory / DIAGNOSIS, diagnosis.model_dump_json(indent=1) + "\n")
    return diagnosis


def diagnose(asked: DiagnosisSpec) -> Diagnosis:
    """Raises ConfigError for an attempt or data that cannot be read."""
    began = time.monotonic()
    spec = _read(AttemptSpec, attempt_dir(asked.run_dir, asked.attempt) / SPEC)
    device = spec.device if asked.device is None else asked.device
    changed = {"run_dir": asked.run_dir, "drills": (), "device": device}
    spec = spec.model_copy(update={**changed, "compile": was_compiled(attempt_dir(asked.run_dir, asked.attempt), spec)})
    # torch comes in here, so that the log says what goes on while it loads.
    log.info("incident %d of attempt %d; loading torch", asked.incident, asked.attempt)
    import torch

    from ..data.cache import open_cache
    from ..data.resolved import ResolvedData
    from .bad_values import look
    from .fall import diagnose_fall, load_fallen
    from .inquiry import Inquiry
    from .loop import find_device
    from .replay import Deadline, Replayer, held_at
    from .spoilt import pixels_dir

    data = ResolvedData.load(spec.run_dir / spec.data_lock)
    cache = open_cache(data, "train", pixels_dir(spec))
    directory = asked.run_dir / asked.directory
    if asked.fallen is not None:
        replayer = Replayer(spec, data, cache, find_device(spec.device), Deadline(asked.seconds))
        fallen = load_fallen(asked.run_dir / asked.fallen)
        diagnosis = diagnose_fall(replayer, fallen, list(_good(replayer, asked.good)))
        return _finished(diagnosis, replayer, began)
    try:
        left = read_left(directory)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        return unknown(f"the worker left nothing to repeat: {error}", time.monotonic() - began)
    device = find_device(spec.device)
    if device.type == "cuda" and any(look(cache, data, index).is_bad for index in left.place.indices):
        # A value that is no class ends CUDA for the whole process: there would be no second replay.
        log.info("a mask of the step holds what is no class: repeated on the CPU")
        device = torch.device("cpu")
    replayer = Replayer(spec, data, cache, device, Deadline(asked.seconds))
    inquiry = Inquiry(replayer, left, held_at(directory / STATE), list(_good(replayer, asked.good)))
    return _finished(inquiry.answer(), replayer, began)


def _finished(diagnosis: Diagnosis, replayer: Replayer, began: float) -> Diagnosis:
    """With the time that all of it took, and where nothing could be repeated with a look at the device."""
    import torch

    from .device_probe import tried_out

    checked = tried_out(torch, replayer.device) if diagnosis.finding is Finding.TRANSIENT else ""
    because = f"{diagnosis.because}; {replayer.note}" if replayer.note else diagnosis.because
    return diagnosis.model_copy(
        update={"because": because, "device_check": checked, "seconds": time.monotonic() - began}
    )


def was_compiled(attempt: Path, spec: AttemptSpec) -> Compile:
    """Whether the worker ran its network compiled, whatever was wished; the wish, where it did not come to say."""
    lines, _ = read_lines(attempt / JOURNAL)
    for line in lines:
        with contextlib.suppress(ValidationError):
            return Started.model_validate_json(line).compiled.startswith(COMPILED)
    return spec.compile


def unknown(because: str, seconds: float) -> Diagnosis:
    return Diagnosis(finding=Finding.UNKNOWN, because=because, device="none", seconds=seconds)


def read_left(directory: Path) -> Left:
    """batch.pt and worker.json. Raises OSError, ValueError, KeyError or RuntimeError where they are not as written."""
    import json

    import torch

    from .incident import BATCH, FACTS
    from .inquiry import Left
    from .replay import Place

    batch = torch.load(directory / BATCH, map_location="cpu", weights_only=True)
    facts = json.loads((directory / FACTS).read_bytes())
    indices = tuple(batch["indices"].tolist())
    place = Place(batch["step"], batch["epoch"], batch["step_in_epoch"], indices)
    recent = tuple((row["step"], _number(row["loss"]), _number(row["grad_norm"])) for row in facts["recent"])
    since = facts["evidence"].get("onset_step")
    return Left(directory, Cause(facts["cause"]), place, recent, high_since=since)


def _number(told: Any) -> float | None:
    """What is not finite stands there by its name."""
    return float(told) if isinstance(told, int | float) else None


def _good(replayer: Replayer, manifests: tuple[str, ...]) -> Iterator[Held]:
    for manifest in manifests:
        try:
            yield replayer.good(manifest)
        except (ConfigError, CorruptCheckpointError) as error:
            log.warning("not used: %s", error)


def _read(kind: type[Any], path: Path) -> Any:
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigError(
            f"not what a diagnosis is asked with: {error}", where=path, remedy="let segwatch write it"
        ) from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
