"""From cells to voxels."""

import numpy as np
import pytest
import torch

from medmim.errors import ShapeError
from medmim.masks import hidden_voxels


@pytest.mark.parametrize(("grid", "cell"), [((3, 2), (4, 1)), ((2, 3, 4), (1, 2, 3)), ((5, 5), (1, 1))])
def test_each_cell_covers_its_voxels(grid, cell):
    hidden = torch.rand(2, *grid, generator=torch.Generator().manual_seed(0)) < 0.5
    space = tuple(cells * step for cells, step in zip(grid, cell, strict=True))
    voxels = hidden_voxels(hidden, space)
    expected = np.stack([np.kron(sample, np.ones(cell, dtype=bool)) for sample in hidden.numpy()])
    assert voxels.dtype == torch.bool
    np.testing.assert_array_equal(voxels[:, 0].numpy(), expected)


@pytest.mark.parametrize("space", [(15, 16), (3, 16), (2, 2), (16, 16, 16)])
def test_refuses_an_image_that_the_grid_does_not_divide(space):
    # 15 divides by 15 // 4 = 3, yet four cells of 3 are 12 voxels
    message = f"image of {'×'.join(map(str, space))} voxels does not divide into a grid of 4×4 cells"
    with pytest.raises(ShapeError, match=message):
        hidden_voxels(torch.zeros(1, 4, 4, dtype=torch.bool), space)
