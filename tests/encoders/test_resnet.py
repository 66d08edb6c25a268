"""The ResNet encoder: parity with MONAI's ResNet, and options."""

import pytest
import torch
from monai.networks.nets.resnet import ResNet

from medmim.encoders import build_encoder
from medmim.encoders.resnet import ResNetEncoder


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    ("options", "strides"),
    [
        ({}, (2, 4, 8, 16)),
        ({"stem_stride": 1}, (1, 2, 4, 8)),
        ({"max_pool": True}, (4, 8, 16, 32)),
    ],
)
def test_stem_sets_the_strides(dims, options, strides):
    encoder = build_encoder("resnet18", spatial_dims=dims, in_channels=1, widths=(2, 2, 2, 2), **options)
    assert encoder.strides == tuple((stride,) * dims for stride in strides)
    encoder.eval()
    assert [m.shape[2] for m in encoder(torch.zeros(1, 1, *[32] * dims))] == [32 // s for s in strides]


@pytest.mark.parametrize(("name", "channels"), [("resnet18", (2, 3, 4, 5)), ("resnet50", (8, 12, 16, 20))])
def test_bottlenecks_have_four_times_the_width(name, channels):
    encoder = build_encoder(name, spatial_dims=2, in_channels=1, widths=(2, 3, 4, 5))
    assert encoder.channels == channels


def test_the_output_equals_monais_network():
    torch.manual_seed(0)
    layers, widths = (1, 1, 1, 1), (2, 3, 4, 5)
    encoder = ResNetEncoder(
        spatial_dims=2, in_channels=1, block="basic", layers=layers, widths=widths, max_pool=True
    ).eval()
    net = ResNet(
        "basic",
        list(layers),
        list(widths),
        spatial_dims=2,
        n_input_channels=1,
        conv1_t_stride=2,
        num_classes=3,
    ).eval()
    encoder.stem[0].load_state_dict(net.conv1.state_dict())
    for stage, theirs in zip(encoder.stages, [net.layer1, net.layer2, net.layer3, net.layer4], strict=True):
        stage.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 1, 64, 64)
    pooled = net.fc(encoder(images)[-1].mean((2, 3)))
    torch.testing.assert_close(pooled, net(images))
