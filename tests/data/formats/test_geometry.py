"""Affines are accurate to a millionth of a millimetre; flipped and permuted grids are recognised."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from dicom_maker import OBLIQUE, unit

from medmim.data.formats import geometry
from medmim.data.formats.nifti import Image

POSITIONS = np.array([[1.0, 2.0, 3.0]]) + 2.5 * np.arange(5.0)[:, None] * geometry.slice_normal(unit(OBLIQUE))


def affine() -> np.ndarray:
    return geometry.volume_affine(unit(OBLIQUE), (1.5, 1.25), POSITIONS)


def test_volume_affine_matches_the_dicom_formula():
    x, y = np.array(unit(OBLIQUE)[:3]), np.array(unit(OBLIQUE)[3:])
    for column, row, place in itertools.product((0, 7), (0, 9), (0, 4)):
        lps = POSITIONS[place] + x * 1.25 * column + y * 1.5 * row
        ras = affine() @ [column, row, place, 1.0]
        np.testing.assert_allclose(ras[:3], lps * [-1, -1, 1], atol=1e-9)


def test_orthogonality_error():
    assert geometry.orthogonality_error(unit(OBLIQUE)) < 1e-12
    assert geometry.orthogonality_error((1.0, 0.0, 0.0, 1.0, 0.0, 0.0)) == 1.0
    assert geometry.orthogonality_error((0.0,) * 6) == 1.0


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(), (0,), (1, 2), (0, 1, 2)])
def test_align_axes_undoes_flips_and_permutations(order: tuple[int, ...], flips: tuple[int, ...]):
    array = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    move = np.zeros((4, 4))
    move[3, 3] = 1.0
    for axis, source in enumerate(order):
        move[source, axis] = 1.0
    turned, turned_affine = array.transpose(order), affine() @ move
    for axis in flips:
        step = np.eye(4)
        step[axis, axis], step[axis, 3] = -1.0, turned.shape[axis] - 1
        turned, turned_affine = np.flip(turned, axis), turned_affine @ step
    back = geometry.align_axes(Image(turned, turned_affine), affine())
    assert back is not None
    np.testing.assert_array_equal(back.array, array)
    np.testing.assert_allclose(back.affine, affine(), atol=1e-12)


def test_align_axes_rejects_rotated_grids():
    double = affine()
    double[:3, 2] *= 2
    assert geometry.align_axes(Image(np.zeros((2, 2, 2)), double), affine()) is None
    assert geometry.align_axes(Image(np.zeros((2, 2, 2)), np.zeros((4, 4))), affine()) is None


def test_corner_distance():
    moved = affine()
    moved[:3, 3] += [3.0, 4.0, 0.0]
    assert geometry.corner_distance((8, 9, 5), affine(), moved) == pytest.approx(5.0)
    assert geometry.corner_distance((8, 9, 5), affine(), affine()) == 0.0


def test_axes_are_turned_to_the_nearest_of_right_anterior_superior():
    array = np.arange(24.0).reshape(2, 3, 4)
    stored = np.array([[0, 0, 2.0, 5], [-3.0, 0, 0, 6], [0, -4.0, 0, 7], [0, 0, 0, 1]])
    turned = geometry.nearest_ras(Image(array, stored))
    assert turned.array.shape == (4, 2, 3)
    assert np.array_equal(np.diag(turned.affine)[:3], [2.0, 3.0, 4.0])
    for index in itertools.product(range(2), range(3), range(4)):
        world = stored @ [*index, 1.0]
        place = np.rint(np.linalg.solve(turned.affine, world))[:3].astype(int)
        assert turned.array[tuple(place)] == array[index]


def test_axes_that_do_not_correspond_one_to_one_are_kept():
    image = Image(np.zeros((2, 3, 4)), np.diag([1.0, 1.0, 0.0, 1.0]))
    assert geometry.nearest_ras(image) is image
