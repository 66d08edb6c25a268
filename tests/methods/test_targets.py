"""Splitting into cells, and pixel targets."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.feature import hog

from medmim.errors import ShapeError
from medmim.methods.targets import HOG, NormalisedPixels, from_cells, oriented_gradients, to_cells


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


@pytest.mark.parametrize("pool", [(4, 4), (2, 4), (8, 8)])
@pytest.mark.parametrize("bins", [9, 6])
def test_equals_scikit_image_in_2d(pool, bins):
    images = torch.randn(2, 2, 16, 24, generator=torch.Generator().manual_seed(0))
    ours = oriented_gradients(images, pool, bins=bins).unflatten(1, (2, bins))
    for sample in range(2):
        for channel in range(2):
            theirs = hog(
                images[sample, channel].double().numpy(),
                orientations=bins,
                pixels_per_cell=pool,
                cells_per_block=(1, 1),
                block_norm="L2",
                feature_vector=False,
            )[:, :, 0, 0]
            np.testing.assert_allclose(ours[sample, channel].movedim(0, -1), theirs, atol=1e-5)


def naive(volume, pool, bins):
    """One volume: (planes, bins, *grid) in float64, voxel by voxel."""
    slopes = np.zeros((3, *volume.shape))
    for axis in range(3):
        for place in np.ndindex(*volume.shape):
            if 0 < place[axis] < volume.shape[axis] - 1:
                after, before = ([*place], [*place])
                after[axis] += 1
                before[axis] -= 1
                slopes[(axis, *place)] = volume[tuple(after)] - volume[tuple(before)]
    grid = [n // p for n, p in zip(volume.shape, pool, strict=True)]
    votes = np.zeros((3, bins, *grid))
    for plane, (rows, columns) in enumerate(combinations(range(3), 2)):
        for place in np.ndindex(*volume.shape):
            row, column = slopes[(rows, *place)], slopes[(columns, *place)]
            direction = np.rad2deg(np.arctan2(row, column)) % 180
            cell = tuple(index // p for index, p in zip(place, pool, strict=True))
            votes[(plane, int(direction // (180 / bins)), *cell)] += np.hypot(row, column)
    votes /= np.prod(pool)
    return votes / np.sqrt((votes**2).sum(axis=1, keepdims=True) + 1e-5**2)


def test_equals_the_formula_in_3d():
    images = torch.randn(1, 1, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    ours = oriented_gradients(images, (2, 3, 4), bins=9)[0].unflatten(0, (3, 9))
    np.testing.assert_allclose(ours, naive(images[0, 0].double().numpy(), (2, 3, 4), 9), atol=1e-5)


def test_a_volume_of_equal_slices_has_the_histograms_of_one_slice():
    flat = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    volume = flat.unsqueeze(2).repeat(1, 1, 4, 1, 1)
    planes = oriented_gradients(volume, (2, 4, 4), bins=9).unflatten(1, (3, 9))
    expected = oriented_gradients(flat, (4, 4), bins=9)
    for number in range(2):
        torch.testing.assert_close(planes[:, 2, :, number], expected)
    assert planes[:, 0, 1:4].abs().max() == 0  # no gradient across slices: all at one end of the directions


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(("axis", "bin_"), [(2, 4), (3, 0)])
def test_orientations_are_unsigned_and_do_not_wrap_around(axis, bin_, sign):
    ramp = sign * torch.arange(8.0).reshape([-1 if other == axis else 1 for other in range(4)])
    votes = oriented_gradients(ramp.expand(1, 1, 8, 8), (8, 8), bins=9).flatten()
    assert votes.argmax() == bin_
    assert votes.count_nonzero() == 1


def test_a_constant_image_gives_zeros():
    target = HOG((4, 4))(torch.full((1, 1, 8, 8), 3.0))
    assert target.isfinite().all()
    assert not target.any()


def test_scale_and_offset_of_intensities_do_not_matter():
    images = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    target = HOG((4, 4, 4))
    torch.testing.assert_close(target(images), target(images * 50 + 1000), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("cell", "stride"), [((16, 16), (8, 8)), ((8, 8, 5), (4, 4, 5))])
def test_a_histogram_takes_half_a_cell_by_default(cell, stride):
    target = HOG(cell)
    planes = 1 if len(cell) == 2 else 3
    assert target.stride == stride
    assert target.channels(2) == 2 * planes * 9
    images = torch.randn(1, 2, *[2 * n for n in cell])
    steps = np.prod([n // s for n, s in zip(cell, stride, strict=True)])
    assert target(images).shape == (1, 2 ** len(cell), steps * target.channels(2))


def test_pools_that_do_not_divide_the_cell_are_rejected():
    with pytest.raises(
        ShapeError, match=r"^target 'hog': expected a pool that divides the cell of 16×16 voxels, "
    ):
        HOG((16, 16), pool=5)
