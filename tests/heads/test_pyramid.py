"""Feature maps of a single stride are converted to a pyramid; hierarchical maps are not changed."""

import pytest
import torch

from medmim.encoders import build_encoder
from medmim.heads.pyramid import Pyramid


def pyramid_of(patch, dims=2, *, width=64, depth=4):
    torch.manual_seed(0)
    encoder = build_encoder(
        "vit", spatial_dims=dims, in_channels=1, patch=patch, width=width, depth=depth, heads=2
    )
    return encoder, Pyramid(encoder, spatial_dims=dims)


@pytest.mark.parametrize(
    ("patch", "strides", "channels"),
    [
        (16, (2, 4, 8, 16), (16, 16, 32, 64)),
        (8, (1, 2, 4, 8), (16, 16, 32, 64)),
        (4, (1, 2, 4), (16, 32, 64)),
        (6, (3, 6), (32, 64)),
        (5, (5,), (64,)),
    ],
)
@pytest.mark.parametrize("dims", [2, 3])
def test_each_shallower_map_has_twice_the_resolution(patch, strides, channels, dims):
    encoder, pyramid = pyramid_of(patch, dims)
    assert pyramid.strides == tuple((stride,) * dims for stride in strides)
    assert pyramid.channels == channels
    maps = pyramid(encoder(torch.randn(2, 1, *[2 * patch] * dims)))
    for features, stride, width in zip(maps, strides, channels, strict=True):
        assert features.shape == (2, width, *[2 * patch // stride] * dims)


def test_anisotropic_patches_reach_full_resolution():
    encoder, pyramid = pyramid_of([2, 8, 4], 3)
    assert pyramid.strides == ((1, 1, 1), (1, 2, 1), (1, 4, 2), (2, 8, 4))
    maps = pyramid(encoder(torch.randn(1, 1, 4, 16, 8)))
    assert [tuple(features.shape[2:]) for features in maps] == [(4, 16, 8), (4, 8, 8), (4, 4, 4), (2, 2, 2)]


def test_the_finest_map_is_computed_from_the_shallowest_features():
    encoder, pyramid = pyramid_of(8)
    maps = [features.detach() for features in encoder(torch.randn(1, 1, 16, 16))]
    before = pyramid(maps)
    assert torch.equal(before[-1], maps[-1])
    after = pyramid([maps[0] + torch.randn_like(maps[0]), *maps[1:]])
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [False, True, True, True]


def test_gradients_reach_every_parameter():
    encoder, pyramid = pyramid_of(8)
    sum(item.square().mean() for item in pyramid(encoder(torch.randn(1, 1, 16, 16)))).backward()
    assert all(parameter.grad is not None for parameter in pyramid.parameters())


def test_hierarchical_maps_are_not_changed():
    encoder = build_encoder("dynunet", spatial_dims=2, in_channels=1, filters=(4, 8))
    pyramid = Pyramid(encoder, spatial_dims=2)
    maps = encoder(torch.randn(1, 1, 8, 8))
    assert pyramid(maps) is maps
    assert (pyramid.channels, pyramid.strides) == (encoder.channels, encoder.strides)
    assert not list(pyramid.parameters())
