"""Writes a checkpoint for other programs, and proves it: `python -m segwatch.evaluator.export TASK`.

A file gets its name only after what it says was compared with the network that it came from. Knows nothing about which
checkpoint that should be.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.rasters import read_image
from ..data.resolved import ResolvedData
from ..durable import dumps, write_atomic
from ..errors import ConfigError, SegwatchError
from ..trainer.unet import Up
from .errand import run, set_threads
from .loading import architecture_of, load, network_of
from .reading import Checkpoint
from .report import Ready, Working
from .task import Exported, ExportTask, TaskAnswer

TOLERANCE = 1e-3
"""Of the largest logit: two programs add in another order. What is really wrong differs by more than that."""
ANOTHER_CLASS = 1e-4
"""Share of the pixels whose two largest logits may be so close that this decides between them."""
PARITY_IMAGES = 3
ODD_SIZE = (2, 37, 53)
"""Images, height and width of the noise that is always compared: no side is a multiple of 16, more than one image."""
SMALL = 64
"""Side of what `onnx.reference` is asked about, which takes a second for what onnxruntime does in a millisecond."""

Run = Callable[[np.ndarray], np.ndarray]
"""float32 images (N, 3, H, W) in [0, 1] -> logits (N, C, H, W), in another program than torch."""


class ParityError(SegwatchError):
    """What was exported does not say what the network says; it is not kept."""


def export(task: ExportTask) -> Iterator[TaskAnswer]:
    """Ready, Working, Exported. Raises SegwatchError where that cannot be done, ParityError among them."""
    set_threads(task.source.threads)
    data, checkpoint = load(task.source)
    yield Ready(device="cpu", seconds=0.0)
    yield Working(what=f"writing {task.format}", done=0, total=1)
    about = task.about | about_network(data, checkpoint)
    compare = _Safetensors(checkpoint, about) if task.format == "safetensors" else _Onnx(data, checkpoint, about)
    payload = compare.payload()

    def write(file: IO[bytes]) -> None:
        file.write(payload)
        file.flush()
        file.seek(0)
        compare.require_parity(file.read())

    yield Working(what="comparing", done=0, total=1)
    try:
        write_atomic(task.output, write)
    except OSError as error:
        raise SegwatchError(f"cannot be written: {error.strerror}", where=task.output) from error
    yield Exported(
        size=len(payload),
        sha256=hashlib.sha256(payload).hexdigest(),
        parity=compare.words,
        largest_difference=compare.largest_difference,
    )


def about_network(data: ResolvedData, checkpoint: Checkpoint) -> dict[str, str]:
    """What a stranger has to know in order to use the weights; strings, since both formats keep nothing else."""
    manifest = checkpoint.manifest
    classes = [{"channel": i, "id": c.id, "name": c.name, "colour": c.colour} for i, c in enumerate(data.classes)]
    return {
        "classes": dumps(classes),
        "input": "float32 (N, 3, H, W), RGB / 255, images reduced by scale, each side at least 16",
        "output": "logits (N, C, H, W); the class of a pixel is its largest channel",
        "scale": repr(data.scale),
        "architecture": architecture_of(checkpoint).model_dump_json(),
        "attempt": str(manifest.attempt),
        "epoch": str(manifest.epoch),
        "step": str(manifest.step),
        "checkpoint_sha256": manifest.weights.sha256,
    }


class _Safetensors:
    """The state dict; read back, every tensor has the same name, shape, type and bytes."""

    largest_difference = 0.0

    def __init__(self, checkpoint: Checkpoint, about: Mapping[str, str]) -> None:
        self._tensors = {name: tensor.contiguous() for name, tensor in checkpoint.weights.items()}
        self._about = {"format": "pt", **about}
        self.words = f"{len(self._tensors)} tensors written and read back, equal bit for bit"

    def payload(self) -> bytes:
        from safetensors.torch import save

        content: bytes = save(self._tensors, metadata=self._about)
        return content

    def require_parity(self, content: bytes) -> None:
        from safetensors.torch import load as load_tensors

        if wrong := unequal(self._tensors, load_tensors(content)):
            raise ParityError(f"read back, these tensors differ: {', '.join(wrong[:3])}; nothing was kept")


class _Onnx:
    """The network as a graph for images of any number and size; run elsewhere, it gives the same logits."""

    def __init__(self, data: ResolvedData, checkpoint: Checkpoint, about: Mapping[str, str]) -> None:
        self._network = network_of(checkpoint, torch.device("cpu"))
        self._exported = any_size(network_of(checkpoint, torch.device("cpu")))
        self._data = data
        self._about = about
        self.words = ""
        self.largest_difference = 0.0

    def payload(self) -> bytes:
        return onnx_of(self._exported, self._about)

    def require_parity(self, content: bytes) -> None:
        name, other = runner(content)
        images, real = samples(self._data, small=name == "onnx.reference")
        largest, logit, share = difference(self._network, other, images)
        shown = f"{real} test images" if real else "noise, for no test image could be read"
        classes = f"{share:.4%} of the pixels get another class" if share else "every pixel gets the same class"
        self.words = f"run by {name} over {shown}: {classes}, logits differ by {largest:.1e} at most"
        self.largest_difference = largest
        if not largest <= TOLERANCE * max(1.0, logit) or share > ANOTHER_CLASS:
            raise ParityError(f"{self.words}; nothing was kept")


def unequal(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that are not the same bytes of the same type and shape in both."""
    names = sorted({*left, *right})
    return [name for name in names if name not in left or name not in right or not _same(left[name], right[name])]


