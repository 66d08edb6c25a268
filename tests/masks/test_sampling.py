"""Random numbers of a rule, and boxes of cells."""

import math

import pytest
import torch

from medmim.masks.sampling import MaskRequest, inside, one_box


def request_of(grid, num_hidden, *, batch=200):
    return MaskRequest(batch, grid, num_hidden, torch.Generator().manual_seed(0))


def test_integers_are_uniform_below_their_limit():
    drawn = request_of((4, 4), 5).integers_below(torch.tensor([[3, 1]]))
    assert drawn.shape == (200, 2)
    assert set(drawn[:, 0].tolist()) == {0, 1, 2}
    assert not drawn[:, 1].any()


def test_axes_are_shuffled_and_flipped_per_sample():
    request = request_of((2, 3, 4), 5)
    axes = request.shuffled_axes()
    assert torch.equal(axes.sort(dim=1).values, torch.arange(3).expand(200, 3))
    assert len({tuple(row) for row in axes.tolist()}) == 6
    assert len({tuple(row) for row in request.flips().tolist()}) == 8


def test_the_scan_order_counts_cells_row_by_row():
    request = request_of((2, 3), 1, batch=1)
    order = request.scan_order(request.coordinates())
    assert (order[0] * 6).round().tolist() == [[0, 1, 2], [3, 4, 5]]


def test_cells_inside_a_box_lie_between_its_corner_and_its_sides():
    request = request_of((4, 5), 1, batch=1)
    within = inside(request, request.coordinates(), torch.tensor([[1, 2]]), torch.tensor([[2, 3]]))
    expected = torch.zeros(1, 4, 5, dtype=torch.bool)
    expected[0, 1:3, 2:5] = True
    assert torch.equal(within, expected)


@pytest.mark.parametrize(("grid", "count"), [((6, 6), 9), ((6, 6), 11), ((4, 5, 6), 30)])
def test_the_highest_ranks_of_a_box_are_compact_and_at_every_position(grid, count):
    ranks = one_box(request_of(grid, count), [1] * len(grid)).flatten(1)
    hidden = torch.zeros_like(ranks, dtype=torch.bool)
    hidden.scatter_(1, ranks.topk(count).indices, value=True)
    assert (hidden.sum(dim=1) == count).all()
    places = hidden.reshape(-1, *grid).nonzero()
    sides = [places[places[:, 0] == sample, 1:] for sample in range(len(hidden))]
    sides = torch.stack([own.max(dim=0).values - own.min(dim=0).values + 1 for own in sides])
    smallest = math.ceil(count ** (1 / len(grid)))
    assert (sides <= smallest).all()
    assert all(set(places[:, axis + 1].tolist()) == set(range(length)) for axis, length in enumerate(grid))


def test_an_unknown_attribute_is_an_error():
    with pytest.raises(AttributeError, match="'MaskRequest' has no attribute 'nothing'"):
        _ = request_of((2, 2), 1).nothing
