"""The block mask has the statistics of BEiT's blockwise masking, with the exact count."""

import math
import random

import numpy as np
import pytest
import torch
from official_masks import beit_mask, block_statistics
from scipy import ndimage

from medmim.errors import UsageError
from medmim.masks import build_mask, hidden_count

BEIT = (14, 14)
BEIT_COUNT = 75  # of 196 cells


def draw(ratio, grid, *, batch=64, seed=0, **options):
    mask = build_mask("block", ratio=ratio, **options)
    return mask.sample(batch, grid, generator=torch.Generator().manual_seed(seed))


def test_components_edges_and_corners_are_those_of_beit():
    source = random.Random(0)
    reference = block_statistics(np.stack([beit_mask(source, BEIT_COUNT) for _ in range(2000)]))
    ours = block_statistics(draw(BEIT_COUNT / 196, BEIT, batch=2000).numpy())
    np.testing.assert_allclose(ours, reference, atol=0.05)
    np.testing.assert_allclose(reference, [1.44, 0.14, 0.04], atol=0.03)


@pytest.mark.parametrize("grid", [(14, 14), (10, 10, 10)], ids=str)
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7])
def test_hidden_cells_form_few_components(grid, ratio):
    components = [ndimage.label(sample.numpy())[1] for sample in draw(ratio, grid)]
    assert np.mean(components) < 2


def test_shapes_vary():
    sizes = set()
    for sample in draw(0.2, (20, 20), batch=200):
        labels, _ = ndimage.label(sample.numpy())
        for place in ndimage.find_objects(labels):
            sizes.add(tuple(part.stop - part.start for part in place))
    assert any(height >= 2 * width for height, width in sizes)
    assert any(width >= 2 * height for height, width in sizes)


def test_with_an_aspect_of_one_boxes_are_squares():
    for sample in draw(0.25, (20, 20), aspect=1.0, smallest=0.25, batch=8).numpy():
        sides = [np.ptp(along) + 1 for along in np.nonzero(sample)]
        assert sides == [10, 10]


@pytest.mark.parametrize("grid", [(2, 2, 2), (2, 3, 1), (2, 2), (1, 1, 2), (1, 4)], ids=str)
def test_tiny_grids_hide_the_exact_count(grid):
    expected = hidden_count(math.prod(grid), 0.6)
    assert draw(0.6, grid).flatten(1).sum(dim=1).tolist() == [expected] * 64


@pytest.mark.parametrize("option", ["smallest", "aspect"])
@pytest.mark.parametrize("value", [0.0, 1.5, -1.0])
def test_shares_out_of_range_are_rejected(option, value):
    message = f"^mask 'block', option {option}: expected a number above 0 and up to 1, got {value:g}$"
    with pytest.raises(UsageError, match=message):
        build_mask("block", ratio=0.5, **{option: value})
