"""The memory of a training step, predicted from shapes."""

from __future__ import annotations

import pytest
from torch import nn

from medmim.training.memory_prediction import predict_memory


def test_every_patch_adds_the_bytes_of_its_feature_maps() -> None:
    """One convolution of 8 channels on 64 × 64 pixels stores 8 × 64 × 64 values for each image."""
    found = predict_memory(lambda: nn.Conv2d(1, 8, 3, padding=1), channels=1, size=(64, 64), value_bytes=2)
    assert found.patch_mb == pytest.approx(8 * 64 * 64 * 2 * 1.3 / 2**20)
    assert found.of_batch(9) - found.of_batch(1) == pytest.approx(8 * found.patch_mb)


def test_nothing_is_allocated_for_a_network_of_any_size() -> None:
    """A layer of 4 TB is counted on the meta device."""
    side = 10**6
    found = predict_memory(lambda: nn.Linear(side, side, bias=False), channels=1, size=(side,), value_bytes=2)
    assert found.fixed_mb > side
