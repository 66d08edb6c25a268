"""The random mask is uniform over cells and pairs of cells."""

import pytest
import torch

from medmim.masks import build_mask


@pytest.mark.parametrize("grid", [(4, 4), (2, 3, 2)])
def test_cells_and_pairs_of_cells_are_hidden_uniformly(grid):
    hidden = build_mask("random", ratio=0.5).sample(8000, grid, generator=torch.Generator().manual_seed(0))
    rows = hidden.flatten(1).float()
    cells = rows.shape[1]
    together = rows.T @ rows / len(rows)
    assert (together.diagonal() - 0.5).abs().max() < 0.03
    pairs = together[~torch.eye(cells, dtype=torch.bool)]
    assert (pairs - 0.5 * (cells / 2 - 1) / (cells - 1)).abs().max() < 0.03
