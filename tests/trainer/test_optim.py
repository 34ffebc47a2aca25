from __future__ import annotations

import copy
import math
from contextlib import nullcontext

import pytest
import torch
from segwatch.trainer.config import Amp, Optimizer
from segwatch.trainer.optim import (
    Precision,
    build_optimizer,
    clear_nonfinite_moments,
    computes_bf16,
    lr_at,
    match_layouts,
    override,
    set_lr,
    step_unless,
)
from segwatch.trainer.unet import UNet
from torch import nn

YES, NO = torch.ones(()), torch.zeros(())


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return UNet(classes=3, base_channels=2).to(memory_format=torch.channels_last)


def give_gradients(model: nn.Module, value: float | None = None) -> None:
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        gradient = torch.empty_like(parameter)
        gradient.copy_(torch.randn(parameter.shape, generator=generator) if value is None else torch.tensor(value))
        parameter.grad = gradient


def frozen(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    return copy.deepcopy({"weights": model.state_dict(), "state": optimizer.state_dict()["state"]})


def same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one == other


@pytest.mark.parametrize("optimizer_name", list(Optimizer))
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_refused_step_moves_no_weight_no_moment_and_no_counter(make_spec, optimizer_name, bad):
    spec = make_spec(optimizer=optimizer_name, weight_decay=0.1)
    model = small_model()
    optimizer = build_optimizer(spec, model.parameters())
    match_layouts(optimizer)
    give_gradients(model)
    step_unless(optimizer, NO)
    before = frozen(model, optimizer)

    give_gradients(model, bad)
    step_unless(optimizer, YES)
    assert same(before, frozen(model, optimizer))

    give_gradients(model)
    step_unless(optimizer, NO)
    assert not same(before["weights"], model.state_dict())
    assert not hasattr(optimizer, "found_inf")


@pytest.mark.parametrize("optimizer_name", list(Optimizer))
def test_a_refused_first_step_leaves_the_run_as_if_it_had_not_been(make_spec, optimizer_name):
    """Fused SGD allocates its momentum before it looks at the flag: without care it would step from garbage."""
    spec = make_spec(optimizer=optimizer_name)

    def weights_after(*, refused_first: bool) -> dict:
        model = small_model()
        optimizer = build_optimizer(spec, model.parameters())
        match_layouts(optimizer)
        if refused_first:
            give_gradients(model, math.nan)
            step_unless(optimizer, YES)
        for _ in range(2):
            give_gradients(model)
            step_unless(optimizer, NO)
        return model.state_dict()

    assert same(weights_after(refused_first=True), weights_after(refused_first=False))


def test_fused_adamw_on_channels_last_weights_equals_the_plain_one_also_after_loading_a_contiguous_state(make_spec):
    spec = make_spec(weight_decay=0.1)
    fused_model, plain_model = small_model(), small_model()
    fused = build_optimizer(spec, fused_model.parameters())
    plain = torch.optim.AdamW(plain_model.parameters(), lr=spec.lr, weight_decay=0.1, foreach=False, fused=False)
    for round_ in range(3):
        if round_ == 1:
            state = fused.state_dict()
            for entry in state["state"].values():
                entry.update({name: value.contiguous() for name, value in entry.items()})
            fused.load_state_dict(state)
            match_layouts(fused)
        for model, optimizer in ((fused_model, fused), (plain_model, plain)):
            give_gradients(model)
            optimizer.step()
    for one, other in zip(fused_model.parameters(), plain_model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_the_specs_values_win_over_those_that_loading_brought_back(make_spec):
    old, new = make_spec(lr=0.1, weight_decay=0.5, optimizer="sgd"), make_spec(lr=0.05, weight_decay=0, optimizer="sgd")
    model = small_model()
    saved = build_optimizer(old, model.parameters())
    override(saved, old)
    set_lr(saved, 50, 100, "poly")
    restored = build_optimizer(new, model.parameters())
    restored.load_state_dict(saved.state_dict())
    assert restored.param_groups[0]["initial_lr"] == 0.1

    override(restored, new)
    assert set_lr(restored, 1, 100, "poly") == 0.05
    assert restored.param_groups[0]["lr"] == restored.param_groups[0]["initial_lr"] == 0.05
    assert restored.param_groups[0]["weight_decay"] == 0


@pytest.mark.parametrize(
    ("schedule", "step", "share"),
    [
        ("constant", 1, 1.0),
        ("constant", 100, 1.0),
        ("poly", 1, 1.0),
        ("poly", 51, 0.5**0.9),
        ("poly", 101, 0.0),
        ("cosine", 1, 1.0),
        ("cosine", 51, 0.5),
        ("cosine", 101, 0.0),
        ("cosine", 500, 0.0),
    ],
)
def test_learning_rate_is_a_function_of_the_step_alone(schedule, step, share):
    assert lr_at(0.2, step, 100, schedule) == pytest.approx(0.2 * share)


@pytest.mark.parametrize("amp", list(Amp))
def test_the_precision_in_force_is_read_back_from_torch(amp):
    assert Precision(amp, torch.device("cpu")).in_force() is amp


def test_a_gpu_that_only_emulates_bf16_does_not_compute_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not computes_bf16(torch.device("cuda:0"))
    assert computes_bf16(torch.device("cpu"))


@pytest.mark.parametrize("name", ["adamw", "sgd", "rmsprop"])
def test_moments_that_are_not_finite_are_cleared_with_their_companions_and_no_others(name):
    parameter = torch.nn.Parameter(torch.ones(2, 3))
    kinds = {
        "adamw": lambda: torch.optim.AdamW([parameter], fused=True),
        "sgd": lambda: torch.optim.SGD([parameter], lr=0.1, momentum=0.9),
        "rmsprop": lambda: torch.optim.RMSprop([parameter], momentum=0.9),
    }
    optimizer = kinds[name]()
    parameter.grad = torch.full((2, 3), 0.5)
    optimizer.step()
    moments = [value for value in optimizer.state[parameter].values() if value.shape == parameter.shape]
    assert clear_nonfinite_moments(optimizer) == 0
    moments[0][1, 2] = float("nan")
    moments[-1][0, 1] = float("inf")
    kept = [moment[0, 0].item() for moment in moments]
    assert clear_nonfinite_moments(optimizer) == 2
    for moment, value in zip(moments, kept, strict=True):
        assert moment[1, 2] == moment[0, 1] == 0
        assert moment[0, 0] == value != 0
