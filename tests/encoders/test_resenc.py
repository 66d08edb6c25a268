"""The `resenc` encoder: parity with dynamic-network-architectures, sizes, options."""

import importlib
import importlib.util

import pytest
import torch
from torch import nn

from medmim.encoders import build_encoder, mask, pack
from medmim.encoders.resenc import SIZES
from medmim.errors import UsageError
from medmim.masks import build_mask

SMALL = {"features": (4, 6, 8), "blocks": (1, 2, 2)}


@pytest.fixture(scope="module")
def reference():
    """`ResidualEncoder`, imported without the package's `architectures`, which need timm and torchvision."""
    name = "dynamic_network_architectures"
    if importlib.util.find_spec(name) is None:
        pytest.skip("dynamic-network-architectures is not installed")
    return importlib.import_module(f"{name}.building_blocks.residual_encoders").ResidualEncoder


def build_reference(reference, dims, features, blocks, strides):
    conv, norm = (nn.Conv2d, nn.InstanceNorm2d) if dims == 2 else (nn.Conv3d, nn.InstanceNorm3d)
    return reference(
        input_channels=1,
        n_stages=len(features),
        features_per_stage=list(features),
        conv_op=conv,
        kernel_sizes=[[3] * dims] * len(features),
        strides=strides,
        n_blocks_per_stage=list(blocks),
        conv_bias=True,
        norm_op=norm,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        return_skips=True,
    )


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("first", [1, 2])
def test_names_weights_and_outputs_equal_nnunets_residual_encoder(reference, dims, first):
    strides = [[first] * dims, [2] * dims, [1] * (dims - 1) + [2]]
    theirs = build_reference(reference, dims, SMALL["features"], SMALL["blocks"], strides)
    ours = build_encoder("resenc", spatial_dims=dims, in_channels=1, **SMALL, strides=strides)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(2, 1, *[16] * dims)
    for one, other in zip(ours(images), theirs(images), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", sorted(SIZES))
@pytest.mark.parametrize("dims", [2, 3])
def test_the_keys_of_every_size_equal_nnunets(reference, size, dims):
    features, blocks = SIZES[size]
    strides = [[1] * dims] + [[2] * dims] * (len(features) - 1)
    with torch.device("meta"):
        theirs = build_reference(reference, dims, features, blocks, strides).state_dict()
        ours = build_encoder("resenc", spatial_dims=dims, in_channels=1, size=size).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_size_l_has_the_keys_of_resenc_l():
    with torch.device("meta"):
        encoder = build_encoder("resenc", spatial_dims=3, in_channels=1, size="L")
    assert len(encoder.state_dict()) == 448
    assert encoder.channels == (32, 64, 128, 256, 320, 320)
    assert encoder.total_stride == (32, 32, 32)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == PARAMETERS_OF_L


@pytest.mark.parametrize("dims", [2, 3])
def test_packed_equals_masked_in_float64(dims):
    torch.manual_seed(0)
    encoder = build_encoder("resenc", spatial_dims=dims, in_channels=1, **SMALL).double()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.2)
    images = torch.randn(2, 1, *[16] * dims, dtype=torch.float64)
    hidden = build_mask("mesh", ratio=0.6).sample(2, (4,) * dims, generator=torch.Generator())
    for one, other in zip(encoder(pack(images, hidden)), encoder(mask(images, hidden)), strict=True):
        torch.testing.assert_close(one.unpack(), other.unpack(), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "XL"}, "unknown size 'XL'"),
        ({"features": (4, 8)}, "expected as many blocks, kernel_sizes and strides as features"),
        ({"features": (4, 8), "blocks": (1, 0)}, "at least one block per stage, got 2 features"),
        ({"strides": (1, 2)}, "got 4 features, .* and 2 strides"),
    ],
)
def test_invalid_options_are_rejected(options, message):
    with pytest.raises(UsageError, match=message):
        build_encoder("resenc", spatial_dims=2, in_channels=1, **options)


PARAMETERS_OF_L = 90296576
