"""Mask statistics against plain loops in NumPy."""

import math

import numpy as np
import pytest
import torch

from medmim.masks import build_mask
from medmim.masks.statistics import density_variance, distances_to_visible, mask_statistics, mask_variety

GRIDS = [(7, 5), (2, 6), (4, 3, 5)]


def masks(grid, *, ratio=0.6, batch=3):
    return build_mask("random", ratio=ratio).sample(batch, grid, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_density_variance_is_computed_over_windows_inside_the_grid(grid):
    hidden = masks(grid).numpy()
    window = [min(3, length) for length in grid]
    variances = []
    for sample in hidden:
        starts = np.ndindex(*[length - side + 1 for length, side in zip(grid, window, strict=True)])
        shares = [
            sample[tuple(slice(s, s + w) for s, w in zip(start, window, strict=True))].mean()
            for start in starts
        ]
        variances.append(np.var(shares))
    assert density_variance(torch.from_numpy(hidden)) == pytest.approx(np.mean(variances))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_distances_are_to_the_nearest_visible_cell(grid):
    hidden = masks(grid)
    means, largest = [], []
    for sample in hidden.numpy():
        seen = np.argwhere(~sample)
        nearest = [min(math.dist(cell, other) for other in seen) for cell in np.argwhere(sample)]
        means.append(np.mean(nearest))
        largest.append(max(nearest))
    assert distances_to_visible(hidden) == pytest.approx((np.mean(means), np.mean(largest)))


def test_hidden_share_of_tissue_and_lesion():
    images, labels = torch.zeros(3, 1, 8, 8), torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    images[..., 0:4, :] = 1.0
    labels[0, 0, 0, 0:4] = 1  # two cells of a pair of voxels each
    labels[1, 0, 7, 7] = 2
    hidden = torch.zeros(3, 4, 4, dtype=torch.bool)
    hidden[0, 0, 0] = True  # one of eight tissue cells, half of the lesion
    hidden[1, 3, 3] = True  # no tissue, all of the lesion
    hidden[2, 1, 1] = True  # tissue; no lesion in this sample
    found = mask_statistics(hidden, requested_ratio=1 / 16, images=images, labels=labels)
    assert found.tissue_hidden == pytest.approx((1 / 8 + 0 + 1 / 8) / 3)
    assert found.lesion_hidden == pytest.approx((0.5 + 1.0) / 2)
    assert found.lesion_lost == pytest.approx(0.5)


def test_tissue_and_lesion_statistics_are_none_without_image_or_lesion():
    plain = mask_statistics(masks((4, 4)), requested_ratio=0.6)
    assert (plain.tissue_hidden, plain.lesion_hidden, plain.lesion_lost) == (None,) * 3
    empty = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    bare = mask_statistics(masks((4, 4)), requested_ratio=0.6, images=torch.ones(3, 1, 8, 8), labels=empty)
    assert (bare.tissue_hidden, bare.lesion_hidden) == (None, None)


def test_requested_and_actual_ratio_are_reported():
    found = mask_statistics(masks((3, 3), ratio=0.7), requested_ratio=0.7).as_json()
    assert (found["requested_ratio"], found["realised_ratio"]) == (0.7, round(6 / 9, 6))


def test_variety_counts_different_masks_among_the_draws():
    mesh = mask_variety(build_mask("mesh", ratio=0.5), (14, 14), seed=0)
    assert mesh.num_draws == 255
    assert mesh.num_distinct > 200
    few = mask_variety(build_mask("random", ratio=0.5), (2, 1), seed=0)
    assert (few.num_draws, few.num_distinct) == (256, 2)
