"""The table of methods along the axes of the survey."""

import pytest

from medmim.masks import MASKS
from medmim.methods import METHODS
from medmim.stages.methods import list_methods


@pytest.mark.parametrize("dims", [2, 3])
def test_every_method_has_a_row_with_its_axes(dims):
    rows = list_methods(dims)
    assert [row.method for row in rows] == list(METHODS)
    for row in rows:
        assert all([row.target, row.architecture, row.objective])
        assert row.mask in MASKS
        assert 0 < row.ratio < 1
        assert row.parameters >= row.encoder_parameters > 0
    assert {row.method for row in rows if row.views == 2} == {"contrastive", "mim_contrast", "volume_fusion"}
    assert {row.method for row in rows if row.sees_hidden} == {"mask_any_net", "voco", "volume_fusion"}
    assert next(row for row in rows if row.method == "simmim").options == {"target": "raw"}
