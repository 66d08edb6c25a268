"""Stored numbers become the values that slope, intercept and tables of the header define."""

import numpy as np
import pytest

from medmim.data.dicom.rescale import rescale


@pytest.mark.parametrize(
    ("scale", "kind"),
    [((1, 0), "<i2"), ((1, -1024), "int16"), ((500, 0), "int32"), ((0.5, 0), "float32")],
)
def test_scaled_values_have_the_smallest_exact_type(scale: tuple[float, float], kind: str):
    stored = np.arange(400, dtype="<u2").reshape(4, 10, 10)
    values = rescale(stored, np.array([scale] * 4, float))
    assert values.dtype == kind
    np.testing.assert_allclose(values, stored.astype(float) * scale[0] + scale[1])
