"""Mask cell sizes in voxels and in millimetres."""

import pytest

from medmim.errors import ShapeError, UsageError
from medmim.masks.cell_size import cell_in_voxels, cell_words


def test_sizes_in_voxels_are_kept():
    assert cell_in_voxels(None, multiple=(4, 2, 2), voxel_mm=None) == (4, 2, 2)
    assert cell_in_voxels((8,), multiple=(4, 4, 4), voxel_mm=None) == (8, 8, 8)
    assert cell_in_voxels((6, 4), multiple=(4, 4), voxel_mm=(1.0, 1.0)) == (
        6,
        4,
    )  # rejected later, by the method


@pytest.mark.parametrize(
    ("wanted", "spacing", "cell"),
    [
        (("8mm",), (1.0, 1.0, 1.0), (8, 8, 8)),
        (("9.9mm",), (1.0, 1.0, 1.0), (8, 8, 8)),
        (("10.1mm",), (1.0, 1.0, 1.0), (12, 12, 12)),
        (("8mm", "16mm", "16mm"), (1.0, 2.0, 0.5), (8, 8, 32)),
        (("16mm",), (1.0, 1.0, 4.0), (16, 16, 4)),
        (("2mm",), (1.0, 1.0, 1.0), (4, 4, 4)),
    ],
)
def test_millimetres_are_rounded_to_the_nearest_multiple(wanted, spacing, cell):
    assert cell_in_voxels(wanted, multiple=(4, 4, 4), voxel_mm=spacing) == cell


def test_millimetres_far_below_the_stride_are_rejected():
    with pytest.raises(
        ShapeError,
        match=r"^--cell 1mm: expected cells of about 8mm,4mm or more, the encoder's total stride 4×4 in mm; "
        r"use --cell 8mm,4mm, or an encoder with a smaller stride$",
    ):
        cell_in_voxels(("1mm",), multiple=(4, 4), voxel_mm=(2.0, 1.0))


def test_millimetres_are_rejected_where_the_voxel_size_is_unknown():
    with pytest.raises(
        UsageError, match=r"^--cell 8mm: expected voxels of a known size in mm, .* give voxels"
    ):
        cell_in_voxels(("8mm",), multiple=(4, 4), voxel_mm=None)


def test_a_wrong_number_of_sizes_is_rejected():
    with pytest.raises(ShapeError, match=r"^--cell 8mm,8mm: expected one or 3 sizes in mm, got 2$"):
        cell_in_voxels(("8mm", "8mm"), multiple=(4, 4, 4), voxel_mm=(1.0, 1.0, 1.0))


def test_cells_are_described_in_voxels_and_millimetres():
    assert cell_words((8, 8, 4), (1.0, 1.0, 2.4)) == "8×8×4 voxels = 8×8×9.6 mm"
    assert cell_words((8, 8), None) == "8×8 voxels"
