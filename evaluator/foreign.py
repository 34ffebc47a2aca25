"""Reads a checkpoint that segwatch did not write: a bare state dict of the widespread UNet. Never executes anything.

What the network is comes from its tensors alone: classes, base channels, input channels, and how it goes up. Which
class a channel is comes from the key `mask_values`, the sorted mask values of its training, and from a manifest of
segwatch beside the very file: see `channels`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.files import poisoned_tensors
from ..checkpoints.manifest import MANIFEST_LIMIT_BYTES, Architecture, Manifest, Role, StoredFile
from ..data.resolved import ResolvedData
from .channels import MASK_VALUES, refuse_other_classes
from .inspection import UnfitError, inspect, opened, printable, sha256_of
from .reading import NAMED, Checkpoint, RefusalError, blueprint, differences
from .report import Request

FIRST, LAST, LEARNT_UP = "inc.double_conv.0.weight", "outc.conv.weight", "up1.up.weight"
PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every name."""
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
BASE_LIMIT = 1024
CLASSES_LIMIT = 255
COUNTER = "num_batches_tracked"
IMAGE_CHANNELS = 3
ARRAYS = "holds numbers of numpy; save mask_values as a plain list, [int(value) for value in mask_values]"
NAMES_CODE = re.compile(r"GLOBAL ([\w.]+)")


def read_foreign(request: Request, data: ResolvedData) -> Checkpoint:
    """The weights at the absolute path `request.manifest`, verified against the classes of `data`.

    Raises RefusalError for whatever is not a state dict of that network, of these classes, in this order.
    """
    path = Path(request.manifest)
    try:
        with opened(path) as file:
            tree = _load(file, request.sha256)
            size = os.fstat(file.fileno()).st_size
        tensors, mask_values, caveats = _take_apart(tree, size)
        architecture = _architecture(tensors)
        classes = max(2, architecture.classes)
        caveats += refuse_other_classes(mask_values, classes, data, _own_manifest(path, request.sha256))
    except FileNotFoundError as error:
        raise RefusalError("missing", f"{path.name} is gone") from error
    except UnfitError as error:
        raise RefusalError("foreign", f"{path.name} {error}") from error
    if architecture.classes == 1:
        tensors = _with_background(tensors)
        caveats.append("its one channel x was scored as two classes with the logits 0 and x")
    manifest = Manifest(
        role=Role.EPOCH,
        attempt=request.attempt,
        epoch=request.epoch,
        step=0,
        step_in_epoch=0,
        weights=StoredFile(name=path.name, sha256=request.sha256, size=size),
        state=None,
        finite=not (nonfinite := poisoned_tensors(tensors)),
        class_ids=data.class_ids,
        class_names=data.class_names,
        architecture=architecture.model_copy(update={"classes": classes}),
        config_hash="",
        created="",
    )
    return Checkpoint(manifest, tensors, tuple(nonfinite), tuple(caveats))


def _load(file: BufferedReader, sha256: str) -> object:
    """The tree of one and the same bytes: hashed, inspected and read through one descriptor, and unchanged behind it.

    Not mapped into memory: a training that writes the file anew would take the weights from under the network.
    """
    before = os.fstat(file.fileno())
    if sha256_of(file) != sha256:
        raise UnfitError("has changed since it was listed; call again")
    inspect(file)
    file.seek(0)
    try:
        tree: object = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # Boundary: a file can be wrong in as many ways as there are exceptions, and all of them mean the same here.
        raise UnfitError(_why_unreadable(str(error))) from error
    after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise UnfitError("was written to while it was read; call again")
    return tree


def _own_manifest(path: Path, sha256: str) -> Manifest | None:
    """What segwatch wrote beside these very bytes; `None` where there is nothing, or what anybody may have written."""
    try:
        with opened(path.with_suffix(".json")) as file:
            content = file.read(MANIFEST_LIMIT_BYTES + 1)
        manifest = Manifest.model_validate_json(content)
    except (OSError, UnfitError, ValueError):
        return None
    return manifest if len(content) <= MANIFEST_LIMIT_BYTES and manifest.weights.sha256 == sha256 else None


