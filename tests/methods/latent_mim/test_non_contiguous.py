"""Non-contiguous patches: each is cropped from its own cell, equal for equal masks."""

import numpy as np
import pytest
import torch

from medmim.methods.latent_mim.non_contiguous import crop_patches


def cut(grid, cell, patch, *, seed=0):
    """Images whose voxels are their own numbers, and what is cut out of them."""
    space = [g * c for g, c in zip(grid, cell, strict=True)]
    count = int(np.prod(space))
    images = torch.arange(2.0 * 2 * count).reshape(2, 2, *space)
    hidden = torch.rand(2, *grid, generator=torch.Generator().manual_seed(seed)) < 0.5
    return images, crop_patches(images, hidden, cell=cell, patch=patch)


@pytest.mark.parametrize(
    ("grid", "cell", "patch"),
    [((3, 4), (5, 5), (4, 4)), ((2, 3), (7, 4), (4, 4)), ((2, 3, 2), (6, 5, 5), (4, 4, 3))],
)
def test_each_patch_is_one_window_of_its_cell(grid, cell, patch):
    images, apart = cut(grid, cell, patch)
    assert apart.shape == (2, 2, *[g * p for g, p in zip(grid, patch, strict=True)])
    seen = [set() for _ in grid]
    for sample in range(2):
        for place in np.ndindex(*grid):
            window = apart[
                (sample, slice(None), *[slice(p * i, p * (i + 1)) for i, p in zip(place, patch, strict=True)])
            ]
            first = int(window[0].flatten()[0]) % int(np.prod(images.shape[2:]))
            start = np.unravel_index(first, images.shape[2:])
            offsets = [s - c * i for s, c, i in zip(start, cell, place, strict=True)]
            for axis, offset in enumerate(offsets):
                assert 0 <= offset < max(cell[axis] - patch[axis], 1)
                seen[axis].add(int(offset))
            there = tuple(slice(s, s + p) for s, p in zip(start, patch, strict=True))
            assert torch.equal(window, images[(sample, slice(None), *there)])
    for axis, offsets in enumerate(seen):
        assert len(offsets) == max(cell[axis] - patch[axis], 1)


def test_equal_masks_give_equal_crops_and_others_differ():
    first, again, other = (cut((4, 4), (6, 6), (4, 4), seed=seed)[1] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_global_random_state_is_not_changed():
    before = torch.get_rng_state()
    cut((3, 3), (6, 6), (4, 4))
    assert torch.equal(torch.get_rng_state(), before)
