"""A tilted stack is straightened: a landmark keeps its position within half a voxel."""

from __future__ import annotations

import numpy as np
import pytest

from medmim.data.dicom.gantry_tilt import correct_tilt, is_tilted
from medmim.data.formats.nifti import Image


def tilted(drift: tuple[float, float], landmark: tuple[int, int, int]) -> Image:
    affine = np.diag([1.25, 1.5, 3.0, 1.0])
    affine[:3, 2] += affine[:3, 0] * drift[0] + affine[:3, 1] * drift[1]
    affine[:3, 3] = (-20.0, 30.0, 5.0)
    array = np.zeros((20, 24, 9), np.int16)
    array[landmark] = 1000
    return Image(array, affine)


@pytest.mark.parametrize("drift", [(0.4, 0.0), (0.0, -0.7), (-0.3, 0.55)])
@pytest.mark.parametrize("landmark", [(5, 9, 1), (14, 3, 7)])
def test_a_landmark_keeps_its_position(drift: tuple[float, float], landmark: tuple[int, int, int]):
    image = tilted(drift, landmark)
    straight = correct_tilt(image)
    axes = straight.affine[:3, :3]
    np.testing.assert_allclose(axes.T @ axes, np.diag(np.diag(axes.T @ axes)), atol=1e-9)
    weights = straight.array.astype(float)
    centre = [float((np.indices(weights.shape)[axis] * weights).sum() / weights.sum()) for axis in range(3)]
    found = straight.affine[:3, :3] @ centre + straight.affine[:3, 3]
    expected = image.affine[:3, :3] @ landmark + image.affine[:3, 3]
    np.testing.assert_allclose(found, expected, atol=0.5)
    assert straight.array.dtype == np.int16


def test_a_ramp_keeps_its_values():
    image = tilted((0.5, 0.0), (0, 0, 0))
    ramp = np.broadcast_to(np.arange(20.0)[:, None, None] * 10 + 100, (20, 24, 9)).astype(np.float32)
    straight = correct_tilt(Image(ramp.copy(), image.affine))
    covered = straight.array > 100
    positions = straight.affine[0, 3] + np.indices(straight.array.shape)[0] * 1.25
    shift = np.indices(straight.array.shape)[2] * 0.5 * 1.25
    expected = (positions - shift + 20.0) / 1.25 * 10 + 100
    assert np.abs(straight.array - expected)[covered].max() <= 5.0


def test_upright_stacks_are_not_changed():
    image = tilted((0.0, 0.01), (1, 1, 1))
    assert not is_tilted(image.affine, 9)
    assert correct_tilt(image) is image
