"""Contract of every patch-based encoder of the table, in 2D and 3D."""

import math
from itertools import pairwise

import pytest
import tiny
import torch

from medmim.encoders import build_encoder, mask, pack
from medmim.encoders.custom import CustomEncoder
from medmim.errors import ShapeError, UsageError
from medmim.masks import build_mask, hidden_voxels

every_encoder = pytest.mark.parametrize("name", tiny.ON_PATCHES)
both_dims = pytest.mark.parametrize("dims", [2, 3])

SMALL = {
    "swin": {"patch": 2, "width": 12, "depths": (2, 2), "heads": (2, 3), "window": 2},
    "vit": {"patch": 2, "width": 24, "depth": 3, "heads": 2},
}


def build(name, dims, channels=1):
    torch.manual_seed(0)
    return build_encoder(name, spatial_dims=dims, in_channels=channels, **SMALL[name])


def batch_for(encoder, dims, *, channels=1):
    """Images that are not square, and which of their patches are hidden."""
    generator = torch.Generator().manual_seed(0)
    space = [n * stride for n, stride in zip((3, 2, 2), encoder.total_stride, strict=False)]
    images = torch.randn(2, channels, *space, generator=generator)
    grid = [n // step for n, step in zip(space, encoder.patch, strict=True)]
    return images, build_mask("random", ratio=0.5).sample(2, grid, generator=generator)


def with_tokens(encoder, images, hidden):
    """The maps of images whose hidden patches are replaced by a token."""
    patches = encoder.embed(images)
    token = torch.full((1, encoder.width, *[1] * hidden[0].dim()), 0.1)
    return encoder.encode(torch.where(hidden.unsqueeze(1), token, patches))


@every_encoder
@both_dims
@pytest.mark.parametrize("channels", [1, 3])
def test_maps_have_the_declared_channels_and_strides(name, dims, channels):
    encoder = build(name, dims, channels)
    images, hidden = batch_for(encoder, dims, channels=channels)
    assert encoder.in_channels == channels
    assert len(encoder.channels) == len(encoder.strides)
    assert encoder.total_stride == encoder.strides[-1]
    assert encoder.embed(images).shape == (2, encoder.width, *hidden.shape[1:])
    for maps in (encoder(images), with_tokens(encoder, images, hidden)):
        for item, width, stride in zip(maps, encoder.channels, encoder.strides, strict=True):
            expected = tuple(n // s for n, s in zip(images.shape[2:], stride, strict=True))
            assert tuple(item.shape) == (2, width, *expected)


@every_encoder
@both_dims
def test_strides_do_not_fall_from_fine_to_coarse_and_divide_each_other(name, dims):
    encoder = build(name, dims)
    assert all(len(stride) == dims for stride in encoder.strides)
    assert all(n % step == 0 for n, step in zip(encoder.strides[0], encoder.patch, strict=True))
    for fine, coarse in pairwise(encoder.strides):
        assert all(c % f == 0 for f, c in zip(fine, coarse, strict=True))
        assert math.prod(coarse) >= math.prod(fine)


@every_encoder
@both_dims
def test_a_patch_is_embedded_from_its_own_voxels_bit_for_bit(name, dims):
    encoder = build(name, dims)
    images, hidden = batch_for(encoder, dims)
    covered = hidden_voxels(hidden, images.shape[2:]).expand_as(images)
    disturbed = torch.where(covered, torch.inf, images)
    visible = ~hidden.unsqueeze(1).expand(-1, encoder.width, *hidden.shape[1:])
    first, second = encoder.embed(images), encoder.embed(disturbed)
    assert torch.equal(first[visible], second[visible])
    assert not torch.equal(first, second)


@every_encoder
@both_dims
def test_patches_replaced_by_a_token_have_no_effect_exactly(name, dims):
    encoder = build(name, dims)
    images, hidden = batch_for(encoder, dims)
    covered = hidden_voxels(hidden, images.shape[2:]).expand_as(images)
    first = with_tokens(encoder, images, hidden)
    disturbed = torch.where(covered, 1e6 * torch.randn_like(images), images)
    for clean, other in zip(first, with_tokens(encoder, disturbed, hidden), strict=True):
        assert torch.equal(clean, other)
    seen = with_tokens(encoder, images + 0.1 * (~covered), hidden)
    assert not torch.equal(seen[-1], first[-1])


@every_encoder
@both_dims
def test_gradients_reach_visible_voxels_only_and_every_parameter(name, dims):
    encoder = build(name, dims)
    images, hidden = batch_for(encoder, dims)
    images.requires_grad_()
    generator = torch.Generator().manual_seed(1)
    maps = with_tokens(encoder, images, hidden)
    sum((item * torch.randn(item.shape, generator=generator)).sum() for item in maps).backward()
    covered = hidden_voxels(hidden, images.shape[2:]).expand_as(images)
    assert not images.grad[covered].any()
    assert images.grad[~covered].all()
    for place, parameter in encoder.named_parameters():
        assert parameter.grad.any(), place


@every_encoder
@both_dims
@pytest.mark.parametrize("hide", [mask, pack], ids=["masked", "packed"])
def test_masked_and_packed_images_are_rejected(name, dims, hide):
    encoder = build(name, dims)
    images, _ = batch_for(encoder, dims)
    grid = [n // stride for n, stride in zip(images.shape[2:], encoder.total_stride, strict=True)]
    hidden = build_mask("random", ratio=0.5).sample(2, grid, generator=torch.Generator())
    with pytest.raises(ShapeError, match=r"^\w+ is patch-based and accepts no masked or packed images: use "):
        encoder(hide(images, hidden))


@every_encoder
@both_dims
def test_bf16_autocast_loses_little(name, dims):
    encoder = build(name, dims)
    images, hidden = batch_for(encoder, dims)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = with_tokens(encoder, images, hidden)
    for a, b in zip(low, with_tokens(encoder, images, hidden), strict=True):
        assert (a.float() - b).norm() < 0.02 * b.norm()


@every_encoder
def test_one_state(name):
    encoder, other = build(name, 2), build_encoder(name, spatial_dims=2, in_channels=1, **SMALL[name])
    images, _ = batch_for(encoder, 2)
    assert not torch.equal(encoder(images)[-1], other(images)[-1])
    other.load_state_dict(encoder.state_dict())
    for first, second in zip(encoder(images), other(images), strict=True):
        assert torch.equal(first, second)


@every_encoder
@both_dims
def test_drop_path_skips_branches_while_training_only(name, dims):
    torch.manual_seed(0)
    encoder = build_encoder(name, spatial_dims=dims, in_channels=1, **SMALL[name], drop_path=0.9)
    images, _ = batch_for(encoder, dims)
    assert not torch.equal(encoder(images)[-1], encoder(images)[-1])
    encoder.eval()
    assert torch.equal(encoder(images)[-1], encoder(images)[-1])


@every_encoder
def test_unknown_options_are_rejected(name):
    with pytest.raises(UsageError, match=f"^encoder '{name}' does not take the option 'wrongly'; known: "):
        build_encoder(name, spatial_dims=2, in_channels=1, wrongly=1)


@every_encoder
def test_an_encoder_subclass_is_not_wrapped(name):
    assert not isinstance(build(name, 2), CustomEncoder)
