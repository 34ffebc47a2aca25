"""The network has the names, shapes and arithmetic of the widespread implementation, so that its checkpoints fit."""

from __future__ import annotations

import pytest
import torch
from segwatch.trainer.config import ModelConfig
from segwatch.trainer.loop import build_model
from segwatch.trainer.unet import UNet
from torch.nn import functional as F


def expected_shapes(*, base: int, classes: int, bilinear: bool) -> dict[str, tuple[int, ...]]:
    """Name -> shape as the widespread implementation has them, written down from its definition and not from ours."""
    factor = 2 if bilinear else 1
    shapes: dict[str, tuple[int, ...]] = {}

    def double_conv(name: str, fan_in: int, middle: int, fan_out: int) -> None:
        for index, (a, b) in enumerate([(fan_in, middle), (middle, fan_out)]):
            shapes[f"{name}.double_conv.{3 * index}.weight"] = (b, a, 3, 3)
            norm = f"{name}.double_conv.{3 * index + 1}"
            for leaf in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{norm}.{leaf}"] = (b,)
            shapes[f"{norm}.num_batches_tracked"] = ()

    double_conv("inc", 3, base, base)
    for level, (fan_in, fan_out) in enumerate([(1, 2), (2, 4), (4, 8), (8, 16 // factor)], start=1):
        double_conv(f"down{level}.maxpool_conv.1", fan_in * base, fan_out * base, fan_out * base)
    for level, (fan_in, fan_out) in enumerate([(16, 8), (8, 4), (4, 2), (2, factor)], start=1):
        if not bilinear:
            shapes[f"up{level}.up.weight"] = (fan_in * base, fan_in * base // 2, 2, 2)
            shapes[f"up{level}.up.bias"] = (fan_in * base // 2,)
        middle = fan_in * base // 2 if bilinear else fan_out * base
        double_conv(f"up{level}.conv", fan_in * base, middle, fan_out * base // factor)
    shapes["outc.conv.weight"], shapes["outc.conv.bias"] = (classes, base, 1, 1), (classes,)
    return shapes


def reference_forward(weights: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """The forward pass from a state dict alone, in functions."""

    def double_conv(name: str, x: torch.Tensor) -> torch.Tensor:
        for index in (0, 3):
            x = F.conv2d(x, weights[f"{name}.double_conv.{index}.weight"], padding=1)
            norm = f"{name}.double_conv.{index + 1}"
            mean, variance = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
            x = F.relu(F.batch_norm(x, mean, variance, weights[f"{norm}.weight"], weights[f"{norm}.bias"]))
        return x

    skips = [double_conv("inc", images)]
    for level in range(1, 5):
        skips.append(double_conv(f"down{level}.maxpool_conv.1", F.max_pool2d(skips[-1], 2)))
    x = skips.pop()
    for level in range(1, 5):
        skip = skips.pop()
        if f"up{level}.up.weight" in weights:
            x = F.conv_transpose2d(x, weights[f"up{level}.up.weight"], weights[f"up{level}.up.bias"], stride=2)
        else:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        rows, columns = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
        x = F.pad(x, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])
        x = double_conv(f"up{level}.conv", torch.cat([skip, x], dim=1))
    return F.conv2d(x, weights["outc.conv.weight"], weights["outc.conv.bias"])


@pytest.mark.parametrize(
    ("bilinear", "classes", "parameters"),
    [(False, 14, 31_038_478), (False, 2, 31_037_698), (True, 2, 17_263_042), (True, 1, 17_262_977)],
)
def test_the_published_size_has_the_published_number_of_parameters(bilinear, classes, parameters):
    with torch.device("meta"):
        model = UNet(classes=classes, base_channels=64, bilinear=bilinear)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize("base", [1, 2, 64])
def test_names_and_shapes_are_those_of_the_widespread_implementation(base, bilinear):
    with torch.device("meta"):
        model = UNet(classes=5, base_channels=base, bilinear=bilinear)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes == expected_shapes(base=base, classes=5, bilinear=bilinear)


@pytest.mark.parametrize("bilinear", [False, True])
def test_the_forward_pass_is_that_of_the_widespread_implementation(bilinear):
    torch.manual_seed(0)
    model = UNet(classes=3, base_channels=2, bilinear=bilinear)
    images = torch.rand(2, 3, 37, 50)
    with torch.no_grad():
        model(images)  # running statistics that are not 0 and 1
        model.eval()
        assert torch.allclose(model(images), reference_forward(model.state_dict(), images), atol=1e-5)


@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47), (50, 35)])
def test_odd_sizes_come_out_as_they_went_in(height, width, bilinear):
    model = UNet(classes=3, base_channels=2, bilinear=bilinear).eval()
    with torch.no_grad():
        assert model(torch.rand(2, 3, height, width)).shape == (2, 3, height, width)


@pytest.mark.parametrize("upsampling", ["transposed", "bilinear"])
def test_the_way_up_is_what_the_configuration_says(make_spec, upsampling):
    spec = make_spec(model=ModelConfig(base_channels=2, upsampling=upsampling))
    model = build_model(spec, classes=3, device=torch.device("cpu"))
    assert ("up1.up.weight" in model.state_dict()) == (upsampling == "transposed")
