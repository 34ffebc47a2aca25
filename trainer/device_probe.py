"""`python -m segwatch.trainer.device_probe`: what torch sees of a GPU, and what lies below it, as one line of JSON.

A process of its own, since who asks never imports torch, and since a broken driver may end whoever touches it. Judges
nothing: it says what it saw.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

NVIDIA = "0x10de"
DISPLAY_CLASSES = ("0x0300", "0x0302")
"""PCI classes of a graphics card and of a card that only computes."""
PRODUCTS, WIDTH = 8, 512
PATTERNS = (0x55, 0xAA)
"""Bytes whose neighbouring bits differ, and their opposite."""
PATTERN_BYTES = 64 << 20


def main() -> int:
    facts: dict[str, Any] = {
        "python": sys.executable,
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "hardware": nvidia_hardware(),
        "driver_cuda": driver_cuda(),
        **torch_facts(),
    }
    sys.stdout.write(json.dumps(facts) + "\n")
    return 0


def nvidia_hardware() -> bool:
    """Whether there is an NVIDIA card, with a driver or without one."""
    if Path("/proc/driver/nvidia/gpus").is_dir() or Path("/dev/nvidia0").exists():
        return True
    return any(
        _text(device / "vendor") == NVIDIA and _text(device / "class").startswith(DISPLAY_CLASSES)
        for device in Path("/sys/bus/pci/devices").glob("*")
    )


def driver_cuda() -> int | None:
    """The newest CUDA that the driver can serve, as 12080 for 12.8; `None` without a driver."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int(0)
    return version.value if library.cuDriverGetVersion(ctypes.byref(version)) == 0 else None


def torch_facts() -> dict[str, Any]:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library that it is linked to is not there
        missing = isinstance(error, ModuleNotFoundError) and error.name == "torch"
        return {"torch": None, "error": None if missing else str(error)}
    facts: dict[str, Any] = {
        "torch": torch.__version__,
        "cuda_build": torch.version.cuda,
        "hip_build": torch.version.hip,
        "error": None,
        "gpus": [],
    }
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]  # `is_available` would only say no
        facts["gpus"] = [gpu_facts(torch, index) for index in range(torch.cuda.device_count())]
    except (RuntimeError, AssertionError) as error:
        facts["error"] = str(error).splitlines()[0]
    return facts


def gpu_facts(torch: Any, index: int) -> dict[str, Any]:
    """One GPU, with a sum that it had to do: a build without its kernels is noticed only then."""
    name = torch.cuda.get_device_name(index)
    try:
        free, total = torch.cuda.mem_get_info(index)
        with torch.cuda.device(index):
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        works = float(torch.ones(8, device=f"cuda:{index}").sum()) == 8.0
    except RuntimeError as error:
        return {"name": name, "free": None, "total": None, "error": str(error).splitlines()[0]}
    return {"name": name, "free": free, "total": total, "bf16": bf16, "error": None if works else "it cannot add"}


def tried_out(torch: Any, device: Any) -> str:
    """What `device` makes of products and of memory whose contents are known, in words; takes a moment."""
    try:
        wrong_products = sum(_is_wrong_product(torch, device) for _ in range(PRODUCTS))
        wrong_bytes = sum(_wrong_bytes(torch, device, value) for value in PATTERNS)
    except RuntimeError as error:
        return f"{device} fails: {str(error).splitlines()[0]}"
    if wrong_products or wrong_bytes:
        return f"{device}: {wrong_products} of {PRODUCTS} matrix products and {wrong_bytes} bytes of memory are wrong"
    return f"{device}: {PRODUCTS} matrix products and {PATTERN_BYTES >> 20} MiB of memory came out right"


def _is_wrong_product(torch: Any, device: Any) -> bool:
    """Of small whole numbers, which every precision and every order of summing gets exactly."""
    rows, columns = (torch.arange(WIDTH, device=device).remainder(modulus).float() for modulus in (5, 3))
    product = rows[:, None].expand(WIDTH, WIDTH).contiguous() @ columns[None, :].expand(WIDTH, WIDTH).contiguous()
    return not bool((product == WIDTH * rows[:, None] * columns[None, :]).all())


def _wrong_bytes(torch: Any, device: Any, value: int) -> int:
    return int((torch.full((PATTERN_BYTES,), value, dtype=torch.uint8, device=device) != value).sum())


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:  # a device that is just being unplugged
        return ""


if __name__ == "__main__":
    sys.exit(main())
