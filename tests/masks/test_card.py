"""Mask cards against plain loops in numpy."""

import math

import numpy as np
import pytest
import torch

from medmim.masks import build_mask
from medmim.masks.card import card, density_variance, distances_to_visible

GRIDS = [(7, 5), (2, 6), (4, 3, 5)]


def masks(grid, *, ratio=0.6, batch=3):
    return build_mask("random", ratio=ratio).sample(batch, grid, generator=torch.Generator().manual_seed(0))


def scene(grid, cell=2, batch=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 1, *[cell * length for length in grid], generator=generator)


def spread(sample, cell=2):
    return np.kron(sample, np.ones([cell] * sample.ndim)).astype(bool)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_variance_of_density_is_over_windows_inside_the_grid(grid):
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


def entropy(values, low, high):
    counts = [0] * 64
    for value in values.ravel():
        counts[min(int((value - low) / (high - low) * 64), 63)] += 1
    return -sum(n / values.size * math.log2(n / values.size) for n in counts if n)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_entropy_similarity_and_trade_off(grid):
    hidden, images = masks(grid), scene(grid)
    found = card(hidden, requested_ratio=0.6, images=images)
    rows = []
    for sample, image in zip(hidden.numpy(), images[:, 0].double().numpy(), strict=True):
        low, high = image.min(), image.max()
        where = spread(sample)
        whole = entropy(image, low, high)
        gain = whole - entropy(np.where(where, low, image), low, high)
        full, pieces = (image - low).ravel(), (np.where(where, image, low) - low).ravel()
        cosine = full @ pieces / np.linalg.norm(full) / np.linalg.norm(pieces)
        rows.append((gain, cosine, 2 * cosine * (gain / whole) / (cosine + gain / whole)))
    assert (found.entropy_gain, found.similarity, found.trade_off) == pytest.approx(
        tuple(np.mean(rows, axis=0))
    )


def test_more_hidden_is_more_brought_back():
    images = scene((8, 8), batch=1)
    cards = [
        card(masks((8, 8), ratio=ratio, batch=1), requested_ratio=ratio, images=images)
        for ratio in (0.2, 0.5, 0.8)
    ]
    for name in ("entropy_gain", "similarity", "trade_off"):
        values = [getattr(found, name) for found in cards]
        assert values == sorted(values)
        assert values[0] > 0


def test_tissue_and_lesion():
    images, labels = torch.zeros(3, 1, 8, 8), torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    images[..., 0:4, :] = 1.0
    labels[0, 0, 0, 0:4] = 1  # two cells of a pair of voxels each
    labels[1, 0, 7, 7] = 2
    hidden = torch.zeros(3, 4, 4, dtype=torch.bool)
    hidden[0, 0, 0] = True  # one of eight tissue cells, half of the lesion
    hidden[1, 3, 3] = True  # no tissue, all of the lesion
    hidden[2, 1, 1] = True  # tissue; no lesion in this sample
    found = card(hidden, requested_ratio=1 / 16, images=images, labels=labels)
    assert found.tissue_hidden == pytest.approx((1 / 8 + 0 + 1 / 8) / 3)
    assert found.lesion_hidden == pytest.approx((0.5 + 1.0) / 2)
    assert found.lesion_lost == pytest.approx(0.5)


def test_without_image_or_lesion_there_are_no_numbers():
    plain = card(masks((4, 4)), requested_ratio=0.6)
    assert (plain.entropy_gain, plain.tissue_hidden, plain.lesion_hidden, plain.lesion_lost) == (None,) * 4
    empty = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    bare = card(masks((4, 4)), requested_ratio=0.6, images=torch.ones(3, 1, 8, 8), labels=empty)
    assert (bare.entropy_gain, bare.similarity, bare.trade_off) == (0.0, 0.0, 0.0)
    assert (bare.tissue_hidden, bare.lesion_hidden) == (None, None)


def test_states_both_ratios():
    found = card(masks((3, 3), ratio=0.7), requested_ratio=0.7).as_json()
    assert (found["requested_ratio"], found["realised_ratio"]) == (0.7, round(6 / 9, 6))
