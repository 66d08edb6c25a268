from itertools import permutations

import pytest
import tiny

from medmim.data.dataset.manifest import read_dataset
from medmim.data.loading.preprocessing_plan import (
    PreprocessingPlan,
    facts_of,
    plan_for,
    plan_of_model,
    slice_axis,
    target_spacing,
    voxel_mm,
)
from medmim.errors import DataError, ShapeError


def row(shape, spacing=(1.0, 1.0, 1.0), orientation="RAS"):
    return tiny.row(shape=shape, spacing=spacing, orientation=orientation)


def test_the_default_size_is_the_median_volume_rounded_up():
    volumes = [row(shape) for shape in ((30, 40, 20), (36, 50, 34), (90, 52, 40))]
    assert plan_for(volumes, dims=None, size=None, multiple=(8, 8, 8)) == PreprocessingPlan(
        3, (40, 56, 40), common_mm=(1.0, 1.0, 1.0)
    )


def test_the_default_size_is_bounded():
    assert plan_for([row((300, 200, 100))], dims=3, size=None).size == (64, 64, 64)
    assert plan_for([row((300, 400, 20))], dims=2, size=None).size == (192, 192)


def test_the_bound_is_a_multiple_too():
    assert plan_for([row((300, 300, 300))], dims=3, size=None, multiple=(24, 24, 80)).size == (48, 48, 80)


@pytest.mark.parametrize(("slices", "dims"), [(12, 2), (16, 3)])
def test_few_slices_mean_2d(slices, dims):
    volumes = [row((64, slices, 64)) for _ in range(3)]
    assert plan_for(volumes, dims=None, size=None).dims == dims


def test_one_thin_volume_does_not_make_a_dataset_2d():
    volumes = [row((40, 40, 4)), row((40, 40, 40)), row((40, 40, 40))]
    assert plan_for(volumes, dims=None, size=None).dims == 3


def test_slices_are_measured_across_the_axis_of_largest_spacing():
    sagittal = row((20, 96, 120), (5.0, 1.0, 1.0))
    assert plan_for([sagittal], dims=2, size=None).size == (96, 128)


def test_equal_spacings_mean_axial_slices():
    assert plan_for([row((50, 70, 90))], dims=2, size=None).size == (64, 80)


def test_equal_spacings_mean_axial_slices_beside_thick_ones():
    volumes = [row((48, 64, 96)), row((48, 64, 96)), row((48, 64, 16), (1.0, 1.0, 5.0))]
    assert plan_for(volumes, dims=2, size=None).size == (48, 64)


@pytest.mark.parametrize(
    ("spacing", "axis"),
    [
        ((1.0, 1.0, 1.0), 2),
        ((1.00001, 1.0, 1.0), 2),  # what a header's arithmetic leaves
        ((5.0, 1.0, 1.0), 0),
        ((1.0, 5.0, 1.0), 1),
        ((1.0, 1.0, 5.0), 2),
        ((2.0, 1.0, 2.0), 2),
    ],
)
def test_slice_axis(spacing, axis):
    assert slice_axis(spacing) == axis


@pytest.mark.parametrize("axes", list(permutations("RAS")), ids="".join)
def test_stored_axes_are_put_in_order(axes):
    shape = dict(zip("RAS", (32, 48, 64), strict=True))
    volume = row(tuple(shape[axis] for axis in axes), orientation="".join(axes))
    assert plan_for([volume], dims=3, size=None).size == (32, 48, 64)


def test_flipped_axes_are_put_in_order():
    assert plan_for([row((64, 32, 48), orientation="ILP")], dims=3, size=None).size == (32, 48, 64)


def test_one_number_stands_for_all_axes():
    assert plan_for([row((50, 50, 50))], dims=3, size=(32,)).size == (32, 32, 32)


def test_a_size_that_does_not_divide_is_told_the_next_one():
    with pytest.raises(ShapeError, match=r"--size 60,60,60: .*multiples of 16,16,16.*use --size 64,64,64$"):
        plan_for([row((50, 50, 50))], dims=3, size=(60,))


def test_a_size_of_other_dimensions_is_refused():
    with pytest.raises(ShapeError, match="--size: expected one or 2 positive sizes"):
        plan_for([row((50, 50, 50))], dims=2, size=(16, 16, 16))


def test_a_size_that_is_almost_all_padding_is_refused_with_one_that_fits():
    volumes = [row((34, 50, 40)), row((30, 52, 90), (1.0, 1.0, 0.5))]
    message = r"--size 1024,.*: 99.99 % .* larger than 34×52×45 voxels; use --size 48,64,48$"
    with pytest.raises(ShapeError, match=message):
        plan_for(volumes, dims=3, size=(1024,), spacing_mm=(1.0,))
    with pytest.raises(ShapeError, match=r"use --size 48,64$"):
        plan_for([row((34, 50, 40))], dims=2, size=(1024,))
    assert plan_for(volumes, dims=3, size=(1024,), view="whole").size == (1024,) * 3


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.0, 1.0, 1.0)])
def test_a_spacing_of_some_axes_is_refused(spacing):
    with pytest.raises(
        ShapeError, match=r"spacing_mm: expected 0, or one or three other numbers, got .*1; use"
    ):
        plan_for([row((32, 32, 32))], dims=3, size=None, spacing_mm=spacing)


def test_no_volumes_are_refused():
    with pytest.raises(DataError, match="no volumes to train on") as caught:
        plan_for([], dims=None, size=None)
    assert caught.value.reason == "no_volumes"


