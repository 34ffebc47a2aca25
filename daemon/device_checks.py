"""Is there a GPU that torch can use, and if not, why? Asked of a process that imports torch; judged here, PURE.

No torch at all, a build without CUDA, no driver, a driver older than the build, a hidden device and a card that the
build has no kernels for look alike from outside: "no GPU". Each has another remedy.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from ..plain import one_line
from ..section import Record
from ..trainer.config import Amp
from .check import Check, fail, gigabytes, ok, warn
from .config import RunConfig

PROBE_COMMAND = (sys.executable, "-P", "-m", "segwatch.trainer.device_probe")
PROBE_SECONDS = 120.0
GPU_BUILD = "install torch for your CUDA as https://pytorch.org/get-started says, into the environment of this Python"
SLOW = "the CPU trains, which is far slower"
NAME = "gpu"


class Gpu(Record):
    name: str
    free: int | None
    """Bytes; `None` where the card does not say."""
    total: int | None
    bf16: bool | None = None
    """Whether it computes bf16 in hardware; `None` where it does not say."""
    error: str | None
    """Why it cannot compute."""


class DeviceFacts(Record):
    """What the probe saw."""

    python: str
    visible: str | None = None
    """CUDA_VISIBLE_DEVICES."""
    hardware: bool = False
    """Whether there is an NVIDIA card, usable or not."""
    driver_cuda: int | None = None
    """The newest CUDA that the driver serves, 12080 for 12.8; `None` without a driver."""
    torch: str | None = None
    """Its version; `None` where it cannot be imported."""
    cuda_build: str | None = None
    """The CUDA that torch was built for; `None` for a build without."""
    hip_build: str | None = None
    error: str | None = None
    gpus: tuple[Gpu, ...] = ()


def ask(command: Sequence[str] = PROBE_COMMAND) -> DeviceFacts | str:
    """What the probe saw, or in words why it did not say."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PROBE_SECONDS)
        return DeviceFacts.model_validate(json.loads(done.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return f"no answer within {PROBE_SECONDS:.0f} s: the driver hangs"
    except (ValidationError, ValueError, IndexError):
        said = one_line(done.stderr)[-200:]
        return f"ended with {done.returncode} {f'({said})' if said else 'without a word'}"


def chosen_gpu(facts: DeviceFacts, wanted: str) -> Gpu | None:
    """The GPU that `trainer.device` means, if it is there."""
    index = int(wanted.partition(":")[2] or 0)
    return None if wanted == "cpu" or index >= len(facts.gpus) else facts.gpus[index]


def judge(facts: DeviceFacts | str, wanted: str) -> Check:
    """PURE: one line on the GPU for `trainer.device = wanted`."""
    if isinstance(facts, str):
        return fail(
            NAME, f"torch cannot be asked: {facts}", "see whether `python -c 'import torch'` and nvidia-smi work"
        )
    if facts.torch is None:
        if facts.error is None:
            return fail(NAME, f"torch is not installed in {facts.python}", GPU_BUILD)
        return fail(NAME, f"torch cannot be imported: {one_line(facts.error)}", f"mend that: {GPU_BUILD}")
    if wanted == "cpu":
        return ok(NAME, f"not used: trainer.device is cpu (torch {facts.torch})")
    gpu = chosen_gpu(facts, wanted)
    if gpu is not None:
        return _judge_gpu(gpu, facts)
    if facts.gpus:
        return fail(NAME, f"{wanted} is not there: torch sees {len(facts.gpus)}", 'set trainer.device = "auto"')
    why, remedy, hidden = _why_none(facts)
    # Where there is a card, a week on the CPU is not what somebody wanted, unless they hid it.
    if wanted.startswith("cuda") or (facts.hardware and not hidden):
        return fail(NAME, why, remedy)
    return warn(NAME, f"{why}; {SLOW}", remedy)


def judge_precision(gpu: Gpu, config: RunConfig) -> Check | None:
    """PURE: a word on bf16 where the run may come to use it and the card only emulates it; else `None`."""
    asked = {"trainer.amp": config.trainer.amp.value, "recovery.amp_first": config.recovery.amp_first}
    keys = [key for key, value in asked.items() if value == Amp.BF16.value]
    if gpu.bf16 is not False or not keys:
        return None
    return warn(
        "precision",
        f"{' and '.join(keys)} = bf16, which {gpu.name} only emulates: slower than fp32",
        'trainer.amp = "fp16" or "off", recovery.amp_first = "off"',
    )


def _judge_gpu(gpu: Gpu, facts: DeviceFacts) -> Check:
    build = f"torch {facts.torch}, CUDA {facts.cuda_build}" if facts.cuda_build else f"torch {facts.torch}"
    if gpu.error is None:
        memory = "" if gpu.total is None else f", {gigabytes(gpu.total)}"
        return ok(NAME, f"{gpu.name}{memory} ({build})")
    error = one_line(gpu.error)
    if "no kernel image" in error:
        return fail(
            NAME,
            f"{build} has no kernels for {gpu.name}",
            f"too old or too new for the card: {GPU_BUILD}",
        )
    if "out of memory" in error:
        return fail(NAME, f"{gpu.name} has no memory left", "nvidia-smi shows who holds it; stop that, or wait for it")
    return fail(
        NAME, f"{gpu.name} is seen and cannot compute: {error}", "nvidia-smi and dmesg say more; a reboot may help"
    )


def _why_none(facts: DeviceFacts) -> tuple[str, str, bool]:
    """Why torch sees no GPU, what to do, and whether somebody hid it."""
    if facts.cuda_build is None and facts.hip_build is None:
        if facts.hardware:
            return f"there is a GPU, and torch {facts.torch} is built without CUDA", GPU_BUILD, False
        return f"no NVIDIA GPU here (and torch {facts.torch} is built without CUDA)", "train where there is one", False
    if facts.visible is not None and (not facts.visible.strip() or facts.visible.strip().startswith("-1")):
        return f"every GPU is hidden: CUDA_VISIBLE_DEVICES={facts.visible!r}", "unset CUDA_VISIBLE_DEVICES", True
    if facts.hip_build is None and facts.driver_cuda is None:
        if facts.hardware:
            remedy = "install the NVIDIA driver; in a container, start it with --gpus all (NVIDIA Container Toolkit)"
            return "there is a GPU, and no NVIDIA driver (libcuda.so.1)", remedy, False
        return "no NVIDIA GPU and no driver here", "train where there is one; in a container: --gpus all", False
    if facts.driver_cuda is not None and _older(facts.driver_cuda, facts.cuda_build):
        return (
            f"the driver serves CUDA {_cuda(facts.driver_cuda)} at most, torch is built for {facts.cuda_build}",
            f"a newer driver, or a torch built for CUDA {_cuda(facts.driver_cuda)} or older",
            False,
        )
    if facts.visible is not None:
        return (
            f"torch sees no GPU under CUDA_VISIBLE_DEVICES={facts.visible!r}",
            "nvidia-smi lists the numbers that exist; correct or unset it",
            True,
        )
    why = f": {one_line(facts.error)}" if facts.error else ""
    remedy = "see whether nvidia-smi works: after an update of the driver a reboot is needed"
    return f"torch sees no GPU, with driver and CUDA build in order{why}", remedy, False


def _older(driver: int, build: str | None) -> bool:
    """CUDA promises that a driver serves every minor release of its own major one."""
    return build is not None and driver // 1000 < int(build.partition(".")[0])


def _cuda(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
