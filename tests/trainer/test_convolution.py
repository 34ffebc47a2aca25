"""The weight gradient by matrix products: the same as torch's own, in every shape, and only where it pays."""

from __future__ import annotations

import pytest
import torch
from segwatch.trainer import convolution
from segwatch.trainer.convolution import LEAST_CHANNELS, Conv3x3, weight_gradient
from torch.nn import functional as F

WIDE = LEAST_CHANNELS


@pytest.fixture
def products(monkeypatch):
    """The shapes of which the gradient was taken by products, as on a CPU without AVX-512."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    seen = []

    def counted(x, gradient):
        seen.append(tuple(x.shape))
        return weight_gradient(x, gradient)

    monkeypatch.setattr(convolution, "weight_gradient", counted)
    return seen


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(memory_format=torch.channels_last)


def gradients(network: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    out = network(x)
    (out * numbers(*out.shape, seed=1).to(out.dtype)).sum().backward()
    return x.grad, network.weight.grad


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 7), (2, 5, 1), (3, 4, 6), (2, 37, 53), (1, 150, 151), (4, 16, 16)])
@pytest.mark.parametrize("channels", [(WIDE, WIDE), (WIDE, 2 * WIDE), (3 * WIDE, WIDE)])
def test_both_gradients_are_those_of_float64(products, shape, channels):
    images, height, width = shape
    network = Conv3x3(*channels).to(memory_format=torch.channels_last)
    exact = torch.nn.Conv2d(*channels, 3, padding=1, bias=False).double()
    exact.load_state_dict(network.state_dict())
    x = numbers(images, channels[0], height, width)
    for ours, expected in zip(gradients(network, x), gradients(exact, x.double()), strict=True):
        torch.testing.assert_close(ours.double(), expected, rtol=0, atol=2e-6 * float(expected.abs().max()))
    assert products == [tuple(x.shape)]


def test_in_several_pieces_it_is_the_same(monkeypatch):
    x, gradient = numbers(2, WIDE, 9, 11), numbers(2, WIDE, 9, 11, seed=1)
    whole = weight_gradient(x, gradient)
    for rows in (1, 7, 64, 1 << 20):
        monkeypatch.setattr(convolution, "ROWS", rows)
        torch.testing.assert_close(weight_gradient(x, gradient), whole, rtol=1e-4, atol=1e-4)


def test_twice_the_same_bits():
    x, gradient = numbers(2, WIDE, 60, 70), numbers(2, WIDE, 60, 70, seed=1)
    assert torch.equal(weight_gradient(x, gradient), weight_gradient(x, gradient))


def test_what_is_not_finite_arrives_in_the_gradient(products):
    network = Conv3x3(WIDE, WIDE).to(memory_format=torch.channels_last)
    x = numbers(1, WIDE, 5, 5)
    x[0, 3, 2, 2] = float("nan")
    _, found = gradients(network, x)
    assert products
    assert not found[:, 3].isfinite().any()


def test_a_weight_that_is_not_trained_and_an_input_without_gradient_cost_nothing(products):
    network = Conv3x3(WIDE, WIDE).to(memory_format=torch.channels_last)
    network(numbers(1, WIDE, 5, 5)).sum().backward()
    assert network.weight.grad is not None
    network.requires_grad_(False)
    x = numbers(1, WIDE, 5, 5).requires_grad_()
    network(x).sum().backward()
    assert x.grad is not None
    assert len(products) == 1


@pytest.mark.parametrize("capability", ["AVX512", "DEFAULT"])
def test_where_torch_has_a_kernel_or_nothing_was_measured_torch_does_it(products, monkeypatch, capability):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    gradients(Conv3x3(WIDE, WIDE).to(memory_format=torch.channels_last), numbers(1, WIDE, 5, 5))
    assert products == []


def test_narrow_layers_other_layouts_and_bf16_are_left_to_torch(products):
    gradients(Conv3x3(WIDE - 1, WIDE), numbers(1, WIDE - 1, 5, 5))
    gradients(Conv3x3(WIDE, WIDE), numbers(1, WIDE, 5, 5).contiguous())
    with torch.autocast("cpu", torch.bfloat16):
        gradients(Conv3x3(WIDE, WIDE), numbers(1, WIDE, 5, 5))
    assert products == []


def test_without_gradients_it_is_a_plain_convolution(products):
    network, x = Conv3x3(WIDE, WIDE), numbers(1, WIDE, 6, 6)
    with torch.no_grad():
        assert torch.equal(network(x), F.conv2d(x, network.weight, padding=1))
    assert products == []
