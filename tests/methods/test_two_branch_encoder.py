"""The reuse image contains every hidden voxel once and can be inverted exactly."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medmim.masks import MASKS, build_mask, hidden_voxels
from medmim.methods.targets import from_cells, to_cells
from medmim.methods.two_branch_encoder import _slots, canvas_of, stitch, stitch_visible


def drawn(grid, *, rule="random", ratio=0.4, batch=3, seed=0):
    return build_mask(rule, ratio=ratio).sample(batch, grid, generator=torch.Generator().manual_seed(seed))


def occupied(hidden):
    """Coordinates with a hidden cell, along each axis of one sample."""
    return [sorted(set(along.tolist())) for along in hidden.nonzero(as_tuple=True)]


def is_regular(hidden):
    """Whether rows, columns and slices without hidden cells can be removed and half of the rest is hidden."""
    volume = math.prod(map(len, occupied(hidden)))
    return bool(hidden.any()) and volume < hidden.numel() and hidden.sum() >= volume / 2


def naive_canvas(hidden):
    regular = [sample for sample in hidden if is_regular(sample)]
    others = [int(sample.sum()) for sample in hidden if not is_regular(sample)]
    sides = [canvas_of(tuple(hidden.shape[1:]), max(others, default=0))]
    sides += [tuple(map(len, occupied(sample))) for sample in regular]
    return tuple(max(along) for along in zip(*sides, strict=True))


def naive_stitch(image, hidden, cell, canvas, *, regular):
    """One sample: the hidden cells without empty rows, or one after the other, on an empty canvas."""
    grid = hidden.shape
    out = torch.zeros(image.shape[0], *[n * c for n, c in zip(canvas, cell, strict=True)])
    number = 0
    for flat in range(math.prod(grid)):
        place = torch.unravel_index(torch.tensor(flat), grid)
        if not hidden[place]:
            continue
        to = torch.unravel_index(torch.tensor(number), canvas)
        if regular:
            to = [along.index(int(i)) for along, i in zip(occupied(hidden), place, strict=True)]
        source = tuple(slice(int(i) * c, (int(i) + 1) * c) for i, c in zip(place, cell, strict=True))
        target = tuple(slice(int(i) * c, (int(i) + 1) * c) for i, c in zip(to, cell, strict=True))
        out[(slice(None), *target)] = image[(slice(None), *source)]
        number += 1
    return out


def unstitch(reuse, hidden, cell):
    """The hidden cells of a reuse image at their original positions, zero elsewhere; inverts `stitch`."""
    pieces = to_cells(reuse, cell)
    slots, _ = _slots(hidden)
    sample, position = hidden.flatten(1).nonzero(as_tuple=True)
    cells = pieces.new_zeros(len(pieces), slots.shape[1], pieces.shape[2])
    cells[sample, position] = pieces[sample, slots[sample, position]]
    space = tuple(count * step for count, step in zip(hidden.shape[1:], cell, strict=True))
    return from_cells(cells, space, cell)


@pytest.mark.parametrize("rule", sorted(MASKS))
@pytest.mark.parametrize(("grid", "cell"), [((6, 4), (2, 3)), ((3, 4, 2), (2, 2, 4))])
def test_masked_and_scattered_back_is_the_image(rule, grid, cell):
    images = torch.randn(3, 2, *[n * c for n, c in zip(grid, cell, strict=True)])
    hidden = drawn(grid, rule=rule)
    masked = images.masked_fill(hidden_voxels(hidden, images.shape[2:]), 0)
    assert torch.equal(masked + unstitch(stitch(images, hidden, cell), hidden, cell), images)


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.8])
@pytest.mark.parametrize("rule", ["patch", "random"])
def test_the_control_uses_a_canvas_of_equal_size(rule, ratio):
    grid, cell = (6, 8), (2, 3)
    images, hidden = torch.rand(3, 2, 12, 24) + 1, drawn(grid, rule=rule, ratio=ratio)
    found = stitch_visible(images, hidden, cell)
    assert found.shape == stitch(images, hidden, cell).shape
    for sample, where in zip(range(3), hidden, strict=True):
        visible, count = (~where).flatten().nonzero()[:, 0], int(where.sum())
        chosen = torch.zeros(grid, dtype=torch.bool)
        # every so many-th of them, the last one included
        chosen.view(-1)[visible[[-(-(k * len(visible)) // count) - 1 for k in range(1, count + 1)]]] = True
        expected = naive_stitch(images[sample], chosen, cell, naive_canvas(hidden), regular=False)
        assert torch.equal(found[sample], expected)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_equals_the_naive_loop_whatever_is_hidden(data):
    dims = data.draw(st.integers(2, 3))
    sizes = st.lists(st.integers(1, 4), min_size=dims, max_size=dims).map(tuple)
    grid, cell = data.draw(sizes), data.draw(sizes)
    cells = math.prod(grid)
    flags = st.lists(st.booleans(), min_size=2 * cells, max_size=2 * cells)
    hidden = torch.tensor(data.draw(flags)).reshape(2, *grid)
    images = torch.randn(2, 2, *[n * c for n, c in zip(grid, cell, strict=True)])
    reuse = stitch(images, hidden, cell)
    canvas = naive_canvas(hidden)
    for image, mask, found in zip(images, hidden, reuse, strict=True):
        expected = naive_stitch(image, mask, cell, canvas, regular=is_regular(mask))
        assert torch.equal(found, expected)
    voxels = hidden_voxels(hidden, images.shape[2:])
    assert torch.equal(unstitch(reuse, hidden, cell), images.masked_fill(~voxels, 0))


@pytest.mark.parametrize("grid", [(7, 7), (14, 14), (6, 6, 6), (12, 8, 10)], ids=str)
def test_a_window_stays_a_window(grid):
    for seed in range(20):
        hidden = drawn(grid, rule="patch", ratio=0.25, batch=1, seed=seed)
        images = torch.arange(1.0, hidden.numel() + 1).reshape(1, 1, *grid)
        box = tuple(slice(along[0], along[-1] + 1) for along in occupied(hidden[0]))
        window = images.masked_fill(~hidden, 0)[(0, 0, *box)]
        reuse = stitch(images, hidden, (1,) * len(grid))[0, 0]
        assert torch.equal(reuse[tuple(map(slice, window.shape))], window)


@pytest.mark.parametrize("grid", [(7, 7), (14, 14), (6, 6, 6), (12, 12, 12)], ids=str)
def test_neighbours_within_the_windows_of_a_lattice_stay_neighbours(grid):
    for seed in range(20):
        hidden = drawn(grid, rule="grid", ratio=0.25, batch=1, seed=seed)
        if not is_regular(hidden[0]):
            continue
        images = torch.arange(1.0, hidden.numel() + 1).reshape(1, 1, *grid)
        reuse = stitch(images, hidden, (1,) * len(grid))[0, 0]
        for axis in range(len(grid)):
            where = images[0, 0].masked_fill(~hidden[0], 0).unfold(axis, 2, 1).flatten(0, -2)
            after = reuse.unfold(axis, 2, 1).flatten(0, -2)
            pairs = {tuple(pair) for pair in after.tolist()}
            assert all(tuple(pair) in pairs for pair in where.tolist() if min(pair) > 0)


def test_a_quarter_of_the_cells_makes_an_image_of_half_the_side():
    hidden = drawn((14, 14), rule="patch", ratio=0.25)
    assert stitch(torch.randn(3, 1, 56, 56), hidden, (4, 4)).shape == (3, 1, 28, 28)


@pytest.mark.parametrize(
    ("grid", "count", "expected"),
    [((4, 4), 1, (2, 2)), ((8, 4), 8, (4, 2)), ((8, 4), 9, (5, 2)), ((1, 9), 5, (1, 5)), ((2, 2), 4, (2, 2))],
)
def test_the_canvas_has_the_proportions_of_the_image(grid, count, expected):
    assert canvas_of(grid, count) == expected


def test_infinity_in_a_hidden_cell_has_no_effect():
    images = torch.randn(1, 1, 8, 8)
    images[..., :2, :2] = torch.inf
    hidden = drawn((4, 4), batch=1)
    hidden[0, 0, 0] = False
    assert stitch(images, hidden, (2, 2)).isfinite().all()
