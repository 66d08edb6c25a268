"""The patch mask is one window with the proportions of the grid."""

import math

import pytest
import torch
from scipy import ndimage

from medmim.masks import build_mask


@pytest.mark.parametrize("grid", [(16, 8), (12, 6, 9), (10, 10)], ids=str)
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_the_window_covers_the_same_share_of_every_axis(grid, ratio):
    hidden = build_mask("patch", ratio=ratio).sample(32, grid, generator=torch.Generator().manual_seed(0))
    for sample in hidden:
        sides = [int(along.max() - along.min()) + 1 for along in sample.nonzero(as_tuple=True)]
        scale = ratio ** (1 / len(grid))
        assert all(abs(side - scale * length) <= 1.5 for side, length in zip(sides, grid, strict=True))
        assert math.prod(sides) - int(sample.sum()) < max(math.prod(sides) // side for side in sides)
        assert ndimage.label(sample.numpy())[1] == 1


def test_at_a_ratio_of_a_quarter_the_window_is_half_of_each_side():
    hidden = build_mask("patch", ratio=0.25).sample(200, (8, 4), generator=torch.Generator().manual_seed(0))
    for sample in hidden:
        y, x = sample.nonzero(as_tuple=True)
        assert (int(y.max() - y.min()), int(x.max() - x.min())) == (3, 1)
    assert len({tuple(sample.flatten().tolist()) for sample in hidden}) == 15  # every position of the window
