"""The SegResNet encoder: parity with MONAI's SegResNet, and options."""

import pytest
import torch
from monai.networks.nets.segresnet import SegResNet

from medmim.encoders import build_encoder
from medmim.errors import UsageError


@pytest.mark.parametrize("dims", [2, 3])
def test_the_maps_equal_those_of_monais_network(dims):
    torch.manual_seed(0)
    encoder = build_encoder("segresnet", spatial_dims=dims, in_channels=2, width=8, blocks=(1, 1, 2)).eval()
    net = SegResNet(
        spatial_dims=dims,
        in_channels=2,
        init_filters=8,
        blocks_down=(1, 1, 2),
        blocks_up=(1, 1),
        norm=("GROUP", {"num_groups": 8}),
    ).eval()
    net.convInit.load_state_dict(encoder.stem.state_dict())
    net.down_layers.load_state_dict(encoder.levels.state_dict())
    images = torch.randn(1, 2, *[8] * dims)
    with torch.no_grad():
        coarsest, maps = net.encode(images)
        found = encoder(images)
    torch.testing.assert_close(found[-1], coarsest, rtol=0, atol=0)
    assert len(found) == len(maps) == 3
    assert all(torch.equal(own, other) for own, other in zip(found, maps, strict=True))
    assert encoder.channels == (8, 16, 32)
    assert encoder.strides == ((1,) * dims, (2,) * dims, (4,) * dims)


@pytest.mark.parametrize("words", [{"width": 12}, {"blocks": ()}])
def test_groups_that_do_not_divide_the_width_are_rejected(words):
    with pytest.raises(
        UsageError, match="expected a width that divides into 8 groups and at least one level"
    ):
        build_encoder("segresnet", spatial_dims=2, in_channels=1, **words)
