"""Splitting into cells, and pixel targets."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medmim.errors import ShapeError
from medmim.methods.targets.pixels import NormalisedPixels, from_cells, to_cells


@st.composite
def layouts(draw):
    dims = draw(st.integers(2, 3))
    sizes = st.lists(st.integers(1, 4), min_size=dims, max_size=dims).map(tuple)
    return draw(sizes), draw(sizes), draw(st.integers(1, 3)), draw(st.integers(1, 3))


@settings(deadline=None, max_examples=60)
@given(layouts())
def test_from_cells_inverts_to_cells(layout):
    grid, cell, batch, channels = layout
    space = tuple(g * c for g, c in zip(grid, cell, strict=True))
    images = torch.randn(batch, channels, *space)
    cells = to_cells(images, cell)
    assert cells.shape == (batch, np.prod(grid), channels * np.prod(cell))
    assert torch.equal(from_cells(cells, space, cell), images)


@settings(deadline=None, max_examples=60)
@given(layouts(), st.randoms(use_true_random=False))
def test_cells_are_in_grid_order(layout, random):
    grid, cell, batch, channels = layout
    space = tuple(g * c for g, c in zip(grid, cell, strict=True))
    images = torch.randn(batch, channels, *space)
    place = tuple(random.randrange(g) for g in grid)
    window = tuple(slice(i * c, (i + 1) * c) for i, c in zip(place, cell, strict=True))
    number = int(np.ravel_multi_index(place, grid))
    expected = images[(slice(None), slice(None), *window)].flatten(1)
    assert torch.equal(to_cells(images, cell)[:, number], expected)


@pytest.mark.parametrize("cell", [(4, 4), (2, 3), (2, 4, 2)])
@pytest.mark.parametrize("channels", [1, 3])
def test_normalised_pixels_equal_the_formula(cell, channels):
    space = [2 * c for c in cell]
    images = torch.randn(2, channels, *space, generator=torch.Generator().manual_seed(0)) * 40 + 300
    cells = to_cells(images.double(), cell).numpy()
    expected = (cells - cells.mean(-1, keepdims=True)) / np.sqrt(cells.var(-1, ddof=1, keepdims=True) + 1e-6)
    target = NormalisedPixels(cell)(images)
    assert target.dtype == torch.float32
    np.testing.assert_allclose(target.numpy(), expected, rtol=1e-3, atol=1e-3)


def test_a_constant_cell_is_normalised_to_zero():
    target = NormalisedPixels((4, 4))(torch.full((1, 1, 8, 8), 0.3))
    assert target.abs().max() < 1e-3


def test_bfloat16_images_are_normalised_in_float32():
    images = (torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + 2).bfloat16()
    target = NormalisedPixels((4, 4))
    assert torch.equal(target(images), target(images.float()))


@pytest.mark.parametrize("cell", [(4, 2), (2, 2, 2)])
def test_the_reconstruction_of_the_target_is_the_image(cell):
    images = torch.randn(2, 2, *[4] * len(cell)) * 5 + 20
    target = NormalisedPixels(cell)
    torch.testing.assert_close(target.picture(target(images), images), images, rtol=1e-4, atol=1e-4)


def test_from_cells_rejects_sizes_that_cells_do_not_divide():
    with pytest.raises(ShapeError, match="does not divide into mask cells of 4×4"):
        from_cells(torch.zeros(1, 4, 16), (9, 8), (4, 4))
