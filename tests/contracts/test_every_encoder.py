"""Contract of every convolutional encoder of the table, in 2D and 3D."""

import math
from itertools import pairwise

import pytest
import tiny
import torch
from torch.utils.checkpoint import checkpoint

from medmim.encoders import build_encoder, mask, pack
from medmim.errors import UsageError
from medmim.masks import build_mask

every_encoder = pytest.mark.parametrize("name", tiny.ON_VOXELS)
both_dims = pytest.mark.parametrize("dims", [2, 3])
both_ways = pytest.mark.parametrize("hide", [mask, pack], ids=["masked", "packed"])

# options that make a table entry small enough for a test; an encoder without any is run as it is
SMALL = {
    "convnext": {"widths": (3, 4, 6), "blocks": (1, 2, 1)},
    "dynunet": {"filters": (3, 4, 6)},
    "resenc": {"features": (3, 4, 6), "blocks": (1, 2, 1)},
    "resnet18": {"widths": (3, 4, 4, 6), "stem_stride": 1},
    "resnet50": {"widths": (2, 2, 2, 3), "stem_stride": 1},
    "segresnet": {"width": 4, "blocks": (1, 1, 2), "groups": 2},
}


def build(name, dims, channels=1):
    torch.manual_seed(0)
    return build_encoder(name, spatial_dims=dims, in_channels=channels, **SMALL.get(name, {}))


def batch_for(encoder, dims, *, seed=0, batch=2, channels=1, cells=3):
    generator = torch.Generator().manual_seed(seed)
    grid = (cells, cells - 1, cells - 1)[:dims]
    space = [n * stride for n, stride in zip(grid, encoder.total_stride, strict=True)]
    images = torch.randn(batch, channels, *space, generator=generator)
    return images, build_mask("mesh", ratio=0.5).sample(batch, grid, generator=generator)


@every_encoder
@both_dims
@pytest.mark.parametrize("channels", [1, 3])
def test_maps_have_the_declared_channels_and_strides(name, dims, channels):
    encoder = build(name, dims, channels)
    images, hidden = batch_for(encoder, dims, channels=channels)
    assert encoder.in_channels == channels
    assert len(encoder.channels) == len(encoder.strides)
    assert encoder.total_stride == encoder.strides[-1]
    for maps in (encoder(images), encoder(mask(images, hidden)), encoder(pack(images, hidden))):
        for item, width, stride in zip(maps, encoder.channels, encoder.strides, strict=True):
            expected = tuple(n // s for n, s in zip(images.shape[2:], stride, strict=True))
            assert tuple(item.shape) == (2, width, *expected)


@every_encoder
@both_dims
def test_strides_grow_from_fine_to_coarse_and_divide_each_other(name, dims):
    strides = build(name, dims).strides
    assert all(len(stride) == dims for stride in strides)
    for fine, coarse in pairwise(strides):
        assert all(c % f == 0 for f, c in zip(fine, coarse, strict=True))
        assert math.prod(coarse) >= math.prod(fine)


@every_encoder
@both_dims
@both_ways
def test_hidden_voxels_do_not_change_the_result_exactly(name, dims, hide):
    encoder = build(name, dims)
    images, hidden = batch_for(encoder, dims)
    covered = (mask(images, hidden).visible == 0).expand_as(images)
    first = encoder(hide(images, hidden))
    disturbed = torch.where(covered, 1e6 * torch.randn_like(images), images)
    for clean, other in zip(first, encoder(hide(disturbed, hidden)), strict=True):
        assert torch.equal(clean.unpack(), other.unpack())
    disturbed = images + 0.1 * (~covered)
    assert not torch.equal(encoder(hide(disturbed, hidden))[0].unpack(), first[0].unpack())


@every_encoder
@both_dims
@both_ways
def test_no_gradient_reaches_a_hidden_voxel(name, dims, hide):
    encoder = build(name, dims)
    images, hidden = batch_for(encoder, dims)
    images.requires_grad_()
    sum(item.unpack().square().sum() for item in encoder(hide(images, hidden))).backward()
    visible = mask(images, hidden).visible.bool().expand_as(images)
    assert not images.grad[~visible].any()
    assert images.grad[visible].any()


def gradients(encoder, batches, hide):
    encoder.zero_grad()
    losses = [sum(m.unpack().square().mean() for m in encoder(hide(*batch))) for batch in batches]
    sum(losses).backward()
    return [parameter.grad.clone() for parameter in encoder.parameters()]


@every_encoder
@both_dims
@both_ways
def test_two_masks_before_one_backward_do_not_interfere(name, dims, hide):
    encoder = build(name, dims).double()
    batches = [
        (images.double(), hidden)
        for images, hidden in (batch_for(encoder, dims, seed=seed) for seed in (0, 1))
    ]
    together = gradients(encoder, batches, hide)
    apart = [gradients(encoder, [batch], hide) for batch in batches]
    for both, first, second in zip(together, *apart, strict=True):
        torch.testing.assert_close(both, first + second, rtol=1e-9, atol=1e-12)


@every_encoder
@both_ways
def test_recomputing_activations_gives_the_same_gradients(name, hide):
    encoder = build(name, 2).double()
    images, hidden = batch_for(encoder, 2)
    images = images.double().requires_grad_()
    expected = gradients(encoder, [(images, hidden)], hide)
    encoder.zero_grad()

    def loss(x):
        return sum(item.unpack().square().mean() for item in encoder(hide(x, hidden)))

    checkpoint(loss, images, use_reentrant=False).backward()
    for parameter, gradient in zip(encoder.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-12)


def bf16_errors(encoder, images):
    """Relative error of each map under bf16 autocast, for a tensor or a masked value."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = encoder(images)
    pairs = [
        (a, b) if isinstance(a, torch.Tensor) else (a.unpack(), b.unpack())
        for a, b in zip(low, encoder(images), strict=True)
    ]
    return [((a.float() - b).norm() / b.norm()).item() for a, b in pairs]


@every_encoder
@both_dims
@both_ways
def test_bf16_autocast_loses_no_more_than_without_a_mask(name, dims, hide):
    encoder = build(name, dims)
    images, hidden = batch_for(encoder, dims, batch=4)
    for masked, dense in zip(
        bf16_errors(encoder, hide(images, hidden)), bf16_errors(encoder, images), strict=True
    ):
        assert masked < 3 * dense + 0.02


@every_encoder
def test_one_state_for_masked_and_dense(name):
    encoder, other = build(name, 2), build(name, 2)
    other.load_state_dict(encoder.state_dict())
    images, _ = batch_for(encoder, 2)
    encoder.eval(), other.eval()
    for first, second in zip(encoder(images), other(images), strict=True):
        assert torch.equal(first, second)


@every_encoder
def test_unknown_options_are_rejected(name):
    with pytest.raises(UsageError, match=f"^encoder '{name}' does not take the option 'wrongly'; known: "):
        build_encoder(name, spatial_dims=2, in_channels=1, wrongly=1)


def test_unknown_encoders_are_rejected_with_the_nearest_name():
    with pytest.raises(UsageError, match=r"^unknown encoder 'resnet81'; did you mean 'resnet18'\?$"):
        build_encoder("resnet81", spatial_dims=2, in_channels=1)


def test_unknown_options_are_rejected_with_the_nearest_name():
    with pytest.raises(UsageError, match=r"'filter'; did you mean 'filters'\?$"):
        build_encoder("dynunet", spatial_dims=2, in_channels=1, filter=(4,))
