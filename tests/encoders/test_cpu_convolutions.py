"""Tests of the convolutions that PyTorch computes wrongly on CPUs, against float64."""

import pytest
import torch
import torch.nn.functional as F
from convolution_passes import BOUND, FUNCTIONS, fill_freed_memory, passes

from medmim.encoders import mask, pack


def require_equal_to_float64(dtype, space, kernel, *, transposed=False, channels=(16, 32), **options):
    torch.manual_seed(0)
    groups, dims = options.get("groups", 1), len(space)
    function, (before, after) = FUNCTIONS[dims, transposed], channels
    sizes = (before, after // groups) if transposed else (after, before // groups)
    values = torch.randn(2, before, *space).to(dtype)
    weight = torch.randn(*sizes, *[kernel] * dims).to(dtype)
    upstream = torch.randn_like(function(values, weight, **options))
    found = passes(function, values, weight, upstream, **options)
    expected = passes(
        function, values.detach().double(), weight.detach().double(), upstream.double(), **options
    )
    for one, true in zip(found, expected, strict=True):
        assert one.dtype == dtype
        assert (one.double() - true).abs().max() < BOUND[dtype] * true.abs().max()


@pytest.mark.parametrize(
    ("space", "kernel", "options"),
    [
        ((2, 2, 2), 3, {"padding": 1}),
        ((1, 5, 20), 3, {"padding": 1}),
        ((4, 4, 4), 5, {"padding": 2}),
        ((8, 1), 3, {"padding": 1, "stride": 2}),
        ((4, 2), 3, {"padding": 1, "stride": 2}),
        ((16, 2), 3, {"padding": 1, "stride": 2}),
        ((10, 3), 2, {"stride": 2}),
        ((4, 6, 3), 2, {"stride": 2}),
        ((8, 8, 24), 3, {"stride": 2, "padding": (0, 1, 0)}),
        ((12, 3), 3, {"stride": 2, "padding": 1, "dilation": 2}),
        ((3, 8, 8), 7, {"padding": 3, "groups": 16, "channels": (16, 16)}),
        ((12, 1), 3, {"padding": 1, "stride": 2, "transposed": True}),
        ((5, 16, 1), 3, {"padding": 1, "stride": 2, "transposed": True}),
    ],
)
def test_bf16_agrees_with_float64_where_onednn_does_not(space, kernel, options):
    require_equal_to_float64(torch.bfloat16, space, kernel, **options)


@pytest.mark.parametrize("depth", [1, 4, 6, 7, 13, 14])
def test_long_kernels_on_thin_volumes_agree_in_float32(depth):
    require_equal_to_float64(torch.float32, (depth, 8, 8), 7, channels=(1, 16), stride=2, padding=3)


def test_channels_last_maps_agree():
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(256, 512, 3, stride=2, padding=1).to(memory_format=torch.channels_last)
    images = torch.randn(7, 256, 4, 2).to(memory_format=torch.channels_last)
    fill_freed_memory(torch.bfloat16)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(images)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), layer(images), atol=0.02, rtol=0.02)


@pytest.mark.parametrize("represent", [mask, pack])
def test_masked_and_packed_maps_agree(represent):
    torch.manual_seed(0)
    hidden = torch.tensor([[[True, False, True, False], [False, True, False, True]]])
    layer, images = torch.nn.Conv3d(16, 32, 3, stride=2, padding=1), torch.randn(1, 16, 4, 8, 2)
    hidden = hidden[..., None]
    results = []
    for bf16 in (True, False):
        fill_freed_memory(torch.bfloat16)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            results.append(layer(represent(images, hidden)).unpack().float())
    torch.testing.assert_close(*results, atol=0.02, rtol=0.02)


@pytest.mark.parametrize(("dtype", "stride"), [(torch.bfloat16, 1), (torch.float32, 1), (torch.float32, 2)])
def test_other_convolutions_are_unchanged(dtype, stride):
    torch.manual_seed(0)
    values, weight = torch.randn(2, 16, 8, 8).to(dtype), torch.randn(32, 16, 3, 3).to(dtype)
    space, rest = ([stride, stride], [1, 1], [1, 1]), (False, [0, 0], 1, False, False, True, True)
    original = torch.ops.aten._convolution(values, weight, None, *space, *rest)
    assert torch.equal(F.conv2d(values, weight, stride=stride, padding=1), original)
