"""Norms and pooling of packed cells against the same on masked values."""

import pytest
import torch
import torch.nn.functional as F
from packed_cells import agree, masks, some
from torch import nn

from medmim.encoders import mask, pack
from medmim.errors import ShapeError
from medmim.masks import hidden_voxels


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("cell", [2, 4, 8])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 3, "stride": 1, "padding": 1},
        {"kernel_size": 2, "ceil_mode": True},
        {"kernel_size": 5, "stride": 2, "padding": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["Max", "Avg"])
def test_pooling(kind, options, cell, dims):
    agree(getattr(nn, f"{kind}Pool{dims}d")(**options), *some((cell,) * dims, (3, 3, 3)[:dims]))


@pytest.mark.parametrize("extra", [{"count_include_pad": False}, {"divisor_override": 5}], ids=str)
def test_average_pooling_uses_pytorchs_divisor(extra):
    agree(nn.AvgPool2d(3, 2, 1, **extra), *some((4, 2), (3, 3)))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("cell", [1, 2, 4])
@pytest.mark.parametrize(
    "norm",
    [
        lambda dims: (nn.BatchNorm2d, nn.BatchNorm3d)[dims - 2](4),
        lambda dims: (nn.InstanceNorm2d, nn.InstanceNorm3d)[dims - 2](4),
        lambda dims: (nn.InstanceNorm2d, nn.InstanceNorm3d)[dims - 2](4, affine=True, eps=1e-3),
        lambda dims: nn.GroupNorm(1, 4),
        lambda dims: nn.GroupNorm(2, 4),
        lambda dims: nn.GroupNorm(4, 4),
        lambda dims: nn.GroupNorm(2, 4, affine=False),
        lambda dims: nn.SyncBatchNorm(4),
    ],
)
def test_norms(norm, cell, dims):
    layer = norm(dims).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    agree(layer, *some((cell,) * dims, (3, 2, 2)[:dims], ratio=0.3))


def test_instance_norm_of_one_visible_voxel_is_the_bias():
    images, hidden = some((1, 1), (2, 2), ratio=2.0)
    layer = nn.InstanceNorm2d(4, affine=True).double()
    nn.init.normal_(layer.bias)
    agree(layer, images, hidden)


def test_means_over_space_count_visible_voxels_only(value, images):
    seen = mask(images, value.layout.hidden).visible.expand_as(images)
    expected = (images * seen).sum((2, 3)) / seen.sum((2, 3))
    torch.testing.assert_close(value.mean((2, 3)), expected)
    torch.testing.assert_close(value.mean((-2, -1), keepdim=True), expected[..., None, None])
    torch.testing.assert_close(nn.AdaptiveAvgPool2d(1)(value), expected[..., None, None])


def test_instance_norm_with_running_statistics_is_rejected(value):
    with pytest.raises(
        ShapeError, match="running statistics has no packed form: use track_running_stats=False"
    ):
        nn.InstanceNorm2d(4, track_running_stats=True).double()(value)


def test_batch_norm_over_one_voxel_is_rejected():
    lonely = pack(torch.ones(1, 3, 2, 2), torch.tensor([[[True, True], [True, False]]]))
    with pytest.raises(ShapeError, match=r"batch norm over 1 visible voxel .* use a larger --batch-size"):
        nn.BatchNorm2d(3)(lonely)
    nn.BatchNorm2d(3).eval()(lonely)


@pytest.mark.parametrize("dims", [2, 3])
def test_softmax_rms_norm_and_spatial_norms_use_visible_voxels(dims):
    images, hidden = torch.randn(3, 4, *[8] * dims), masks(dims)
    visible, packed = ~hidden_voxels(hidden, images.shape[2:]), pack(images, hidden)
    axes = tuple(range(2, dims + 2))
    torch.testing.assert_close(packed.softmax(1).unpack(), images.softmax(dim=1) * visible)
    norms = (images * visible).flatten(2).norm(dim=2)
    torch.testing.assert_close(torch.norm(packed, p=2, dim=axes), norms)
    weight = torch.rand(4)
    normed = F.rms_norm(packed.movedim(1, -1), (4,), weight).movedim(-1, 1)
    torch.testing.assert_close(
        normed.unpack(), F.rms_norm(images.movedim(1, -1), (4,), weight).movedim(-1, 1) * visible
    )


@pytest.mark.parametrize("dims", [2, 3])
def test_adaptive_maxima_are_over_visible_voxels(dims):
    images, hidden = torch.randn(3, 4, *[8] * dims) - 10, masks(dims)  # hidden zeros would win
    shown = images.masked_fill(hidden_voxels(hidden, images.shape[2:]), -torch.inf)
    pooled = getattr(nn, f"AdaptiveMaxPool{dims}d")(1)(pack(images, hidden))
    assert torch.equal(pooled, shown.flatten(2).amax(dim=2).reshape(3, 4, *[1] * dims))
