"""The block mask is several boxes, not one and not dust."""

import pytest
import torch
from scipy import ndimage

from medmim.errors import UsageError
from medmim.masks import build_mask


def draw(ratio, grid, *, batch=64, seed=0, **options):
    mask = build_mask("block", ratio=ratio, **options)
    return mask.sample(batch, grid, generator=torch.Generator().manual_seed(seed))


def largest_square(sample):
    """Side of the largest hidden square or cube."""
    side = 1
    while ndimage.binary_erosion(sample, structure=[[True] * side] * side).any():
        side += 1
    return side - 1


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7])
def test_is_more_than_one_box(ratio):
    for sample in draw(ratio, (14, 14)):
        y, x = sample.nonzero(as_tuple=True)
        around = int(y.max() - y.min() + 1) * int(x.max() - x.min() + 1)
        assert around > sample.sum()


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7])
def test_boxes_are_large(ratio):
    sides = [largest_square(sample.numpy()) for sample in draw(ratio, (14, 14))]
    assert min(sides) >= 2
    assert sum(sides) / len(sides) >= 3.5


def test_shapes_vary():
    sizes = set()
    for sample in draw(0.2, (20, 20), batch=200):
        labels, _ = ndimage.label(sample.numpy())
        for place in ndimage.find_objects(labels):
            sizes.add(tuple(part.stop - part.start for part in place))
    assert any(height >= 2 * width for height, width in sizes)
    assert any(width >= 2 * height for height, width in sizes)


def test_boxes_of_one_aspect_are_squares():
    # half of the count at most in one box: with 2 cells to hide, boxes of one cell
    hidden = draw(0.5, (4, 4), aspect=1.0, smallest=1 / 16)
    assert hidden.flatten(1).sum(dim=1).tolist() == [8] * 64
    assert largest_square(draw(0.32, (10, 10), aspect=1.0, smallest=0.16, batch=1)[0].numpy()) >= 4


@pytest.mark.parametrize("option", ["smallest", "aspect"])
@pytest.mark.parametrize("value", [0.0, 1.5, -1.0])
def test_refuses_what_is_no_share(option, value):
    message = f"^mask 'block', option {option}: expected a number above 0 and up to 1, got {value:g}$"
    with pytest.raises(UsageError, match=message):
        build_mask("block", ratio=0.5, **{option: value})
