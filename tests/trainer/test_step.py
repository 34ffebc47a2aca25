from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from segwatch.data.batches import Batch
from segwatch.trainer.config import LossConfig
from segwatch.trainer.drills import Drills
from segwatch.trainer.journal import Journal
from segwatch.trainer.optim import Precision, build_optimizer
from segwatch.trainer.step import Stepper
from torch import nn

CPU = torch.device("cpu")


def batch(first: int, count: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 6, 6), generator=generator, dtype=torch.uint8)
    masks = torch.randint(0, 3, (4, 6, 6), generator=generator, dtype=torch.uint8)
    chosen = slice(first, first + count)
    names = tuple(str(index) for index in range(first, first + count))
    return Batch(images=images[chosen], masks=masks[chosen], names=names)


@pytest.fixture
def make_stepper(make_spec, tmp_path):
    def make(**values):
        spec = make_spec(**{"loss": LossConfig(dice=0), **values})
        torch.manual_seed(0)
        model = nn.Conv2d(3, 3, 3, padding=1)  # no BatchNorm: how a step is cut must not change its result
        optimizer = build_optimizer(spec, model.parameters())
        journal = Journal(tmp_path / "journal.jsonl")
        precision = Precision(spec.amp, CPU)
        return model, Stepper(model, optimizer, precision, spec, CPU, classes=3, drills=Drills((), journal))

    return make


def test_uneven_micro_batches_weigh_by_their_images(make_stepper):
    whole_model, whole = make_stepper()
    cut_model, cut = make_stepper()
    loss, norm, skipped, _ = whole.take(1, [batch(0, 3)], images=3).tolist()
    assert cut.take(1, [batch(0, 2), batch(2, 1)], images=3).tolist() == pytest.approx([loss, norm, 0, 1], rel=1e-5)
    assert skipped == 0
    torch.testing.assert_close(cut_model.weight.grad, whole_model.weight.grad)


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_a_loss_of_inf_whose_gradients_are_finite_moves_no_weight(make_stepper, monkeypatch, amp):
    model, stepper = make_stepper(amp=amp)
    before = copy.deepcopy(model.state_dict())
    monkeypatch.setattr(stepper, "_loss", lambda logits, _: logits.float().mean() + float("inf"))
    loss, _, skipped, _ = stepper.take(1, [batch(0, 2)], images=2).tolist()
    assert loss == float("inf")
    assert skipped == 1
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_gradients_are_clipped_and_their_norm_is_told_from_before(make_stepper):
    model, stepper = make_stepper(clip_grad_norm=1e-3)
    _, norm, _, _ = stepper.take(1, [batch(0, 2)], images=2).tolist()
    clipped = torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).norm().item()
    assert clipped == pytest.approx(1e-3, rel=1e-3)
    assert norm > 1e-2


@pytest.mark.parametrize("loss", ["focal", "lovasz", "tversky"])
def test_a_step_learns_from_the_loss_that_the_spec_asks_for(make_stepper, loss):
    _, default = make_stepper()
    _, other = make_stepper(loss=LossConfig(**{"cross_entropy": 0, "dice": 0, loss: 1}))
    losses = [stepper.take(1, [batch(0, 2)], images=2).tolist()[0] for stepper in (default, other)]
    assert 0 < losses[1] < losses[0]


def test_a_class_of_weight_zero_has_no_part_in_a_step(make_stepper):
    model, stepper = make_stepper(loss=LossConfig(dice=0, class_weights=[1.0, 1.0, 0.0]), optimizer="sgd")
    first = batch(0, 2)
    _, norm, skipped, _ = stepper.take(1, [first], images=2).tolist()
    gradient = model.weight.grad.clone()
    assert norm > 0
    assert not skipped
    ignored = replace(first, masks=torch.where(first.masks == 2, 255, first.masks))
    plain_model, plain = make_stepper(loss=LossConfig(dice=0), optimizer="sgd")
    plain.take(1, [ignored], images=2)
    torch.testing.assert_close(plain_model.weight.grad, gradient)


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_after_a_loss_that_is_not_finite_nothing_moves_any_more(make_stepper, monkeypatch, amp):
    model, stepper = make_stepper(amp=amp)
    stepper.take(1, [batch(0, 2)], images=2)
    before = copy.deepcopy(model.state_dict())
    with monkeypatch.context() as broken:
        broken.setattr(stepper, "_loss", lambda logits, _: logits.float().mean() * float("nan"))
        stepper.take(2, [batch(0, 2)], images=2)
    loss, norm, skipped, _ = stepper.take(3, [batch(0, 2)], images=2).tolist()
    assert torch.tensor([loss, norm]).isfinite().all()
    assert skipped == 1
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_after_gradients_that_are_not_finite_training_goes_on(make_stepper):
    model, stepper = make_stepper()
    before = copy.deepcopy(model.state_dict())
    hook = model.weight.register_hook(lambda gradient: gradient * float("inf"))
    assert stepper.take(1, [batch(0, 2)], images=2)[2] == 1
    hook.remove()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert stepper.take(2, [batch(0, 2)], images=2)[2] == 0
    assert not torch.equal(before["weight"], model.weight)
