"""Sizes: how they are given, when they fit, what is said when they do not."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medmim.errors import ShapeError
from medmim.shapes import as_size, grid_of, require_tensors, round_up


@pytest.mark.parametrize(
    ("value", "dims", "size"),
    [(4, 2, (4, 4)), (4, 3, (4, 4, 4)), ((4,), 3, (4, 4, 4)), ([1, 2], 2, (1, 2)), ((1, 2, 3), 3, (1, 2, 3))],
)
def test_one_number_stands_for_all_axes(value, dims, size):
    assert as_size(value, dims, what="--size") == size


@pytest.mark.parametrize(
    ("value", "shown"),
    [((1, 2), "1×2"), ((1, 2, 3, 4), "1×2×3×4"), (0, "0×0×0"), ((4, -1, 4), "4×-1×4"), ((), "")],
)
def test_refuses_another_count_or_no_size(value, shown):
    with pytest.raises(ShapeError, match=f"^--size: expected one or 3 positive sizes, got {shown}$"):
        as_size(value, 3, what="--size")


sizes = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=2, max_size=3)


@given(sizes)
def test_a_grid_of_whole_cells_comes_back(pairs):
    cells, steps = zip(*pairs, strict=True)
    assert grid_of([c * s for c, s in pairs], steps) == cells


@given(sizes)
def test_the_sizes_that_a_message_offers_do_fit(pairs):
    space, cell = zip(*pairs, strict=True)
    if all(n % step == 0 for n, step in pairs):
        return
    with pytest.raises(ShapeError, match="--size ") as refused:
        grid_of(space, cell)
    words = str(refused.value).split("--size ")[1].split(", or")[0]
    for offer in words.split(" or "):
        grid_of([int(n) for n in offer.split(",")], cell)


def test_the_message_names_image_cells_and_the_nearest_sizes():
    message = (
        r"^image of 100×96 voxels does not divide into mask cells of 16×16: use --size 112,96 or 96,96, "
        r"or another --cell$"
    )
    with pytest.raises(ShapeError, match=message):
        grid_of((100, 96), (16, 16))


def test_an_image_smaller_than_a_cell_is_offered_the_one_size():
    with pytest.raises(
        ShapeError, match=r"image of 8×8 voxels .* 16×16: use --size 16,16, or another --cell$"
    ):
        grid_of((8, 8), (16, 16))


def test_refuses_other_axes():
    with pytest.raises(
        ShapeError, match="expected equal axis counts, got an image of 8×8×8 voxels and cells of 4×4"
    ):
        grid_of((8, 8, 8), (4, 4))


@given(sizes)
def test_rounding_up_gives_the_smallest_multiple(pairs):
    space, multiple = zip(*pairs, strict=True)
    for length, step, result in zip(space, multiple, round_up(space, multiple), strict=True):
        assert result % step == 0
        assert length <= result < length + step


@pytest.mark.parametrize(
    ("images", "hidden", "message"),
    [
        (
            np.zeros((1, 1, 4, 4)),
            torch.ones(1, 2, 2).bool(),
            "images: expected a floating-point tensor, got ndarray",
        ),
        (torch.ones(1, 1, 4, 4).int(), torch.ones(1, 2, 2).bool(), "images: .* got one of torch.int32"),
        (
            torch.ones(1, 1, 4, 4),
            torch.ones(1, 2, 2),
            "hidden: expected a Boolean tensor, got one of torch.float32",
        ),
    ],
    ids=["array", "integers", "weights"],
)
def test_other_inputs_than_images_and_a_boolean_mask_are_named(images, hidden, message):
    with pytest.raises(TypeError, match=message):
        require_tensors(images, hidden)