def _why_unreadable(message: str) -> str:
    """In our words: those of torch recommend to load the file without the safety."""
    if match := NAMES_CODE.search(message):
        what = f"its pickle names {printable(match[1])}"
        if match[1].startswith("numpy"):
            return f"{ARRAYS}: {what}, which loading might execute. Nothing was executed"
        return f"holds more than tensors: {what}, which loading might execute. Nothing was executed"
    if not message.strip() or message.startswith("Weights only"):
        return "cannot be read as tensors: it is cut short, or its pickle is not that of a state dict"
    return f"cannot be read as tensors: {printable(message.strip().splitlines()[0], 160)}"


@dataclass(frozen=True)
class _Foreign:
    """A key of a file, and what it holds."""

    key: str
    value: Any

    def __str__(self) -> str:
        return f"{printable(self.key, 40)} ({type(self.value).__name__})"


def _take_apart(tree: object, size: int) -> tuple[dict[str, Tensor], object, list[str]]:
    """Tensors by name, `mask_values` or `None`, and what was done to the names, in words."""
    if not isinstance(tree, Mapping):
        raise UnfitError(f"holds a {type(tree).__name__}, not a state dict")
    entries = {str(key): value for key, value in tree.items()}
    mask_values = entries.pop(MASK_VALUES, None)
    others = [_Foreign(key, value) for key, value in entries.items() if not isinstance(value, Tensor)]
    if others or not entries:
        found = ", ".join(map(str, others[:NAMED])) or "no tensor at all"
        raise UnfitError(f"is no bare state dict: it holds {found}; save model.state_dict() by itself")
    stripped = []
    while prefix := next((prefix for prefix in PREFIXES if all(key.startswith(prefix) for key in entries)), None):
        entries = {key.removeprefix(prefix): value for key, value in entries.items()}
        stripped.append(prefix)
    _require_dense(entries, size)
    caveats = [f"the prefix {''.join(stripped)} of its names was stripped"] if stripped else []
    return {key: _plain(key, value) for key, value in entries.items()}, mask_values, caveats


def _require_dense(tensors: Mapping[str, Tensor], size: int) -> None:
    """A view can claim any shape over four bytes, and would be given the memory for it."""
    for key, tensor in tensors.items():
        dense = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        wanted = tensor.dtype is torch.int64 if key.endswith(COUNTER) else tensor.dtype in FLOATS
        if not (dense and wanted):
            kind = str(tensor.dtype).removeprefix("torch.") if dense else "sparse, quantized or without values"
            raise UnfitError(f"holds tensors that are no weights: {printable(key)} is {kind}")
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > size:
        raise UnfitError("holds tensors that claim more values than the file has bytes for")


def _plain(key: str, tensor: Tensor) -> Tensor:
    """In the precision in which the network computes; a value that this makes infinite is found with the others."""
    return tensor.detach() if key.endswith(COUNTER) else tensor.detach().float()


def _architecture(tensors: Mapping[str, Tensor]) -> Architecture:
    """What the tensors say that the network is. Raises UnfitError where it is another one."""
    first, last = tensors.get(FIRST), tensors.get(LAST)
    if first is None or last is None:
        gone = FIRST if first is None else LAST
        held = ", ".join(printable(key, 40) for key in list(tensors)[:NAMED])
        raise UnfitError(f"is not the widespread UNet: {gone} is missing; it holds {held}, {len(tensors)} tensors")
    if first.ndim != 4 or last.ndim != 4 or not 0 < first.shape[0] <= BASE_LIMIT:
        raise UnfitError(f"is not the widespread UNet: {FIRST} is {tuple(first.shape)}, {LAST} {tuple(last.shape)}")
    if first.shape[1] != IMAGE_CHANNELS:
        raise UnfitError(f"takes images of {first.shape[1]} channels; segwatch gives it red, green and blue")
    if not 0 < last.shape[0] <= CLASSES_LIMIT:
        raise UnfitError(f"has {last.shape[0]} classes")
    architecture = Architecture(
        base_channels=first.shape[0],
        in_channels=first.shape[1],
        classes=last.shape[0],
        bilinear=LEARNT_UP not in tensors,
    )
    wrong = differences(blueprint(architecture).state_dict(), tensors)
    if wrong:
        more = f"; and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        shown = "; ".join(printable(words, 120) for words in wrong[:NAMED])
        raise UnfitError(f"is not the widespread UNet: {shown}{more}")
    return architecture


def _with_background(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """One channel x means class 1 where sigmoid(x) > 0.5: that is two classes with the logits 0 and x."""
    ends = {name: tensors[name] for name in (LAST, "outc.conv.bias")}
    return tensors | {name: torch.cat([torch.zeros_like(end), end]) for name, end in ends.items()}
