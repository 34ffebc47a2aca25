"""The common way, re-created: what the widespread UNet code and its forks do where segwatch does something else.

Honest copies in a few lines, not straw men: the same network, the same optimizer, the same arithmetic. `python -m
tests.bench.common_way WEIGHTS CLASSES BASE IMAGES MASKS SCALE` is its fresh process that scores one checkpoint.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from segwatch.trainer.unet import UNet
from torch import Tensor, nn
from torch.nn import functional as F


def load_pair(image: Path, mask: Path, scale: float, mask_values: Sequence[int]) -> tuple[Tensor, Tensor]:
    """float32 (3, H, W) in [0, 1] and int64 (H, W): decoded at full size, resized, the mask's values looped over."""
    picture, labels = Image.open(image), Image.open(mask)
    size = int(scale * picture.width), int(scale * picture.height)
    pixels = np.asarray(picture.resize(size, resample=Image.Resampling.BICUBIC)).transpose((2, 0, 1)) / 255.0
    small = np.asarray(labels.resize(size, resample=Image.Resampling.NEAREST))
    classes = np.zeros((size[1], size[0]), dtype=np.int64)
    for index, value in enumerate(mask_values):
        classes[small == value] = index
    return torch.as_tensor(pixels.copy()).float().contiguous(), torch.as_tensor(classes).long().contiguous()


def load_image(path: Path, scale: float) -> np.ndarray:
    """uint8 (H, W, 3): decoded at full size, then resized."""
    picture = Image.open(path)
    return np.asarray(
        picture.resize((int(scale * picture.width), int(scale * picture.height)), Image.Resampling.BICUBIC)
    )


def dice_loss(probability: Tensor, one_hot: Tensor, epsilon: float = 1e-6) -> Tensor:
    """1 - Dice over a one-hot copy of the truth, pooled over everything."""
    overlap = 2 * (probability * one_hot).sum(dim=(-1, -2, -3))
    sums = probability.sum(dim=(-1, -2, -3)) + one_hot.sum(dim=(-1, -2, -3))
    return 1 - ((overlap + epsilon) / (sums + epsilon)).mean()


class Steps:
    """Optimizer steps in NCHW float32, eager, with what is logged read back at each of them."""

    def __init__(self, *, classes: int, base_channels: int, device: torch.device) -> None:
        torch.manual_seed(0)
        self.model = UNet(classes=classes, base_channels=base_channels).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self._classes = classes
        self._device = device

    def step(self, images: Tensor, masks: Tensor) -> tuple[float, float, float]:
        """On float32 (N, 3, H, W) and int64 (N, H, W): loss, Dice loss, gradient norm."""
        images, masks = images.to(self._device), masks.to(self._device)
        logits = self.model(images)
        one_hot = F.one_hot(masks, self._classes).permute(0, 3, 1, 2).float()
        dice = dice_loss(F.softmax(logits, dim=1).float(), one_hot)
        loss = nn.functional.cross_entropy(logits, masks) + dice
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item(), dice.item(), norm.item()


def confusion_of(logits: Tensor, masks: Tensor, classes: int) -> Tensor:
    """int64 (C, C) of one batch as torchmetrics counts it: argmax, the ignored left out, one bincount."""
    predicted = logits.argmax(dim=1).flatten()
    truth = masks.flatten()
    counted = truth != 255
    cells = truth[counted] * classes + predicted[counted]
    return torch.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def score(weights: Path, *, classes: int, base_channels: int, images: Path, masks: Path, scale: float) -> Tensor:
    """One checkpoint over a directory, image by image, where the machine is fastest."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = UNet(classes=classes, base_channels=base_channels)
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    model.to(device).eval()
    total = torch.zeros(classes, classes, dtype=torch.int64)
    with torch.no_grad():
        for image, mask in zip(sorted(images.iterdir()), sorted(masks.iterdir()), strict=True):
            pixels, labels = load_pair(image, mask, scale, range(classes))
            total += confusion_of(model(pixels[None].to(device)), labels[None].to(device), classes).cpu()
    return total


def main(arguments: list[str]) -> None:
    weights, classes, base, images, masks, scale = arguments
    places = {"images": Path(images), "masks": Path(masks)}
    score(Path(weights), classes=int(classes), base_channels=int(base), scale=float(scale), **places)


if __name__ == "__main__":
    main(sys.argv[1:])
