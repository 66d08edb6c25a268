"""Labels fit their image in any axis order, and only on the same grid."""

import itertools

import nibabel as nib
import numpy as np
import PIL.Image
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medmim.data.formats.labels import fit_label, load_label, mark_not_annotated, values_at_edges
from medmim.data.formats.nifti import Image
from medmim.errors import DataError

SHAPE = (5, 6, 7)
WAYS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


def grid(turn=(0.1, -0.2, 0.3), spacing=(1.0, 1.5, 3.0)):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_rotvec(turn).as_matrix() * spacing
    affine[:3, 3] = [10, -20, 30]
    return affine


def classes(dtype=np.uint8, top=3):
    return np.random.default_rng(1).integers(0, top, SHAPE).astype(dtype)


def image(affine=None):
    return Image(np.zeros(SHAPE, np.float32), grid() if affine is None else affine)


def stored_as(label, affine, way):
    """The same grid with its axes exchanged and flipped."""
    order = np.array(list(zip(*way, strict=True)))
    back = nib.orientations.inv_ornt_aff(order, label.shape)
    return Image(nib.orientations.apply_orientation(label, order), affine @ back)


def refused(label, reason, match, on=None):
    with pytest.raises(DataError, match=match) as caught:
        fit_label(label, on or image())
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("way", WAYS)
def test_axes_are_restored_exactly(way):
    fitted = fit_label(stored_as(classes(), grid(), way), image())
    np.testing.assert_array_equal(fitted.array, classes())
    np.testing.assert_array_equal(fitted.affine, grid())


@given(turn=st.tuples(*[st.floats(-3.2, 3.2)] * 3), way=st.sampled_from(WAYS))
def test_any_obliqueness_is_accepted(turn, way):
    affine = grid(turn)
    fitted = fit_label(stored_as(classes(), affine, way), image(affine))
    np.testing.assert_array_equal(fitted.array, classes())


@pytest.mark.parametrize(
    ("dtype", "top", "stored"),
    [(np.int64, 3, np.uint8), (np.float32, 3, np.uint8), (np.int32, 300, np.uint16), (np.bool_, 2, np.uint8)],
)
def test_labels_use_the_smallest_type(dtype, top, stored):
    fitted = fit_label(Image(classes(dtype, top), grid()), image())
    assert fitted.array.dtype == stored
    np.testing.assert_array_equal(fitted.array, classes(dtype, top))


def test_different_shapes_are_rejected():
    label = Image(np.zeros((5, 6, 8), np.uint8), grid())
    refused(label, "label_shape", "label of 5×6×8 voxels on an image of 5×6×7")


def test_offsets_above_half_a_voxel_are_rejected():
    for shift, fits in [(0.49, True), (0.51, False), (-0.49, True), (-0.51, False)]:
        moved = grid() @ nib.affines.from_matvec(np.eye(3), [0, 0, shift])
        if fits:
            fitted = fit_label(Image(classes(), moved), image())
            np.testing.assert_array_equal(fitted.affine, grid())
        else:
            refused(Image(classes(), moved), "label_offset", r"got 1\.53 mm .0\.51 voxels. at a corner")


def test_different_spacing_is_rejected():
    stretched = grid() @ np.diag([1.2, 1, 1, 1])
    refused(Image(classes(), stretched), "label_offset", r"got 0\.80 mm .0\.80 voxels.")


@pytest.mark.parametrize("depth", [0.0, 1e-9])
def test_unrelated_grids_are_rejected(depth):
    flat = np.diag([1.0, 1.0, depth, 1.0])
    refused(Image(classes(), flat), "label_offset", "label is shifted against its image", on=image(np.eye(4)))


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf])
def test_invalid_label_values_are_rejected(value):
    array = classes(np.float32)
    array[1, 2, 3] = value
    refused(Image(array, grid()), "label_not_integral", "integers from 0 to 65535")


@pytest.mark.parametrize("value", [-2, 65536, 10**9])
def test_integers_out_of_range_are_rejected_with_the_values(value):
    array = classes(np.int32)
    array[1, 2, 3] = value
    refused(Image(array, grid()), "label_out_of_range", f"from 0 to 65535, got {value}")


def test_values_close_to_integers_are_rounded():
    array = classes(np.float32)
    array[array == 1] = 0.9995
    np.testing.assert_array_equal(fit_label(Image(array, grid()), image()).array, classes())


def saved(path, array):
    nib.save(nib.Nifti1Image(array, grid()), path)
    return path


def one_hot(*numbers):
    array = classes()
    array[2:] = 0
    return array, np.stack([array == number for number in numbers], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("background", [True, False])
def test_one_hot_channels_become_class_numbers(tmp_path, background):
    array, channels = one_hot(0, 1, 2) if background else one_hot(1, 2)
    loaded = load_label(saved(tmp_path / "a.nii", channels), spacing_mm=1.0)
    np.testing.assert_array_equal(loaded.image.array, array)
    assert loaded.repairs == ("label_one_hot",)
    assert loaded.measured == {"channels": 2.0 + background}


def test_ambiguous_channels_are_rejected(tmp_path):
    both = np.ones((*SHAPE, 2), np.uint8)
    with pytest.raises(DataError, match="channels without overlap, got 210 voxels"):
        load_label(saved(tmp_path / "a.nii", both), spacing_mm=1.0)
    with pytest.raises(DataError, match="background as first channel"):
        load_label(saved(tmp_path / "c.nii", one_hot(1, 2, 0)[1]), spacing_mm=1.0)
    with pytest.raises(DataError, match="several frames of class numbers"):
        load_label(saved(tmp_path / "b.nii", both * 2), spacing_mm=1.0)


def test_a_negative_ignore_value_is_stored_as_255():
    array = classes(np.int16)
    array[0] = -1
    marked = mark_not_annotated(Image(array, grid()), -1)
    assert (marked.array[0] == 255).all()
    np.testing.assert_array_equal(marked.array[1:], array[1:])
    assert mark_not_annotated(marked, 255) is marked
    with pytest.raises(DataError, match="expected no class 255"):
        mark_not_annotated(marked, -1)


def test_white_is_no_class_where_255_marks_pixels_that_nobody_annotated(tmp_path):
    PIL.Image.fromarray(np.uint8([[0, 255], [255, 0]])).save(tmp_path / "a.png")
    kept = load_label(tmp_path / "a.png", spacing_mm=1.0, ignore_label=255)
    assert set(np.unique(kept.image.array).tolist()) == {0, 255}
    mask = load_label(tmp_path / "a.png", spacing_mm=1.0)
    assert set(np.unique(mask.image.array).tolist()) == {0, 1}


def block(classes):
    label = np.zeros((20, 18, 12), np.uint8)
    for number, start in classes.items():
        label[start : start + 4, 4:9, 3:8] = number
    return label


def test_linear_interpolation_leaves_values_at_edges():
    label = scipy.ndimage.zoom(block({3: 4}).astype(np.float32), 2, order=1)
    assert values_at_edges(np.rint(label).astype(np.uint8)) == (1, 2)
    picture = scipy.ndimage.uniform_filter(block({255: 6})[..., 5:6].astype(np.float32), (2, 2, 1))
    assert 255 not in values_at_edges(picture.astype(np.uint8))
    assert len(values_at_edges(picture.astype(np.uint8))) > 0


def test_classes_side_by_side_and_small_ones_are_classes():
    assert values_at_edges(block({1: 2, 2: 6, 3: 10})) == ()
    label = block({3: 2})
    label[12, 10, 5:10] = 1
    assert values_at_edges(label) == ()
    assert values_at_edges(np.zeros((4, 4, 1), np.uint8)) == ()
