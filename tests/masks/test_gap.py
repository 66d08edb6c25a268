"""Visible cells of the gap mask do not touch."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from medmim.masks import build_mask


def visible(ratio, grid, *, batch=64):
    return (
        ~build_mask("gap", ratio=ratio)
        .sample(batch, grid, generator=torch.Generator().manual_seed(0))
        .numpy()
    )


def components(sample, *, corners):
    """Number of connected components of visible cells, connected by faces or also by corners."""
    structure = ndimage.generate_binary_structure(sample.ndim, sample.ndim if corners else 1)
    return ndimage.label(sample, structure)[1]


@pytest.mark.parametrize(
    ("grid", "ratio"),
    [
        ((8, 8), 0.75),
        ((14, 10), 0.8),
        ((14, 14), 0.9),
        ((30, 30), 0.95),
        ((4, 6, 8), 0.875),
        ((12, 12, 12), 0.9),
    ],
    ids=str,
)
def test_visible_cells_do_not_touch_at_high_ratios(grid, ratio):
    for sample in visible(ratio, grid):
        assert components(sample, corners=True) == sample.sum()


@pytest.mark.parametrize(
    ("grid", "ratio"), [((8, 8), 0.5), ((14, 10), 0.6), ((4, 6, 8), 0.5), ((8, 8, 8), 0.8)], ids=str
)
def test_visible_cells_share_no_face_at_lower_ratios(grid, ratio):
    for sample in visible(ratio, grid):
        assert components(sample, corners=False) == sample.sum()


def test_every_cell_can_be_visible():
    for grid in ((12, 12), (9, 7)):
        share = visible(0.9, grid, batch=4000).mean(axis=0)
        assert share.min() > 0.3 * share.mean()
        assert share.max() < 3 * share.mean()


def test_offsets_within_large_blocks_are_random():
    sample = visible(0.96, (30, 30), batch=1)[0]
    rows = np.unique(np.nonzero(sample)[0] % 3)
    assert len(rows) > 1
