"""PURE: a confusion matrix in, numbers out. Knows nothing about images, files or torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClassScore:
    iou: float | None
    dice: float | None
    accuracy: float | None
    support: int
    predicted: int


@dataclass(frozen=True)
class Scores:
    miou: float | None
    mean_dice: float | None
    mean_accuracy: float | None
    fwiou: float | None
    pixel_accuracy: float | None
    per_class: tuple[ClassScore, ...]
    classes_averaged: int
