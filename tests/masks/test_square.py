"""The square mask hides one box that is as square as the grid allows."""

import math

import pytest
import torch
from scipy import ndimage

from medmim.masks import build_mask

GRIDS = [(7, 7), (14, 10), (4, 6, 8), (3, 3, 3), (1, 9)]


def draw(name, grid, ratio, *, batch=32):
    return build_mask(name, ratio=ratio).sample(batch, grid, generator=torch.Generator().manual_seed(0))


def box_of(sample):
    """Sides of the bounding box of the hidden cells."""
    return [int(along.max() - along.min()) + 1 for along in sample.nonzero(as_tuple=True)]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_hidden_cells_form_one_box_that_lacks_less_than_a_face(grid, ratio):
    for sample in draw("square", grid, ratio):
        sides = box_of(sample)
        missing = math.prod(sides) - int(sample.sum())
        assert missing < max(math.prod(sides) // side for side in sides)
        assert ndimage.label(sample.numpy())[1] == 1


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_sides_are_equal_or_limited_by_the_grid(grid, ratio):
    for sample in draw("square", grid, ratio):
        sides = box_of(sample)
        free = [side for side, length in zip(sides, grid, strict=True) if side < length]
        assert max(free, default=0) - min(sides) <= 1 or max(free) - min(free) <= 1


def test_every_position_and_every_incomplete_face_occurs():
    hidden = draw("square", (6, 6), 0.3, batch=2000)  # 11 of 12 cells of a box of 3 by 4
    corners = {tuple(sample.nonzero().min(dim=0).values.tolist()) for sample in hidden}
    assert corners == {(y, x) for y in range(4) for x in range(4) if y < 3 or x < 3}
    assert {tuple(box_of(sample)) for sample in hidden} == {(3, 4), (4, 3)}
    shapes = {str(sample[sample.any(1)][:, sample.any(0)].tolist()) for sample in hidden}
    assert len(shapes) == 8  # the missing cell in each corner of both boxes
