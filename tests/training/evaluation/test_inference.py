"""Tests of the labels that are written from the probabilities of regions."""

import numpy as np
import pytest
import torch
from oracle import oracle_for, quiet_dataset
from torch import nn

from medmim.data.loading.preprocess import PreprocessedVolume, VolumeLoader
from medmim.data.loading.preprocessing_plan import PreprocessingPlan
from medmim.training.evaluation.inference import (
    RegionProbabilities,
    all_flips,
    class_groups,
    class_outside,
    labels_of,
    labels_on_grid,
    labels_on_source_grid,
    membership,
    segment,
    window_count,
)
from medmim.training.evaluation.postprocessing import apply_postprocessing

NESTED = (("whole", (1, 2, 3)), ("core", (2, 3)), ("enhancing", (3,)))
CROSSED = (("left", (1, 2)), ("right", (2, 3)), ("rest", (3,)))


@pytest.mark.parametrize("regions", [NESTED, CROSSED])
def test_labels_of_the_masks_of_regions_are_the_labels(regions):
    label = torch.randint(0, 4, (6, 5, 4), generator=torch.Generator().manual_seed(0))
    masks = membership(regions)[:, label].float()
    assert torch.equal(labels_of(masks, regions), label)
    prepared = PreprocessedVolume(masks, None, np.eye(4), 2)
    np.testing.assert_array_equal(labels_on_source_grid(masks, prepared, (6, 5, 4), regions), label)
    assert torch.equal(labels_on_grid(masks, np.eye(4), (6, 5, 4), np.eye(4), regions).long(), label)


def test_later_regions_are_written_over_earlier_ones():
    probabilities = torch.tensor([[0.9, 0.2, 0.6], [0.6, 0.6, 0.5], [0.4, 0.4, 0.9]])
    assert labels_of(probabilities, NESTED).tolist() == [2, 2, 3]
    assert labels_of(probabilities, None).tolist() == [0, 1, 2]


def test_classes_alone_are_scored_without_regions():
    assert class_groups({2: "b", 1: "a"}, None) == {"a": (1,), "b": (2,)}
    assert class_groups({1: "a", 2: "b", 3: "c"}, NESTED) == dict(NESTED)


def test_a_voxel_outside_a_region_belongs_to_the_region_around_it():
    assert [class_outside(number, (2, 3), NESTED) for number in (2, 3)] == [1, 1]
    assert class_outside(3, (1, 2, 3), NESTED) == 0
    assert class_outside(2, (2, 3), CROSSED) == 1
    assert class_outside(2, (2,), None) == 0


def test_removed_components_of_a_region_stay_in_the_region_around_them():
    labels = np.ones((9, 5, 5), np.uint8)
    labels[1:4, 1:4, 1:4], labels[2, 2, 2], labels[7, 2, 2] = 2, 3, 3
    rules = {"core": {"largest_component": 1.0}, "enhancing": {"min_ml": 1.5}}
    found = apply_postprocessing(labels, {1: "a", 2: "b", 3: "c"}, rules, 1.0, NESTED)
    assert found[7, 2, 2] == 1
    assert found[2, 2, 2] == 2
    assert np.count_nonzero(found != labels) == 2


def test_windows_of_regions_are_averaged_as_probabilities():
    images = torch.randn(1, 1, 3, 3)
    torch.testing.assert_close(RegionProbabilities(nn.Identity())(images), torch.sigmoid(images))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("dims", "size"), [(2, (16, 16)), (3, (16, 16, 16)), (3, (32, 32, 32))])
def test_a_volume_is_segmented_window_by_window(tmp_path, dims, size, precision):
    row, label = quiet_dataset(tmp_path)
    volumes = VolumeLoader(tmp_path, PreprocessingPlan(dims, size), cache_gb=1.0)
    prepared = volumes(row)
    oracle, told, seen = oracle_for(prepared), [], []
    oracle.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    found = segment(
        oracle,
        prepared,
        volumes.plan,
        precision=precision,
        classes=3,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told[-1] == (sum(seen), window_count(prepared, volumes.plan)) == (sum(seen), sum(seen))
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

    plain = segment(Half(), prepared, volumes.plan, precision="fp32", classes=2)
    both = segment(Half(), prepared, volumes.plan, precision="fp32", mirror=True, classes=2)
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
        segment(_Scarce(most), volumes(row), volumes.plan, precision="fp32", classes=2) for most in (100, 1)
    )
    assert torch.allclose(ample, scarce, atol=1e-6)


def test_memory_that_suffices_for_no_window_is_an_error(tmp_path):
    row, _ = quiet_dataset(tmp_path)
    volumes = VolumeLoader(tmp_path, PreprocessingPlan(3, (16, 16, 16)), cache_gb=1.0)
    with pytest.raises(torch.OutOfMemoryError, match="no memory for a window"):
        segment(_Scarce(0), volumes(row), volumes.plan, precision="fp32", classes=2)


class _Places(nn.Module):
    """Logits that depend on the place in the window, so that other windows give other averages."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images):
        ramp = torch.linspace(-1, 2, images[0, 0].numel()).view(images[0, 0].shape) * self.weight
        return torch.cat([images.cumsum(dim=2) * ramp, -images, images * ramp], dim=1)


@pytest.mark.parametrize(("dims", "size"), [(2, (12, 16)), (3, (10, 8, 14)), (3, (9, 32, 7))])
@pytest.mark.parametrize("kilobytes", [1, 150, 230])
def test_slabs_have_the_probabilities_of_the_whole_volume(tmp_path, dims, size, kilobytes):
    row, _ = quiet_dataset(tmp_path)
    volumes = VolumeLoader(tmp_path, PreprocessingPlan(dims, size, mirror_axes=(0, 1)), cache_gb=1.0)
    found, batches = [], []
    for limit_gb in (1.0, kilobytes * 1e-6):
        network = _Places()
        network.register_forward_hook(lambda *_: batches.append(len(found)))
        options = {"precision": "fp32", "mirror": True, "classes": 3, "max_memory_gb": limit_gb}
        found.append(segment(network, volumes(row), volumes.plan, **options))
    assert batches.count(1) > batches.count(0) or kilobytes > 1  # slices are computed in batches
    assert torch.allclose(*found, atol=1e-6)


def test_all_combinations_of_axes_are_flipped():
    assert all_flips([2, 4]) == [(2,), (4,), (2, 4)]
    assert all_flips([]) == []
