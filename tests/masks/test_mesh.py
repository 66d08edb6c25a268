"""The mesh mask is far evener than random at every ratio, and has hundreds of different masks."""

import math

import pytest
import torch

from medmim.masks import MaskRequest, build_mask, hidden_count
from medmim.masks.mesh import _rank_tables
from medmim.masks.statistics import density_variance, distances_to_visible

GRIDS = [(7, 7), (14, 14), (14, 10), (4, 6, 8), (12, 12, 12)]
RATIOS = [0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9]


def draw(name, grid, ratio, *, batch=64):
    return build_mask(name, ratio=ratio).sample(batch, grid, generator=torch.Generator().manual_seed(0))


def distinct(hidden):
    return len({tuple(row) for row in hidden.flatten(1).tolist()})


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("other", ["random", "block", "square"])
def test_it_is_far_evener_than_random_block_and_square_masks(grid, ratio, other):
    even, rival = (draw(name, grid, ratio, batch=32) for name in ("mesh", other))
    assert density_variance(even) < 0.7 * density_variance(rival)
    assert distances_to_visible(even)[0] < distances_to_visible(rival)[0]


@pytest.mark.parametrize(
    ("grid", "ratio", "unevenness"),
    [
        ((14, 14), 0.5, 0.0045),  # 0.0259 for random masks
        ((14, 14), 0.75, 0.0055),  # 0.0198; a lattice of one visible cell in 2×2 has 0.0147
        ((12, 12, 12), 0.5, 0.0015),  # 0.0091
        ((12, 12, 12), 0.75, 0.0015),  # 0.0070
    ],
    ids=str,
)
def test_density_variance_is_a_quarter_of_that_of_random_masks(grid, ratio, unevenness):
    assert density_variance(draw("mesh", grid, ratio)) < unevenness


@pytest.mark.parametrize("grid", [(14, 14), (12, 12, 12)], ids=str)
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.75, 0.9])
def test_a_thousand_draws_give_hundreds_of_different_masks(grid, ratio):
    assert distinct(draw("mesh", grid, ratio, batch=1000)) > 800


@pytest.mark.parametrize("grid", [(8, 8), (8, 8, 8)], ids=str)
@pytest.mark.parametrize("ratio", [0.3, 0.6, 0.75, 0.8])
def test_no_axis_is_preferred(grid, ratio):
    hidden = draw("mesh", grid, ratio, batch=512).float()
    axes = range(1, hidden.dim())
    spread = [
        hidden.mean(dim=[other for other in axes if other != axis]).var(dim=1).mean().item() for axis in axes
    ]
    assert max(spread) <= 1.5 * min(spread) + 1e-9


@pytest.mark.parametrize("grid", [(7, 7), (3, 4, 5), (40, 3)], ids=str)
def test_every_cell_is_hidden_equally_often(grid):
    share = draw("mesh", grid, 0.7, batch=4000).float().mean(dim=0)
    assert (share - share.mean()).abs().max() < 0.05


@pytest.mark.parametrize("grid", [(1, 9), (33, 2), (5, 1, 7), (40, 40)], ids=str)
def test_ranks_are_unique(grid):
    request = MaskRequest(8, grid, hidden_count(math.prod(grid), 0.6), torch.Generator().manual_seed(0))
    rank = build_mask("mesh", ratio=0.6).rank(request).flatten(1)
    assert all(len(set(row)) == len(row) for row in rank.tolist())


@pytest.mark.parametrize("grid", [(40, 40), (14, 14, 14)], ids=str)
def test_grids_larger_than_a_table_are_as_even(grid):
    even, random = draw("mesh", grid, 0.6, batch=8), draw("random", grid, 0.6, batch=8)
    assert density_variance(even) < 0.3 * density_variance(random)


@pytest.mark.parametrize("period", [(6, 5), (3, 4, 5)], ids=str)
def test_tables_contain_every_rank_once(period):
    cells = math.prod(period)
    for table in _rank_tables(period).flatten(1):
        assert sorted(table.tolist()) == list(range(cells))


def test_a_table_is_pinned_so_that_platforms_agree():
    table = _rank_tables((4, 4))[0]
    assert table.flatten().tolist() == PINNED


def test_an_axis_of_one_cell_changes_nothing():
    assert torch.equal(draw("mesh", (9, 7), 0.6), draw("mesh", (9, 1, 7), 0.6)[:, :, 0])


PINNED = [4, 10, 6, 3, 12, 2, 14, 8, 7, 11, 5, 1, 15, 0, 13, 9]
