"""The mesh is even: exact lattices where the ratio has one, evener than chance at every other."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from medmim.masks import MaskRequest, build_mask, hidden_count, mesh

GRIDS = [(7, 7), (8, 8), (14, 10), (4, 6, 8), (3, 3, 3), (8, 8, 8)]
RATIOS = [0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.875, 0.9]


def draw(name, grid, ratio, *, batch=64):
    return build_mask(name, ratio=ratio).sample(batch, grid, generator=torch.Generator().manual_seed(0))


def distance_to_visible(hidden):
    """Mean distance, in cells, from a hidden cell to the nearest visible one."""
    return np.mean([ndimage.distance_transform_edt(sample)[sample].mean() for sample in hidden.numpy()])


def density_variance(hidden):
    """Variance over the grid of the hidden share in a window of three cells along each axis."""
    return np.mean(
        [ndimage.uniform_filter(sample.astype(float), 3, mode="nearest").var() for sample in hidden.numpy()]
    )


def blocks_of_two(hidden):
    """Cut (batch, *grid) with even grids into blocks of two cells along each axis: (…, cells of a block)."""
    dims = hidden.dim() - 1
    for axis in range(1, dims + 1):
        hidden = hidden.unflatten(2 * axis - 1, (-1, 2))
    return hidden.movedim([2 * axis for axis in range(1, dims + 1)], list(range(-dims, 0))).flatten(-dims)


@pytest.mark.parametrize("grid", [(8, 8), (6, 10), (4, 6, 8), (2, 4, 4)])
def test_half_is_a_checkerboard(grid):
    hidden = draw("mesh", grid, 0.5)
    for axis in range(1, hidden.dim()):
        length = hidden.shape[axis]
        assert torch.equal(hidden.narrow(axis, 0, length - 1), ~hidden.narrow(axis, 1, length - 1))


@pytest.mark.parametrize(("grid", "ratio"), [((8, 8), 0.75), ((6, 10), 0.75), ((4, 6, 8), 0.875)])
def test_keeps_one_cell_of_every_block(grid, ratio):
    hidden = draw("mesh", grid, ratio)
    assert (blocks_of_two(~hidden).sum(-1) == 1).all()
    for sample in ~hidden:  # a regular lattice: visible cells have one parity along each axis
        assert all(len({int(v) % 2 for v in index}) == 1 for index in sample.nonzero(as_tuple=True))


@pytest.mark.parametrize("grid", [(8, 8, 8), (4, 6, 8)])
def test_three_quarters_in_3d_touches_every_hidden_cell(grid):
    # two opposite corners of each block: no plane is without visible cells, as it would be with two even ones
    hidden = draw("mesh", grid, 0.75)
    assert (blocks_of_two(~hidden).sum(-1) == 2).all()
    assert distance_to_visible(hidden) == 1.0


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("ratio", RATIOS)
def test_is_evener_than_random(grid, ratio):
    even, random = draw("mesh", grid, ratio), draw("random", grid, ratio)
    assert density_variance(even) < density_variance(random)
    assert distance_to_visible(even) < distance_to_visible(random)


@pytest.mark.parametrize("grid", [(8, 8), (8, 8, 8)], ids=str)
@pytest.mark.parametrize("ratio", [0.3, 0.6, 0.75, 0.8])
def test_prefers_no_axis(grid, ratio):
    hidden = draw("mesh", grid, ratio, batch=512).float()
    axes = range(1, hidden.dim())
    spread = [
        hidden.mean(dim=[other for other in axes if other != axis]).var(dim=1).mean().item() for axis in axes
    ]
    assert max(spread) <= 1.25 * min(spread) + 1e-9


@pytest.mark.parametrize("grid", [(7, 7), (3, 4, 5)], ids=str)
def test_every_cell_is_hidden_equally_often(grid):
    share = draw("mesh", grid, 0.7, batch=4000).float().mean(dim=0)
    assert (share - share.mean()).abs().max() < 0.05


@pytest.mark.parametrize("grid", [(1, 9), (33, 2), (5, 1, 7)], ids=str)
def test_ranks_are_unique_so_that_no_tie_is_broken_by_place(grid):
    request = MaskRequest(8, grid, hidden_count(math.prod(grid), 0.6), torch.Generator().manual_seed(0))
    rank = build_mask("mesh", ratio=0.6).rank(request).flatten(1)
    assert all(len(set(row)) == len(row) for row in rank.tolist())


@pytest.mark.parametrize(("grid", "ratio"), [((5, 5), 0.65), ((8, 8), 0.9), ((3, 3, 3), 0.9)], ids=str)
def test_a_mirrored_mask_can_be_drawn_too(grid, ratio):
    hidden = draw("mesh", grid, ratio, batch=12000)
    drawn = {tuple(row) for row in hidden.flatten(1).tolist()}
    for axis in range(1, hidden.dim()):
        assert {tuple(row) for row in hidden.flip(axis).flatten(1).tolist()} == drawn


@pytest.mark.parametrize("grid", [(7, 7), (14, 14), (14, 10), (8, 8, 8), (12, 12, 12)], ids=str)
@pytest.mark.parametrize("ratio", [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
@pytest.mark.parametrize("other", ["random", "block", "square"])
def test_is_far_evener_than_the_other_masks_of_the_paper(grid, ratio, other):
    even, rival = (draw(name, grid, ratio, batch=16) for name in ("mesh", other))
    assert density_variance(even) < 0.6 * density_variance(rival)
    assert distance_to_visible(even) < distance_to_visible(rival)


@pytest.mark.parametrize("grid", [(10, 10), (15, 10)], ids=str)
def test_four_fifths_leaves_a_knights_move_between_visible_cells(grid):
    for sample in ~draw("mesh", grid, 0.8):
        y, x = sample.nonzero(as_tuple=True)
        residues = [set(((y + side * x) % 5).tolist()) for side in (2, -2)]
        assert min(len(values) for values in residues) == 1


def test_an_axis_of_one_cell_changes_nothing():
    assert torch.equal(draw("mesh", (9, 7), 0.6), draw("mesh", (9, 1, 7), 0.6)[:, :, 0])


@pytest.mark.parametrize(("period", "kept"), [(10, 3), (5, 1), (5, 2), (8, 1), (13, 5)])
def test_the_wave_is_the_one_with_the_least_variance_of_density(period, kept):
    # by brute force over the waves of this period: blur one period of the pattern and take the variance
    def variance(vector, length, shown):
        y, x = np.indices((length, length))
        seen = (vector[0] * y + vector[1] * x) % length < shown
        return ndimage.gaussian_filter(seen.astype(float), mesh._WINDOW, mode="wrap", truncate=6).var()

    vector, length = mesh._evenest_wave(2, (period - kept) * period, period * period)
    repeats = math.lcm(length, period) // length
    ours = variance([step * repeats for step in vector], length * repeats, kept * length * repeats // period)
    others = [numbers for numbers, other in mesh._waves(2) if other == period]
    assert ours <= 1.02 * min(variance(numbers, period, kept) for numbers in others) + 1e-9
