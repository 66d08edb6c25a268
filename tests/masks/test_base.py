"""The hidden count, ratio ranges, and the upsampling of masks to voxels."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medmim.errors import ShapeError, UsageError
from medmim.masks import build_mask, hidden_count, hidden_voxels
from medmim.masks.base import cell_in_voxels, cell_words


@given(cells=st.integers(2, 100_000), ratio=st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_the_hidden_count_is_rounded_and_leaves_a_hidden_and_a_visible_cell(cells, ratio):
    count = hidden_count(cells, ratio)
    assert 1 <= count <= cells - 1
    if 1 <= cells * ratio <= cells - 1:
        assert abs(count - cells * ratio) <= 0.5


@pytest.mark.parametrize(
    ("ratio", "count"), [(0.3, 15), (0.4, 20), (0.5, 25), (0.6, 29), (0.7, 34), (0.8, 39), (0.9, 44)]
)
def test_the_hidden_count_on_the_7x7_grid_of_sparks_paper(ratio, count):
    # 224 voxels in cells of 32; SparK keeps round(49 · (1 − ratio)), which differs only in rounding
    assert hidden_count(49, ratio) == count


@pytest.mark.parametrize("cells", [0, 1])
def test_fewer_than_two_cells_are_rejected(cells):
    with pytest.raises(ShapeError, match=rf"at least 2 cells, got {cells}: use a larger --size or a smaller"):
        hidden_count(cells, 0.5)


def test_a_ratio_range_draws_one_count_per_batch_and_covers_all_counts():
    mask = build_mask("mesh", ratio=0.5, max_ratio=0.8)
    generator = torch.Generator().manual_seed(0)
    drawn = [mask.sample(4, (5, 5), generator=generator).flatten(1).sum(dim=1).tolist() for _ in range(300)]
    assert all(len(set(counts)) == 1 for counts in drawn)
    seen = [counts[0] for counts in drawn]
    assert set(seen) == set(range(hidden_count(25, 0.5), hidden_count(25, 0.8) + 1))


@pytest.mark.parametrize("max_ratio", [0.5, 0.3, 1.0, float("nan")])
def test_a_reversed_ratio_range_is_rejected(max_ratio):
    with pytest.raises(
        UsageError,
        match=f"^mask option max_ratio: expected a number between --ratio 0.5 and 1, got {max_ratio:g}$",
    ):
        build_mask("mesh", ratio=0.5, max_ratio=max_ratio)


@pytest.mark.parametrize(("grid", "cell"), [((3, 2), (4, 1)), ((2, 3, 4), (1, 2, 3)), ((5, 5), (1, 1))])
def test_each_cell_covers_its_block_of_voxels(grid, cell):
    hidden = torch.rand(2, *grid, generator=torch.Generator().manual_seed(0)) < 0.5
    space = tuple(cells * step for cells, step in zip(grid, cell, strict=True))
    voxels = hidden_voxels(hidden, space)
    expected = np.stack([np.kron(sample, np.ones(cell, dtype=bool)) for sample in hidden.numpy()])
    assert voxels.dtype == torch.bool
    np.testing.assert_array_equal(voxels[:, 0].numpy(), expected)


@pytest.mark.parametrize("space", [(15, 16), (3, 16), (2, 2), (16, 16, 16)])
def test_images_that_the_grid_does_not_divide_are_rejected(space):
    # 15 divides by 15 // 4 = 3, yet four cells of 3 are 12 voxels
    message = f"image of {'×'.join(map(str, space))} voxels does not divide into a grid of 4×4 cells"
    with pytest.raises(ShapeError, match=message):
        hidden_voxels(torch.zeros(1, 4, 4, dtype=torch.bool), space)


def test_the_old_name_of_a_ratio_range_is_accepted():
    with pytest.warns(FutureWarning, match="mask option up_to is now max_ratio"):
        mask = build_mask("mesh", ratio=0.5, up_to=0.8)
    assert mask.max_ratio == 0.8


@pytest.mark.parametrize(
    ("cells", "ratio"), [(196, 0.75), (36, 0.6), (49, 0.7), (10, 0.7), (100, 0.29), (27, 0.9)]
)
def test_counts_are_rounded_as_in_mae_and_simmim(cells, ratio):
    # MAE: len_keep = int(L · (1 - ratio)); SimMIM: ceil(count · ratio); in rational numbers
    share = Fraction(str(ratio))
    mae, simmim = cells - math.floor(cells * (1 - share)), math.ceil(cells * share)
    mask = build_mask("random", ratio=ratio, rounding="up")
    assert mask.hidden_counts(cells) == (mae,) == (simmim,)
    hidden = mask.sample(1, (1, cells), generator=torch.Generator().manual_seed(0))
    assert int(hidden.sum()) == mae
    assert build_mask("random", ratio=ratio, rounding="down").hidden_counts(cells)[0] == int(cells * share)


def test_an_unknown_rounding_is_rejected():
    with pytest.raises(
        UsageError, match=r"rounding: expected 'nearest' or 'up' or 'down', got 'ceil' \(str\)$"
    ):
        build_mask("random", ratio=0.5, rounding="ceil")


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
