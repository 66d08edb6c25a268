"""Shapes of the light decoder, and positions of predicted voxels."""

import pytest
import torch

from medmim.methods.spark_decoder import LightDecoder


@pytest.mark.parametrize(
    ("dims", "strides", "space"),
    [
        (2, [(8, 8), (4, 4), (2, 2)], (16, 24)),
        (2, [(8, 4), (2, 4)], (8, 8)),
        (3, [(2, 4, 4), (1, 2, 2), (1, 1, 1)], (4, 8, 4)),
        (3, [(4, 4, 4)], (8, 4, 4)),
    ],
)
def test_predicts_every_voxel(dims, strides, space):
    widths = [8, 6, 4][: len(strides)]
    decoder = LightDecoder(spatial_dims=dims, strides=strides, widths=widths, out_channels=2)
    maps = [
        torch.randn(2, width, *[n // s for n, s in zip(space, stride, strict=True)])
        for width, stride in zip(widths, strides, strict=True)
    ]
    assert decoder(maps).shape == (2, 2, *space)


@pytest.mark.parametrize("stride", [(2, 2), (4, 2), (2, 3, 2)])
def test_each_map_voxel_predicts_its_block_of_voxels(stride):
    dims, grid = len(stride), (2, 3, 2)[: len(stride)]
    decoder = LightDecoder(spatial_dims=dims, strides=[stride], widths=[1], out_channels=1)
    torch.nn.init.ones_(decoder.head.linear.weight)
    torch.nn.init.zeros_(decoder.head.linear.bias)
    values = torch.arange(1.0, 1 + torch.tensor(grid).prod()).reshape(1, 1, *grid)
    expected = values
    for axis, step in enumerate(stride, start=2):
        expected = expected.repeat_interleave(step, dim=axis)
    assert torch.equal(decoder([values]), expected)


def test_neighbouring_voxels_come_from_their_own_channel():
    decoder = LightDecoder(spatial_dims=2, strides=[(2, 2)], widths=[1], out_channels=2)
    torch.nn.init.zeros_(decoder.head.linear.weight)
    decoder.head.linear.bias.data = torch.arange(8.0)
    picture = decoder([torch.zeros(1, 1, 1, 1)])
    assert picture.tolist() == [[[[0, 1], [2, 3]], [[4, 5], [6, 7]]]]


@pytest.mark.parametrize("dims", [2, 3])
def test_the_official_decoder_is_initialised_as_sparks(dims):
    torch.manual_seed(0)
    strides = [(4,) * dims, (2,) * dims, (1,) * dims]
    decoder = LightDecoder(
        spatial_dims=dims, strides=strides, widths=[32, 16, 8], out_channels=1, official=True
    )
    upwards, *_ = decoder.stages[0].block
    assert upwards.kernel_size == (4,) * dims
    fan_out = 32 * 4**dims  # of a transposed convolution, PyTorch counts the channels that come in
    assert upwards.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    convolutions = [layer for layer in decoder.modules() if type(layer).__name__ == f"Conv{dims}d"]
    assert len(convolutions) == 5
    for layer in convolutions[:3]:
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
    for layer in (upwards, decoder.head.linear):
        assert not layer.bias.any()
