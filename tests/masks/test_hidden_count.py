"""The one rule that turns a ratio into a number of cells."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmim.errors import ShapeError
from medmim.masks import hidden_count


@given(cells=st.integers(2, 100_000), ratio=st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_is_the_nearest_integer_with_one_cell_left_on_each_side(cells, ratio):
    count = hidden_count(cells, ratio)
    assert 1 <= count <= cells - 1
    if 1 <= cells * ratio <= cells - 1:
        assert abs(count - cells * ratio) <= 0.5


@pytest.mark.parametrize(
    ("ratio", "count"), [(0.3, 15), (0.4, 20), (0.5, 25), (0.6, 29), (0.7, 34), (0.8, 39), (0.9, 44)]
)
def test_the_grid_of_the_paper(ratio, count):
    # 224 voxels in cells of 32: SparK keeps round(49 · (1 − ratio)), which differs by rounding alone
    assert hidden_count(49, ratio) == count


@pytest.mark.parametrize("cells", [0, 1])
def test_refuses_fewer_than_two_cells(cells):
    with pytest.raises(ShapeError, match=rf"at least 2 cells, got {cells}: use a larger --size or a smaller"):
        hidden_count(cells, 0.5)
