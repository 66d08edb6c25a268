"""Segmentation of whole volumes by sliding windows."""

import numpy as np
import pytest
import torch
from oracle import oracle_for, quiet_dataset
from torch import nn

from medmim.data.loading.preprocess import VolumeLoader
from medmim.data.loading.preprocessing_plan import PreprocessingPlan
from medmim.training.evaluation.segmentation_inference import all_flips, segment


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("dims", "size"), [(2, (16, 16)), (3, (16, 16, 16)), (3, (32, 32, 32))])
def test_a_volume_is_segmented_window_by_window(tmp_path, dims, size, precision):
    row, label = quiet_dataset(tmp_path)
    volumes = VolumeLoader(tmp_path, PreprocessingPlan(dims, size), cache_gb=1.0)
    prepared = volumes(row)
    found = segment(oracle_for(prepared), prepared, volumes.plan, precision=precision)
    assert found.shape == (3, 22, 20, 18)
    assert found.dtype == torch.float32
    assert torch.allclose(found.sum(dim=0), torch.ones(1))
    assert np.array_equal(found.argmax(dim=0).numpy(), label)


def test_mirroring_averages_the_scores_of_mirrored_images(tmp_path):
    """A network that segments only the right half gives both halves with mirroring."""
    row, _ = quiet_dataset(tmp_path)
    volumes = VolumeLoader(tmp_path, PreprocessingPlan(3, (32, 32, 32)), cache_gb=1.0)
    prepared = volumes(row)

    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, images):
            ramp = torch.linspace(0, 1, images.shape[2]).view(-1, 1, 1) * self.weight
            return torch.stack([ramp.expand(images.shape[2:]), torch.zeros(images.shape[2:])])[None]

    plain = segment(Half(), prepared, volumes.plan, precision="fp32")
    both = segment(Half(), prepared, volumes.plan, precision="fp32", mirror=True)
    assert not torch.allclose(plain, plain.flip(1))
    assert torch.allclose(both, both.flip(1), atol=1e-5)


class _Scarce(nn.Module):
    """Intensity thresholds, on a device with memory for `most` windows."""

    def __init__(self, most):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.most = most

    def forward(self, images):
        if len(images) > self.most:
            raise torch.OutOfMemoryError("no memory for a window")
        return torch.cat([images * self.weight, -images], dim=1)


@pytest.mark.parametrize("dims", [2, 3])
def test_windows_are_computed_one_by_one_where_memory_runs_out(tmp_path, dims):
    row, _ = quiet_dataset(tmp_path)
    volumes = VolumeLoader(tmp_path, PreprocessingPlan(dims, (16,) * dims), cache_gb=1.0)
    ample, scarce = (
        segment(_Scarce(most), volumes(row), volumes.plan, precision="fp32") for most in (100, 1)
    )
    assert torch.allclose(ample, scarce, atol=1e-6)


def test_memory_that_suffices_for_no_window_is_an_error(tmp_path):
    row, _ = quiet_dataset(tmp_path)
    volumes = VolumeLoader(tmp_path, PreprocessingPlan(3, (16, 16, 16)), cache_gb=1.0)
    with pytest.raises(torch.OutOfMemoryError, match="no memory for a window"):
        segment(_Scarce(0), volumes(row), volumes.plan, precision="fp32")


def test_all_combinations_of_axes_are_flipped():
    assert all_flips([2, 4]) == [(2,), (4,), (2, 4)]
    assert all_flips([]) == []
