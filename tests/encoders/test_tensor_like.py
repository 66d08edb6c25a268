"""Operators and methods that masked and packed values share."""

import numpy as np
import pytest
import torch

from medmim.encoders import mask, pack
from medmim.errors import ShapeError

both_kinds = pytest.mark.parametrize("hide", [mask, pack])


def value_of(hide):
    hidden = torch.tensor([[[True, False], [False, True]]])
    return hide(torch.ones(1, 2, 4, 4), hidden)


@both_kinds
def test_operators_equal_those_of_tensors_on_visible_voxels(hide):
    value = value_of(hide)
    result = 3 - (-(value * 2 + 1) / 3) ** 2 * value
    assert result.unpack().unique().tolist() == [0, 2]
    assert value.ndim == value.dim() == 4
    assert value.size() == (1, 2, 4, 4)
    assert value.size(1) == 2
    assert len(value) == 1


@both_kinds
def test_conversion_to_numpy_is_rejected_by_name(hide):
    with pytest.raises(ShapeError, match=r"'numpy\.asarray' has no (packed|masked) form"):
        np.asarray(value_of(hide))


@both_kinds
@pytest.mark.parametrize(
    ("use", "name"),
    [
        (torch.as_tensor, "torch.as_tensor"),
        (torch.tensor, "torch.as_tensor"),
        (float, "float"),
        (bool, "bool"),
        (lambda x: x == 0, "comparison"),
        (lambda x: x != 0, "comparison"),
        (lambda x: x > 0, "comparison"),
        (lambda x: x @ x, "matmul"),
        (lambda x: torch.ones(2, 2) @ x, "matmul"),
        (list, "indexing"),
    ],
)
def test_uses_that_need_a_plain_tensor_are_rejected_by_name(hide, use, name):
    with pytest.raises(ShapeError, match=rf"'{name}'.* has no (packed|masked) form"):
        use(value_of(hide))


@both_kinds
def test_numbers_divided_by_and_raised_to_a_value_equal_those_of_tensors(hide):
    value = value_of(hide) * 4
    assert (2 / value).unpack().unique().tolist() == [0, 0.5]
    assert (2**value).unpack().unique().tolist() == [0, 16]
