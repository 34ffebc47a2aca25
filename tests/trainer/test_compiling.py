"""Compiling: only where it is wished, works and pays; whatever it does, the run underneath is the same."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from segwatch.checkpoints.files import load_weights
from segwatch.checkpoints.manifest import read_manifest
from segwatch.durable import read_lines
from segwatch.trainer import compiling
from segwatch.trainer.__main__ import run
from segwatch.trainer.compiling import prepare
from segwatch.trainer.contract import JOURNAL_LINE, Drill, ExitCode, Started
from segwatch.trainer.diagnose import diagnose, was_compiled
from segwatch.trainer.diagnosis import DiagnosisSpec, Finding
from torch import nn


def backend(gm, _examples):
    """Compiles nothing: the traced graph as it is, which computes the very same bits."""
    return gm.forward


def failing(_gm, _examples):
    raise RuntimeError("no C++ compiler here\nand much more")


def wrong(gm, _examples):
    return lambda *inputs: tuple(output + 1 if output.requires_grad else output for output in gm.forward(*inputs))


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """Nothing that was compiled before, and a cache that goes with the test."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def prepared(network, wish, tmp_path, *, sizes=((8, 8),)):
    return prepare(network, wish, sizes=sizes, batch_size=2, autocast=nullcontext, cache=tmp_path / "compiled")


def trained(spec):
    assert run(spec.directory / "spec.json", lambda: False) is ExitCode.FINISHED
    raw, _ = read_lines(spec.directory / "journal.jsonl")
    [started] = [line for line in map(JOURNAL_LINE.validate_json, raw) if isinstance(line, Started)]
    directory = spec.run_dir / "checkpoints"
    return started.compiled, load_weights(directory, read_manifest(directory / f"checkpoint_epoch{spec.epochs}.json"))


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_compiled_or_failed_an_attempt_writes_the_checkpoints_of_one_without(make_spec, monkeypatch):
    # What is compiled has torch's own convolutions: so that bits can be compared, the others have them as well.
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    wanted = {"epochs": 1, "augment": {"crop": 32}}
    words, plain = trained(make_spec(run="plain", **wanted))
    assert words == ""
    monkeypatch.setattr(compiling, "BACKEND", backend)
    words, compiled = trained(make_spec(run="compiled", compile=True, **wanted))
    assert words.startswith("compiled: ")
    assert same(compiled, plain)
    monkeypatch.setattr(compiling, "BACKEND", failing)
    torch.compiler.reset()
    words, failed = trained(make_spec(run="failed", compile=True, **wanted))
    assert words.startswith("not compiled, it failed: ")
    assert "no C++ compiler here" in words
    assert same(failed, plain)
    monkeypatch.setattr(compiling, "BACKEND", backend)
    torch.compiler.reset()
    resumed = {"resume_from": "checkpoints/checkpoint_epoch1.json", "attempt": 2, "augment": {"crop": 32}}
    _, further = trained(make_spec(run="plain", **resumed))
    _, other_way = trained(make_spec(run="failed", compile=True, **resumed))
    assert same(further, other_way)


def test_a_real_compiler_that_is_not_there_is_a_notice(tmp_path, monkeypatch):
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("/there/is/no/compiler",))
    monkeypatch.setattr(config, "compile_threads", 1)
    network = model()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    forward = prepared(network, True, tmp_path)
    assert forward.network is network
    assert forward.because.startswith("not compiled, it failed: ")
    assert same(before, network.state_dict())


def test_what_computes_something_else_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "BACKEND", wrong)
    network = model()
    forward = prepared(network, True, tmp_path)
    assert forward.network is network
    assert "MiscompiledError: its logits are" in forward.because


def test_the_trial_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "BACKEND", backend)
    network = model().eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    chance = torch.get_rng_state()
    prepared(network, True, tmp_path)
    assert same(before, network.state_dict())
    assert not network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(chance, torch.get_rng_state())


@pytest.mark.parametrize(("wish", "seconds", "kept"), [("auto", 0.96, False), ("auto", 0.94, True), (True, 2.0, True)])
def test_auto_keeps_it_only_where_it_is_faster(tmp_path, monkeypatch, wish, seconds, kept):
    network = model()
    times = compiling._Times(compiled=seconds, eager=1.0)
    monkeypatch.setattr(compiling, "_tried_out", lambda *_: (nn.Identity(), times))
    forward = prepared(network, wish, tmp_path)
    assert (forward.network is not network) is kept
    assert forward.because.startswith("compiled: " if kept else "not compiled, it does not pay: ")


def test_only_full_batches_are_compiled(tmp_path, monkeypatch):
    seen = []
    times = compiling._Times(compiled=1.0, eager=1.0)
    monkeypatch.setattr(compiling, "_tried_out", lambda *_: (lambda images: seen.append(len(images)) or images, times))
    network = prepared(nn.Identity(), True, tmp_path).network
    network(torch.zeros(2, 3, 8, 8))
    assert seen == [2]
    network(torch.zeros(1, 3, 8, 8))
    assert seen == [2]


def test_without_a_wish_or_with_several_sizes_no_compiler_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("nobody wished it"))
    network = model()
    assert prepared(network, False, tmp_path).because == ""
    several = prepared(network, True, tmp_path, sizes=((8, 8), (8, 16)))
    assert several.network is network
    assert "2 sizes" in several.because


def broken(make_spec, monkeypatch, compile_with):
    """An attempt that ran compiled and met a NaN, and what its replay says where `compile_with` compiles."""
    monkeypatch.setattr(compiling, "BACKEND", backend)
    spec = make_spec(compile=True, drills=(Drill.parse("nan-loss@6"),), epochs=3, augment={"crop": 32})
    assert run(spec.directory / "spec.json", lambda: False) is ExitCode.UNSTABLE
    torch.compiler.reset()
    compiled = []
    monkeypatch.setattr(
        compiling, "BACKEND", lambda graph, examples: compiled.append(1) or compile_with(graph, examples)
    )
    asked = DiagnosisSpec(run_dir=spec.run_dir, incident=1, attempt=1, directory="incidents/001", good=(), seconds=60)
    return diagnose(asked), compiled


def test_a_replay_runs_the_network_compiled_where_training_did(make_spec, monkeypatch):
    diagnosis, compiled = broken(make_spec, monkeypatch, backend)
    assert diagnosis.finding is Finding.TRANSIENT
    assert compiled
    assert "compiled" not in diagnosis.because


def test_a_replay_that_cannot_compile_says_so(make_spec, monkeypatch):
    diagnosis, compiled = broken(make_spec, monkeypatch, failing)
    assert (diagnosis.finding, bool(compiled)) == (Finding.TRANSIENT, True)
    assert "training ran the network compiled, and the replay could not: not compiled, it failed" in diagnosis.because


def test_what_training_did_not_compile_in_the_end_no_replay_compiles(make_spec):
    spec = make_spec(compile="auto")
    assert was_compiled(spec.directory, spec) == "auto", "it has not said"
    assert run(make_spec(compile="auto", epochs=1).directory / "spec.json", lambda: False) is ExitCode.FINISHED
    assert was_compiled(spec.directory, spec) is False, "images of two sizes"
