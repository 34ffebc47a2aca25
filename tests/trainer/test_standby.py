"""A worker that waits for its order holds no GPU memory: nothing that it does beforehand begins to use CUDA."""

from __future__ import annotations

import subprocess
import sys

import pytest

WITH_A_GPU = """
import torch

def begin(*_, **__):
    raise SystemExit("CUDA is begun")

torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 1
torch.cuda._lazy_init = begin
from segwatch.trainer import standby
standby.load()
standby.rehearse()
assert not torch.cuda.is_initialized()
{then}
print("nothing was begun")
"""


@pytest.mark.parametrize(
    ("then", "said"),
    [("", "nothing was begun"), ("torch.zeros(1, device='cuda')", "CUDA is begun")],
    ids=["as-it-is", "and-then-a-tensor"],
)
def test_a_standby_that_has_loaded_and_rehearsed_has_not_begun_to_use_cuda(then: str, said: str) -> None:
    code = WITH_A_GPU.format(then=then)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert said in done.stdout + done.stderr
