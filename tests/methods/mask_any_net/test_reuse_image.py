"""The reuse image contains every hidden voxel once and can be inverted exactly."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medmim.masks import MASKS, build_mask, hidden_voxels
from medmim.methods.mask_any_net.reuse_image import canvas_of, stitch, stitch_visible, unstitch


def drawn(grid, *, rule="random", ratio=0.4, batch=3, seed=0):
    return build_mask(rule, ratio=ratio).sample(batch, grid, generator=torch.Generator().manual_seed(seed))


def naive_stitch(image, hidden, cell, canvas):
    """One sample: the hidden cells written one after the other into an empty canvas."""
    grid = hidden.shape
    out = torch.zeros(image.shape[0], *[n * c for n, c in zip(canvas, cell, strict=True)])
    number = 0
    for flat in range(math.prod(grid)):
        place = torch.unravel_index(torch.tensor(flat), grid)
        if not hidden[place]:
            continue
        to = torch.unravel_index(torch.tensor(number), canvas)
        source = tuple(slice(int(i) * c, (int(i) + 1) * c) for i, c in zip(place, cell, strict=True))
        target = tuple(slice(int(i) * c, (int(i) + 1) * c) for i, c in zip(to, cell, strict=True))
        out[(slice(None), *target)] = image[(slice(None), *source)]
        number += 1
    return out


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
        canvas = canvas_of(grid, int(hidden.flatten(1).sum(dim=1).max()))
        assert torch.equal(found[sample], naive_stitch(images[sample], chosen, cell, canvas))


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
    canvas = canvas_of(grid, int(hidden.flatten(1).sum(dim=1).max()))
    for sample in range(2):
        assert torch.equal(reuse[sample], naive_stitch(images[sample], hidden[sample], cell, canvas))
    voxels = hidden_voxels(hidden, images.shape[2:])
    assert torch.equal(unstitch(reuse, hidden, cell), images.masked_fill(~voxels, 0))


def test_a_window_stays_a_window():
    images = torch.arange(64.0).reshape(1, 1, 8, 8)
    hidden = torch.zeros(1, 4, 4, dtype=torch.bool)
    hidden[:, 1:3, 2:4] = True
    assert torch.equal(stitch(images, hidden, (2, 2)), images[:, :, 2:6, 4:8])


def test_a_quarter_of_the_cells_makes_an_image_of_half_the_side():
    hidden = drawn((14, 14), rule="grid", ratio=0.25)
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
