"""Windows that do not fit the cells are rejected with the sizes that would."""

import pytest
from torch import nn

from medmim.errors import ShapeError


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            nn.Conv2d(4, 4, 3, stride=3),
            "'conv2d' with stride 3×3 on packed cells of 4×4 voxels: expected a stride that",
        ),
        (nn.MaxPool2d(8), "'max_pool2d' with stride 8×8 on packed cells of 4×4 voxels"),
        (
            nn.Conv2d(4, 4, 3),
            "'conv2d' with kernel 3×3, stride 1×1 maps 8×12 voxels to 6×10: packed cells need 8×12",
        ),
        (
            nn.AvgPool2d(3, 2, 1, ceil_mode=True),
            "'avg_pool2d' with kernel 3×3, stride 2×2 maps 8×12 voxels to 5×7",
        ),
    ],
)
def test_windows_that_do_not_fit_the_cells_are_rejected(layer, message, value):
    with pytest.raises(ShapeError, match=f"^{message}"):
        layer.double()(value)
