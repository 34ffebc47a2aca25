from __future__ import annotations

import pytest
import torch
from segwatch.trainer.unet import UNet


def test_the_published_size_has_31_million_parameters_for_14_classes():
    with torch.device("meta"):
        model = UNet(classes=14, base_channels=64)
    assert sum(parameter.numel() for parameter in model.parameters()) == 31_038_478


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47), (50, 35)])
def test_odd_sizes_come_out_as_they_went_in(height, width):
    model = UNet(classes=3, base_channels=2).eval()
    with torch.no_grad():
        assert model(torch.rand(2, 3, height, width)).shape == (2, 3, height, width)
