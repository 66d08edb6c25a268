"""Patterns of einops on masked and packed values."""

import pytest
import torch
from einops import einsum, rearrange, reduce, repeat
from torch import nn

from medmim.encoders import mask, pack
from medmim.errors import ShapeError

both_kinds = pytest.mark.parametrize("hide", [mask, pack])
SPACE = {2: "y x", 3: "z y x"}


def some(dims):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.rand(2, *[3] * dims, generator=generator) < 0.5
    hidden.flatten(1)[:, 0] = False
    return torch.randn(2, 4, *[6] * dims, generator=generator), hidden


@both_kinds
@pytest.mark.parametrize("dims", [2, 3])
def test_channels_move_behind_space_and_back(hide, dims):
    images, hidden = some(dims)
    layer, space = nn.LayerNorm(4), SPACE[dims]
    last = rearrange(hide(images, hidden), f"b c {space} -> b {space} c")
    assert last.shape == (2, *[6] * dims, 4)
    expected = hide(
        rearrange(layer(rearrange(images, f"b c {space} -> b {space} c")), "b ... c -> b c ..."), hidden
    )
    back = rearrange(layer(last), f"b {space} c -> b c {space}")
    torch.testing.assert_close(back.unpack(), expected.unpack())


@both_kinds
@pytest.mark.parametrize("dims", [2, 3])
def test_means_count_visible_voxels(hide, dims):
    images, hidden = some(dims)
    value = hide(images, hidden)
    found = reduce(value, f"b c {SPACE[dims]} -> b c", "mean")
    torch.testing.assert_close(found, value.mean(tuple(range(2, dims + 2))))


@both_kinds
@pytest.mark.parametrize(
    ("use", "name"),
    [
        (lambda x: rearrange(x, "b c y x -> b (y x) c"), "reshape"),
        (lambda x: rearrange(x, "b c y x -> b c x y"), "permute"),
        (lambda x: reduce(x, "b c y x -> b c", "max"), "max"),
        (lambda x: reduce(x, "b c y x -> b c", "sum"), "sum"),
        (lambda x: repeat(x, "b c y x -> b c y x n", n=2), r"einops\.repeat"),
        (lambda x: einsum(x, torch.ones(4, 4), "b c y x, c d -> b d y x"), r"einops\.einsum"),
    ],
)
def test_other_patterns_are_rejected_by_name(hide, use, name):
    with pytest.raises(ShapeError, match=f"'{name}'.* has no (packed|masked) form"):
        use(hide(*some(2)))
