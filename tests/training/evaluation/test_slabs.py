"""Slabs against all windows of an axis, one by one."""

import math
import os
import resource

import pytest
import torch

from medmim.errors import DataError
from medmim.training.evaluation.slabs import peak_bytes, slabs_of, tensor_in_file


def starts_of(length, window, step):
    """Starts of windows as MONAI places them."""
    count = math.ceil(max(0, length - window) / step) + 1
    return [max(0, min(number * step, length - window)) for number in range(count)]


@pytest.mark.parametrize("window", [1, 2, 7, 8])
@pytest.mark.parametrize("length", [1, 5, 8, 23, 40])
@pytest.mark.parametrize("most", [1, 9, 17, 30, 100])
def test_each_slab_has_all_windows_over_its_voxels(window, length, most):
    step = max(1, window // 2)
    found = slabs_of(length, window=window, step=step, most=most)
    assert [one.start for one in found] == [0, *(one.stop for one in found[:-1])]
    assert found[-1].stop == length
    for one in found:
        assert 0 <= one.first <= one.start < one.stop <= one.last <= length
        assert one.last - one.first <= max(most, 3 * window)
        inside = [one.first + start for start in starts_of(one.last - one.first, window, step)]
        over = [s for s in starts_of(length, window, step) if s < one.stop and s + window > one.start]
        assert set(over) <= set(inside)
        extra = [s for s in inside if s not in starts_of(length, window, step)]
        assert not [s for s in extra if s < one.stop and s + window > one.start]


def test_the_memory_counts_sums_weights_and_probabilities():
    assert peak_bytes(3, (10, 20, 30)) == 8 * 6000 * 4


def test_a_tensor_in_a_file_is_zero_and_writable():
    found = tensor_in_file((2, 3))
    found[1] += 2
    assert found.tolist() == [[0.0] * 3, [2.0] * 3]
    assert found.dtype == torch.float32


def test_a_system_that_reserves_no_room_writes_zeros(monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")
    found = tensor_in_file((3, 1 << 21))  # more than is written at once
    assert found.shape == (3, 1 << 21)
    assert not found.any()


def test_a_folder_without_room_is_one_line():
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with pytest.raises(
            DataError, match=r"no room for 4.0 GB of probabilities \(File too large"
        ) as raised:
            tensor_in_file((1000, 1000, 1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert raised.value.reason == "no_room_for_probabilities"
