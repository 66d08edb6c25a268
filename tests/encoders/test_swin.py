"""The Swin encoder: stages, windows and invalid options."""

import pytest
import torch

from medmim.encoders.swin import SwinEncoder
from medmim.errors import UsageError


def build(dims=2, **options):
    torch.manual_seed(0)
    words = {"patch": 2, "width": 6, "depths": (2, 2), "heads": (1, 2), "window": 2, **options}
    return SwinEncoder(spatial_dims=dims, in_channels=1, **words)


@pytest.mark.parametrize("dims", [2, 3])
def test_shifted_windows_connect_all_patches(dims):
    torch.manual_seed(0)
    images = torch.randn(1, 1, *[16] * dims, requires_grad=True)
    build(dims, depths=(2, 2, 2), heads=(1, 1, 1))(images)[-1][(0, 0, *[0] * dims)].backward()
    assert images.grad[(0, 0, *[-5] * dims)] != 0  # in the last window but one, which only a shift connects


@pytest.mark.parametrize("dims", [2, 3])
def test_images_that_are_not_a_multiple_of_the_window_are_padded(dims):
    encoder = build(dims, window=3)
    assert [m.shape[2:] for m in encoder(torch.randn(1, 1, *[20] * dims))] == [(10,) * dims, (5,) * dims]


@pytest.mark.parametrize(("dims", "strides"), [(2, (4, 8, 16, 32)), (3, (2, 4, 8, 16))])
def test_the_default_has_four_stages(dims, strides):
    encoder = SwinEncoder(spatial_dims=dims, in_channels=1)
    assert encoder.strides == tuple((stride,) * dims for stride in strides)
    assert encoder.channels == (48, 96, 192, 384)


@pytest.mark.parametrize("words", [{"heads": (1,)}, {"heads": (4, 2)}, {"depths": (), "heads": ()}])
def test_invalid_options_are_rejected(words):
    with pytest.raises(
        UsageError, match=r"^encoder_options: expected as many heads as depths, each a divisor of"
    ):
        build(**words)
