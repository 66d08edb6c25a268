"""The error of a method relative to the variance of its target."""

import pytest
import torch

from medmim.methods.base import relative_error


def test_the_relative_error_is_0_for_the_truth_and_1_for_its_mean_or_a_constant_truth():
    truth = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    means = truth.mean(dim=0).expand_as(truth)
    assert relative_error(truth, truth) == 0
    assert relative_error(means, truth).item() == pytest.approx(1)
    assert relative_error(means, means.contiguous()) == 1
