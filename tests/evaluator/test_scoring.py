"""Counting on tensors, against the numpy reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segwatch.evaluator.scoring import LANES, batches_of_one_size, count, count_without_waiting, finite_images

sizes = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), max_size=20)


@given(sizes, st.integers(1, 5))
def test_every_image_is_in_one_batch_and_every_batch_of_one_size(sizes: list[tuple[int, int]], batch_size: int) -> None:
    batches = batches_of_one_size(sizes, batch_size)
    assert sorted(index for batch in batches for index in batch) == list(range(len(sizes)))
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        assert len({sizes[index] for index in batch}) == 1


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), max_size=3 * LANES))
def test_the_count_for_a_gpu_equals_the_one_for_the_cpu(cells: list[int]) -> None:
    vector = torch.tensor(cells, dtype=torch.int64)
    expected = np.bincount(np.array(cells, dtype=np.int64), minlength=7)
    assert count(vector, 7).tolist() == expected.tolist()
    assert count_without_waiting(vector, 7).tolist() == expected.tolist()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_one_bad_logit_marks_its_image_and_no_other(value: float, memory_format: torch.memory_format) -> None:
    logits = torch.full((3, 2, 4, 5), 3e38).to(memory_format=memory_format)  # finite, though their sum is not
    logits[1, 0, 2, 3] = value
    assert finite_images(logits).tolist() == [True, False, True]
