"""What the look at a device says of one that computes, and of one that does not."""

from __future__ import annotations

import torch
from segwatch.trainer import device_probe
from segwatch.trainer.device_probe import tried_out

CPU = torch.device("cpu")


def test_a_device_that_computes_is_said_to():
    assert tried_out(torch, CPU) == "cpu: 8 matrix products and 64 MiB of memory came out right"


def test_products_and_bytes_that_come_out_wrong_are_counted(monkeypatch):
    whole = torch.full

    def one_bit_flipped(*arguments: object, **more: object) -> torch.Tensor:
        memory = whole(*arguments, **more)
        memory[12345] ^= 1
        return memory

    monkeypatch.setattr(torch, "full", one_bit_flipped)
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda one, other: torch.mm(one, other) + 1)
    assert tried_out(torch, CPU) == "cpu: 8 of 8 matrix products and 2 bytes of memory are wrong"


def test_a_device_that_fails_is_quoted(monkeypatch):
    def fails(*_: object) -> int:
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered\nand much more")

    monkeypatch.setattr(device_probe, "_wrong_bytes", fails)
    assert tried_out(torch, CPU) == "cpu fails: CUDA error: uncorrectable ECC error encountered"