def test_equal_spacings_need_no_resampling():
    volumes = [row((32, 32, 32), (1.0, 1.0, 2.0)), row((32, 32, 32), (1.0, 1.02, 2.0))]
    plan = plan_for(volumes, dims=3, size=None)
    assert (plan.spacing_mm, plan.common_mm) == (None, (1.0, 1.01, 2.0))
    assert plan_for(volumes, dims=3, size=None, spacing_mm=[0.0]).common_mm is None
    assert plan_for(volumes, dims=2, size=None, view="whole").common_mm is None
    unknown = [volumes[0].model_copy(update={"flags": {"spacing": "unknown"}}), volumes[1]]
    assert plan_for(unknown, dims=3, size=None).common_mm is None


@pytest.mark.parametrize(
    ("dims", "spacing", "orientation", "expected"),
    [
        (3, (1.0, 1.0, 2.0), "RAS", None),
        (3, (2.04, 1.0, 1.0), "SAR", None),
        (3, (1.0, 1.0, 3.0), "RAS", (1.0, 1.0, 2.0)),
        (3, (0.5, 0.5, 2.0), "RAS", (1.0, 1.0, 2.0)),
        (2, (1.0, 1.0, 7.0), "LPS", None),
        (2, (0.5, 0.5, 7.0), "LPS", (1.0, 1.0, 1.0)),
    ],
)
def test_a_volume_unlike_the_training_is_resampled_to_its_spacing(dims, spacing, orientation, expected):
    plan = plan_for([row((32, 32, 32), (1.0, 1.0, 2.0))] * 2, dims=dims, size=None)
    assert plan_of_model({"spatial_dims": dims, **plan.as_json()}) == plan
    volume = row((32, 32, 32), spacing, orientation)
    assert target_spacing(volume, plan) == expected
    assert target_spacing(volume.model_copy(update={"flags": {"spacing": "unknown"}}), plan) is None


def test_different_spacings_are_resampled_to_the_median():
    spacings = [(1.0, 1.0, 1.0), (1.2, 1.0, 1.0), (2.0, 1.0, 3.0)]
    volumes = [row((32, 32, 32), spacing) for spacing in spacings]
    assert plan_for(volumes, dims=3, size=None).spacing_mm == (1.2, 1.0, 1.0)


def test_in_2d_the_distance_of_slices_does_not_count():
    volumes = [row((32, 32, 12), (1.0, 1.0, thick)) for thick in (3.0, 5.0, 7.0)]
    assert plan_for(volumes, dims=2, size=None).spacing_mm is None


def test_in_2d_pixels_become_square():
    volumes = [row((32, 32, 12), (1.0, 1.0, 5.0)), row((32, 12, 32), (0.5, 5.0, 1.0))]
    assert plan_for(volumes, dims=2, size=None).spacing_mm == (1.0, 1.0, 1.0)


def test_real_rows(varied_dataset):
    plan = plan_for(read_dataset(varied_dataset).volumes, dims=None, size=None, multiple=(4, 4, 4))
    assert plan.dims == 3
    assert plan.spacing_mm is not None


@pytest.mark.parametrize(
    ("spacings", "dims", "expected"),
    [
        ([(1.0, 1.5, 2.0)], 3, (1.0, 1.5, 2.0)),
        ([(1.0, 1.0, 1.0), (1.02, 1.0, 1.0), (1.01, 1.0, 1.0)], 3, (1.01, 1.0, 1.0)),  # as they are
        ([(1.0, 1.0, 2.0), (2.0, 1.0, 2.0), (2.0, 1.0, 2.0)], 3, (2.0, 1.0, 2.0)),  # resampled to the median
        ([(0.8, 0.81, 5.0)], 2, (0.8, 0.81)),
        ([(5.0, 0.8, 0.81)], 2, (0.8, 0.81)),
        ([(0.5, 0.5, 5.0), (1.0, 1.0, 5.0), (1.0, 1.0, 5.0)], 2, (1.0, 1.0)),
    ],
)
def test_voxels_have_the_size_that_the_plan_gives_them(spacings, dims, expected):
    volumes = [row((64, 64, 64), spacing) for spacing in spacings]
    assert voxel_mm(volumes, plan_for(volumes, dims=dims, size=None)) == pytest.approx(expected)


def test_voxels_follow_the_orientation_of_their_volume():
    volume = row((64, 64, 64), (3.0, 1.0, 2.0), "SRA")
    assert voxel_mm([volume], plan_for([volume], dims=3, size=None)) == (1.0, 2.0, 3.0)


def test_pictures_without_a_scale_have_no_size_in_mm():
    volumes = [row((64, 64, 1)), row((64, 64, 1)).model_copy(update={"flags": {"spacing": "unknown"}})]
    assert voxel_mm(volumes, plan_for(volumes, dims=2, size=None)) is None


def test_facts_follow_the_axes_of_the_body_not_of_the_file() -> None:
    """A volume stored as superior, left, posterior is described as right, anterior, superior."""
    facts = facts_of([tiny.row(shape=(20, 30, 40), orientation="SLP", spacing=(3.0, 1.0, 2.0))], dims=3)
    assert facts.shape == (30, 40, 20)
    assert facts.spacing_mm == (1.0, 2.0, 3.0)


def test_a_slice_has_the_two_axes_of_smaller_spacing_whatever_the_orientation_of_a_volume() -> None:
    """Sagittal and axial volumes are both described by their slices."""
    axial = tiny.row(shape=(30, 40, 5), spacing=(1.0, 1.0, 6.0))
    sagittal = tiny.row(shape=(5, 30, 40), spacing=(6.0, 1.0, 1.0))
    facts = facts_of([axial, sagittal], dims=2)
    assert (facts.shape, facts.spacing_mm) == ((30, 40), (1.0, 1.0))
