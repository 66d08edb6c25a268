"""Operations without neighbours against the same on masked values."""

from itertools import product

import pytest
import torch
from packed_cells import agree, masked_as, masks, some
from torch import nn

from medmim.encoders import mask, pack
from medmim.errors import ShapeError


@pytest.mark.parametrize(
    "layer",
    [
        nn.ReLU(),
        nn.ReLU(inplace=True),
        nn.LeakyReLU(inplace=True),
        nn.ReLU6(),
        nn.SiLU(),
        nn.GELU(),
        nn.ELU(),
        nn.Mish(),
        nn.Hardswish(),
        nn.PReLU(4),
        nn.Sigmoid(),
        nn.Tanh(),
        nn.Identity(),
        nn.Dropout(0.0),
        nn.Dropout2d(0.5).eval(),
    ],
    ids=repr,
)
def test_activations(layer):
    agree(
        nn.Sequential(nn.Conv2d(4, 4, 1), layer, nn.Conv2d(4, 4, 3, padding=1)).double(),
        *some((4, 4), (2, 3)),
    )


@pytest.mark.parametrize(
    "shape",
    [(), (1,), (1, 4, 1, 1), (4, 1, 1), (3, 1, 1, 1), (3, 4, 1, 1), (3, 1, 8, 12), (8, 12), (1, 1, 8, 12)],
)
def test_combines_with_numbers_parameters_gates_and_maps(shape, value):
    other = torch.rand(shape, dtype=torch.float64) + 0.5
    dense = value.unpack()
    for ours, expected in [
        (value * other, dense * other),
        (other * value, dense * other),
        (value + other, dense + other),
        (other + value, dense + other),
        (value - other, dense - other),
        (value / other, dense / other),
        (torch.mul(value, other), dense * other),
        (value.add(other), dense + other),
    ]:
        torch.testing.assert_close(ours.unpack(), masked_as(value, expected))
    torch.testing.assert_close((2 - value).unpack(), masked_as(value, 2 - dense))
    torch.testing.assert_close((-value).unpack(), -dense)


def test_a_gate_of_one_channel_scales_all(value):
    gate = torch.sigmoid(nn.Conv2d(4, 1, 1).double()(value))
    torch.testing.assert_close((value * gate).unpack(), value.unpack() * gate.unpack())


def test_in_place_operators_make_a_new_value(value):
    before = value.unpack().clone()
    other = value
    other += value
    other *= 3.0
    other -= value
    other /= 2
    assert torch.equal(value.unpack(), before)
    torch.testing.assert_close(other.unpack(), before * 2.5)


def test_concatenates_and_divides_along_channels(value):
    for joined in (
        torch.cat([value, value], 1),
        torch.cat([value, value], dim=-3),
        torch.concat([value, value], 1),
    ):
        assert torch.equal(joined.unpack(), torch.cat([value.unpack()] * 2, 1))
    for parts in (torch.chunk(value, 2, dim=1), value.chunk(2, dim=1), value.split([2, 2], dim=1)):
        assert torch.equal(torch.cat(parts, 1).unpack(), value.unpack())
        assert parts[0].shape[1] == 2
        agreed = nn.Conv2d(2, 2, 3, padding=1).double()
        torch.testing.assert_close(
            agreed(parts[1]).unpack(), masked_as(value, agreed(value.unpack()[:, 2:])), rtol=1e-9, atol=1e-9
        )


def test_dropout_of_channels_drops_them_in_all_cells_of_a_sample(value):
    torch.manual_seed(0)
    dropped = nn.Dropout2d(0.5)(value + 10).unpack()
    seen = mask(torch.ones_like(dropped), value.layout.hidden).unpack().bool()
    for sample, channel in product(range(3), range(4)):
        voxels = dropped[sample, channel][seen[sample, channel]]
        assert (voxels == 0).all() or torch.equal(
            voxels, 2 * (value + 10).unpack()[sample, channel][seen[sample, channel]]
        )
    assert 0 < (dropped[seen] == 0).double().mean() < 1


@pytest.mark.parametrize("dims", [2, 3])
def test_dropout_drops_visible_voxels_and_scales_the_rest(dims):
    images, hidden = some((4, 4, 4)[:dims], (3, 2, 2)[:dims])
    torch.manual_seed(0)
    before, after = (images + 10), nn.Dropout(0.25)(pack(images + 10, hidden)).unpack()
    seen = mask(torch.ones_like(before), hidden).unpack().bool()
    assert not after[~seen].any()
    kept = seen & (after != 0)
    assert 0.7 < kept.sum() / seen.sum() < 0.8
    torch.testing.assert_close(after[kept], before[kept] / 0.75)


def test_mixing_masks_is_rejected(images, hidden, value):
    other = pack(images, hidden.clone())
    for mixed in (
        lambda: value + other,
        lambda: torch.cat([value, other], 1),
        lambda: torch.cat([value, images], 1),
    ):
        with pytest.raises(ShapeError, match="expected values of one forward"):
            mixed()


def test_mixing_channel_orders_is_rejected(value):
    moved = value.movedim(1, -1)
    with pytest.raises(ShapeError, match="channels first and channels last"):
        value + moved
    with pytest.raises(ShapeError, match=r"concatenated along channels \(dim=3\), got dim=1"):
        torch.cat([moved, moved], 1)
    with pytest.raises(ShapeError, match=r"divided along channels \(dim=1\), got dim=0"):
        value.chunk(2)


@pytest.mark.parametrize("dims", [2, 3])
def test_powers_and_channel_slices_equal_the_masked_ones(dims):
    images, hidden = torch.rand(3, 4, *[8] * dims) + 0.5, masks(dims)
    packed, masked = pack(images, hidden), mask(images, hidden)
    torch.testing.assert_close((packed**2).unpack(), (masked**2).unpack())
    torch.testing.assert_close(packed[:, 1:3].unpack(), masked.unpack()[:, 1:3])
    last = packed.movedim(1, -1)[..., ::2]
    torch.testing.assert_close(last.unpack(), masked.unpack().movedim(1, -1)[..., ::2])
    assert not packed.data.requires_grad
    assert len(packed) == 3


@pytest.mark.parametrize("layer", [nn.PixelUnshuffle(2), nn.PixelShuffle(2)], ids=repr)
def test_pixel_shuffles_stay_inside_cells(layer):
    width = 16 if isinstance(layer, nn.PixelUnshuffle) else 1
    after = nn.Conv2d(width, 3, 3, padding=1)
    agree(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), layer, after).double(), *some((4, 4), (2, 3)))


def test_a_pixel_unshuffle_of_cells_that_it_does_not_divide_is_rejected():
    with pytest.raises(
        ShapeError, match=r"^'pixel_unshuffle' by 2 of cells of 3×3 voxels has no packed form"
    ):
        nn.PixelUnshuffle(2)(pack(*some((3, 3), (2, 2))))
