"""Packing divides images into cells, unpacking restores them, and tables live as long as their layout."""

import gc
import inspect
import weakref

import pytest
import torch
from packed_cells import some
from torch import nn

from medmim.encoders import mask, pack
from medmim.errors import ShapeError


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 3, 3), "8×12 voxels does not divide into a grid of 3×3 cells"),
        ((3, 2, 2, 2), "8×12 voxels does not divide into a grid of 2×2×2 cells"),
    ],
)
def test_masks_that_do_not_divide_the_images_are_rejected(shape, message, images):
    with pytest.raises(ShapeError, match=message):
        pack(images, torch.zeros(shape, dtype=torch.bool))


def test_one_mask_for_several_images_is_rejected(images, hidden):
    bare = inspect.unwrap(pack)  # outside the tests no annotation stands before it
    with pytest.raises(ShapeError, match="expected one mask per sample, got 1 for 3 images"):
        bare(images, hidden[:1])


def test_samples_without_visible_cells_are_rejected(images, hidden):
    hidden[1] = True
    with pytest.raises(ShapeError, match="expected visible cells in every sample, got one all hidden: lower"):
        pack(images, hidden)


@pytest.mark.parametrize("fill", [0.0, -2.5, 7.0])
@pytest.mark.parametrize("dims", [2, 3])
def test_unpack_inverts_pack_on_visible_voxels(fill, dims):
    images, hidden = some((2, 4, 3)[:dims], (3, 2, 2)[:dims])
    dense = pack(images, hidden).unpack(fill)
    seen = mask(images, hidden).visible.bool().expand_as(dense)
    assert torch.equal(dense[seen], images[seen])
    assert (dense[~seen] == fill).all()


def test_tables_are_cached_in_the_layout_and_freed_with_it(images, hidden):
    net = nn.Sequential(*[nn.Conv2d(4, 4, 3, padding=1) for _ in range(3)]).double()
    value = pack(images, hidden)
    loss = net(value).unpack().sum()
    tables = dict(value.layout._tables)
    assert len(tables) == 1
    loss.backward()
    assert value.layout._tables.keys() == tables.keys()  # a 3×3 window and its transpose read the same halo
    table, layout = weakref.ref(next(iter(tables.values()))), weakref.ref(value.layout)
    del value, tables, loss
    gc.collect()
    assert table() is None
    assert layout() is None