def _same(left: Tensor, right: Tensor) -> bool:
    if (left.shape, left.dtype) != (right.shape, right.dtype):
        return False
    # As bytes: a NaN is unequal to itself, and -0 equal to 0.
    first, second = (tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (left, right))
    return torch.equal(first, second)


class _AnySizeUp(nn.Module):
    """What `Up` computes, without asking whether a side was odd: a graph holds one way, not a question.

    A side that lost a pixel on the way down gets it back at its end (`Up` pads 0 before and 1 behind); one that did not
    gets one too many, which is cut off.
    """

    def __init__(self, up: Up) -> None:
        super().__init__()
        self.up, self.conv = up.up, up.conv

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = F.pad(self.up(x), [0, 1, 0, 1])
        x = x.narrow(2, 0, skip.shape[2]).narrow(3, 0, skip.shape[3])
        out: Tensor = self.conv(torch.cat([skip, x], dim=1))
        return out


def any_size(network: nn.Module) -> nn.Module:
    """The UNet with its ways up exchanged; the same weights, the same logits."""
    for name, child in network.named_children():
        if isinstance(child, Up):
            setattr(network, name, _AnySizeUp(child))
    return network


def onnx_of(network: nn.Module, about: Mapping[str, str]) -> bytes:
    """A serialized ModelProto with the input `images`, the output `logits`, and `about` in its metadata_props."""
    height, width = ODD_SIZE[1:]
    dynamic = torch.export.Dim.DYNAMIC
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its own insides
        program = torch.export.export(
            network,
            (torch.zeros(2, 3, height, width),),
            dynamic_shapes={"images": {0: dynamic, 2: dynamic, 3: dynamic}},
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        converted: Any = torch.onnx.export(
            program, dynamo=True, input_names=["images"], output_names=["logits"], verbose=False
        )
    model = converted.model_proto
    for value in (*model.graph.input, *model.graph.output):
        for place, word in ((0, "batch"), (2, "height"), (3, "width")):
            value.type.tensor_type.shape.dim[place].dim_param = word
    for key, text in about.items():
        model.metadata_props.add(key=key, value=text)
    content: bytes = model.SerializeToString()
    return content


def runner(content: bytes) -> tuple[str, Run]:
    """The name of what runs the graph in `content`, and the running."""
    if importlib.util.find_spec("onnxruntime") is not None:
        import onnxruntime

        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        return "onnxruntime", lambda images: np.asarray(next(iter(session.run(None, {"images": images}))))
    import onnx
    from onnx.reference import ReferenceEvaluator

    reference = ReferenceEvaluator(onnx.load(io.BytesIO(content)))
    return "onnx.reference", lambda images: np.asarray(next(iter(reference.run(None, {"images": images}))))


def samples(data: ResolvedData, *, small: bool = False) -> tuple[list[np.ndarray], int]:
    """float32 batches (N, 3, H, W) in [0, 1]: noise of odd size, and up to PARITY_IMAGES test images as the network
    sees them; and how many of these there are.
    """
    noise = np.random.default_rng(0).random((ODD_SIZE[0], 3, *ODD_SIZE[1:]), dtype=np.float32)
    pairs = data.splits.get("test", ())
    step = max(1, len(pairs) // PARITY_IMAGES)
    found = []
    for pair in pairs[::step][:PARITY_IMAGES]:
        try:
            found.append(_as_input(read_image(Path(data.root) / pair.image, data.scale), small=small))
        except ConfigError:  # the data was moved away since the run: the noise alone has to do
            continue
    return [noise, *found], len(found)


def _as_input(pixels: np.ndarray, *, small: bool) -> np.ndarray:
    cut = pixels[:SMALL, :SMALL] if small else pixels
    return np.ascontiguousarray(cut.transpose(2, 0, 1)[None], dtype=np.float32) / 255


def difference(network: nn.Module, other: Run, batches: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """Of the logits of both: the largest |difference| (NaN where one is), the largest |logit|, and the share of other
    classes.
    """
    largest, logit, wrong, pixels = 0.0, 0.0, 0, 0
    for images in batches:
        with torch.inference_mode():
            ours: np.ndarray = network(torch.from_numpy(images)).numpy()
        theirs = other(images)
        largest = float(np.maximum(largest, np.abs(theirs - ours).max()))  # which, unlike max(), keeps a NaN
        logit = max(logit, float(np.abs(ours).max()))
        wrong += int((theirs.argmax(axis=1) != ours.argmax(axis=1)).sum())
        pixels += ours[:, 0].size
    return largest, logit, wrong / pixels


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:], ExportTask, export))
