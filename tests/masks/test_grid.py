"""The grid mask repeats one window periodically."""

import pytest
import torch

from medmim.errors import UsageError
from medmim.masks import build_mask


def draw(ratio, grid, *, batch=32, **options):
    mask = build_mask("grid", ratio=ratio, **options)
    return mask.sample(batch, grid, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("grid", "period"), [((12, 8), 4), ((9, 6), 3), ((6, 6, 6), 3), ((8, 4, 4), 2)], ids=str
)
@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.8])
def test_windows_differ_by_at_most_one_cell(grid, period, ratio):
    hidden = draw(ratio, grid, period=period)
    for axis in range(1, hidden.dim()):
        hidden = hidden.unfold(axis, period, 1)
    for counts in hidden.flatten(-len(grid)).sum(-1):
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize(
    ("grid", "period", "side"), [((12, 8), 4, 2), ((9, 6), 3, 2), ((8, 8, 4), 4, 2)], ids=str
)
def test_a_ratio_that_fits_the_period_gives_equal_square_windows(grid, period, side):
    hidden = draw((side / period) ** len(grid), grid, period=period)
    for axis in range(1, hidden.dim()):
        ahead = hidden.narrow(axis, period, hidden.shape[axis] - period)
        assert torch.equal(ahead, hidden.narrow(axis, 0, hidden.shape[axis] - period))
        others = [other for other in range(1, hidden.dim()) if other != axis]
        assert (hidden.amax(dim=others)[:, :period].sum(dim=1) == side).all()


def test_the_default_period_is_between_three_cells_and_half_the_grid():
    hidden = draw(1 / 9, (12, 12), batch=400)
    periods = set()
    for sample in hidden:
        fits = [p for p in range(2, 7) if (sample[p:] == sample[:-p]).float().mean() > 0.97]
        periods |= set(fits[:1])
    assert {3, 6} <= periods <= {3, 4, 5, 6}


def test_a_period_of_one_cell_is_rejected():
    with pytest.raises(UsageError, match=r"^mask 'grid', option period: expected 2 cells or more, got 1$"):
        build_mask("grid", ratio=0.5, period=1)
