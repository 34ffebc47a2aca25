"""What is exported is compared with the network it came from before it is kept: bits, logits, sizes."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from segwatch.errors import ConfigError
from segwatch.evaluator import export as exporting
from segwatch.evaluator.errand import answers
from segwatch.evaluator.export import ParityError, any_size, difference, export, samples, unequal
from segwatch.evaluator.task import Cannot, Exported, ExportTask, Source
from segwatch.trainer.unet import UNet

from .scored import Constant, MakeNetwork

SAFETENSORS = pytest.mark.skipif(
    importlib.util.find_spec("safetensors") is None, reason="safetensors is not installed: segwatch[export]"
)
ONNX = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript")),
    reason="onnx or onnxscript is not installed: segwatch[export]",
)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def task_of(run: Any, network: UNet, form: Any, output: Path) -> ExportTask:
    source = Source(run_dir=run.directory, checkpoint=run.save(network), device="cpu", threads=1)
    return ExportTask(source=source, format=form, output=output, about={"source": "segwatch run tiny"})


def exported(task: ExportTask) -> Exported:
    *_, last = export(task)
    assert isinstance(last, Exported)
    return last


# --- safetensors ---------------------------------------------------------------------------------------------------


@SAFETENSORS
def test_safetensors_hold_every_tensor_bit_for_bit_and_say_what_they_are(
    tiny_run: Any, make_network: MakeNetwork, tmp_path: Path
) -> None:
    from safetensors import safe_open

    net = make_network()
    answer = exported(task_of(tiny_run, net, "safetensors", tmp_path / "net.safetensors"))
    with safe_open(tmp_path / "net.safetensors", "pt") as file:
        read = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping, it only has keys()
        about = file.metadata()
    assert unequal(net.state_dict(), read) == []
    assert (answer.size, answer.largest_difference) == ((tmp_path / "net.safetensors").stat().st_size, 0.0)
    assert [entry["id"] for entry in json.loads(about["classes"])] == [0, 4, 7]
    assert (about["epoch"], about["scale"], about["source"]) == ("1", "1.0", "segwatch run tiny")


@SAFETENSORS
def test_what_is_not_read_back_as_it_was_is_not_kept(
    tiny_run: Any, make_network: MakeNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "unequal", lambda *_: ["outc.conv.bias"])
    with pytest.raises(ParityError, match=r"outc\.conv\.bias"):
        exported(task_of(tiny_run, make_network(), "safetensors", tmp_path / "net.safetensors"))
    assert not list(tmp_path.glob("*net*"))


def test_tensors_are_equal_by_their_bits_alone() -> None:
    nan, one = torch.tensor([float("nan")]), {"a": torch.tensor(1)}
    assert unequal({"a": nan}, {"a": nan.clone()}) == []
    assert unequal({"a": torch.tensor([0.0])}, {"a": torch.tensor([-0.0])}) == ["a"]
    assert unequal(one, {"a": torch.tensor(1, dtype=torch.int32)}) == ["a"]
    assert unequal(one, {"a": torch.tensor([1])}) == ["a"]
    assert unequal(one, {"b": torch.tensor(1)}) == ["a", "b"]
    assert unequal(one, {"a": torch.tensor(2)}) == ["a"]


# --- ONNX ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize("size", [(32, 48), (37, 61), (51, 48), (16, 17)])
def test_the_ways_up_that_fit_a_graph_compute_the_same_at_any_size(size: tuple[int, int], *, bilinear: bool) -> None:
    torch.manual_seed(3)
    net = UNet(classes=4, base_channels=2, bilinear=bilinear).eval()
    other = UNet(classes=4, base_channels=2, bilinear=bilinear).eval()
    other.load_state_dict(net.state_dict())
    images = torch.rand(2, 3, *size)
    with torch.inference_mode():
        assert torch.equal(any_size(other)(images), net(images))


@ONNX
def test_an_onnx_graph_gives_the_logits_of_torch_for_any_number_and_size_of_images(
    tiny_run: Any, make_network: MakeNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One export, which takes seconds, and all that is asked of it; without onnxruntime, onnx.reference runs it."""
    import onnx

    net = make_network()
    answer = exported(task_of(tiny_run, net, "onnx", tmp_path / "net.onnx"))
    assert "over 3 test images: every pixel gets the same class" in answer.parity
    assert answer.largest_difference < 1e-5
    content = (tmp_path / "net.onnx").read_bytes()
    find = importlib.util.find_spec
    batches = [np.random.default_rng(1).random(shape, dtype=np.float32) for shape in ((1, 3, 16, 16), (3, 3, 41, 64))]
    for hidden in ("", "onnxruntime"):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, h=hidden: None if name == h else find(name))
        name, run = exporting.runner(content)
        assert (name == "onnx.reference") == (hidden == "onnxruntime" or find("onnxruntime") is None)
        largest, _, share = difference(net, run, batches)
        assert largest < 1e-5
        assert share == 0
    model = onnx.load_from_string(content)
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert [entry["name"] for entry in json.loads(about["classes"])] == ["field", "road", "roof"]
    assert [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [
        "batch",
        3,
        "height",
        "width",
    ]


class Fake:
    """Another program that runs a graph: what torch says, plus `wrong`."""

    def __init__(self, network: UNet, wrong: float) -> None:
        self._network = network
        self._wrong = wrong

    def __call__(self, images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            logits = self._network(torch.from_numpy(images)).numpy()
        logits[:, 0] += self._wrong
        return np.asarray(logits)


@pytest.mark.parametrize(("wrong", "kept"), [(1e-6, True), (0.5, False), (float("nan"), False)])
def test_a_graph_is_kept_only_where_it_says_what_torch_says(
    tiny_run: Any,
    make_network: MakeNetwork,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrong: float,
    *,
    kept: bool,
) -> None:
    net = make_network()
    monkeypatch.setattr(exporting, "onnx_of", lambda *_: b"a graph")
    monkeypatch.setattr(exporting, "runner", lambda content: (content.decode(), Fake(net, wrong)))
    *_, last = answers(export(task_of(tiny_run, net, "onnx", tmp_path / "net.onnx")))
    assert isinstance(last, Exported if kept else Cannot)
    assert [path.name for path in tmp_path.glob("*net*")] == (["net.onnx"] if kept else [])


def test_a_nan_is_no_agreement_even_where_every_class_is_the_same() -> None:
    """argmax of NaN is class 0, which a network that says class 0 everywhere says too."""

    def broken(images: np.ndarray) -> np.ndarray:
        return np.full((len(images), 3, *images.shape[2:]), np.nan, dtype=np.float32)

    images = np.zeros((1, 3, 16, 16), dtype=np.float32)
    largest, _, share = difference(Constant(), broken, [images, images])
    assert np.isnan(largest)
    assert share == 0


def test_where_the_data_is_gone_noise_is_compared_and_the_answer_says_so(
    tiny_run: Any, make_network: MakeNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run.freeze(root=tmp_path / "gone")
    batches, real = samples(run.data)
    assert (real, [batch.shape for batch in batches]) == (0, [(2, 3, 37, 53)])
    net = make_network()
    monkeypatch.setattr(exporting, "onnx_of", lambda *_: b"a graph")
    monkeypatch.setattr(exporting, "runner", lambda _: ("a fake", Fake(net, 0.0)))
    assert "noise, for no test image could be read" in exported(task_of(run, net, "onnx", tmp_path / "n.onnx")).parity


def test_real_images_are_compared_as_the_network_sees_them(half_run: Any) -> None:
    batches, real = samples(half_run.data)
    assert real == 3
    assert [batch.shape for batch in batches[1:]] == [(1, 3, 16, 20), (1, 3, 18, 16), (1, 3, 16, 20)]
    assert all(batch.dtype == np.float32 and 0 <= batch.min() <= batch.max() <= 1 for batch in batches)
    with pytest.raises(ConfigError):
        exporting.read_image(half_run.data.root / "none.png")
