import numpy as np
import pytest
from tiny import row

from medmim.data.loading.given_spacing import given_spacing, largest_extents
from medmim.data.loading.preprocessing_plan import plan_for
from medmim.errors import ShapeError

EXTENTS = np.array([20.0, 16.0, 16.0])


def test_one_number_counts_for_all_axes():
    assert given_spacing([2.0], EXTENTS) == (2, 2, 2)
    assert given_spacing([1.0, 2.0, 8.0], EXTENTS) == (1, 2, 8)
    assert given_spacing([0.0], EXTENTS) is None


@pytest.mark.parametrize("spacing", [[100.0], [1.0, 1.0, 8.1]])
def test_a_spacing_at_which_no_image_keeps_two_voxels_is_refused(spacing):
    with pytest.raises(ShapeError, match=r"no image is larger than 20×16×16 mm.* less than two voxels"):
        given_spacing(spacing, EXTENTS)


def test_a_slice_axis_is_not_resampled():
    shapes, spacings = np.array([[20, 16, 4], [10, 40, 1]]), np.array([[1.0, 1.0, 5.0]] * 2)
    assert largest_extents(shapes[:1], spacings[:1], None).tolist() == [20, 16, 20]
    assert largest_extents(shapes, spacings, np.array([2, 2])).tolist() == [20, 40, np.inf]
    assert largest_extents(shapes, spacings, None).tolist() == [20, 40, np.inf]


@pytest.mark.parametrize("size", [None, (16,)])
def test_a_plan_refuses_it_with_and_without_a_size(size):
    with pytest.raises(ShapeError, match="spacing_mm=100: no image is larger than 20×16×16 mm"):
        plan_for([row()], dims=3, size=size, spacing_mm=[100.0])
