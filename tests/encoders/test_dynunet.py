"""Options of the DynUNet encoder."""

import pytest
import torch

from medmim.encoders import build_encoder
from medmim.errors import ShapeError, UsageError


def test_strides_are_one_number_or_one_an_axis():
    encoder = build_encoder(
        "dynunet", spatial_dims=3, in_channels=1, filters=(2, 3, 4), strides=(1, (1, 2, 2), [2])
    )
    assert encoder.strides == ((1, 1, 1), (1, 2, 2), (2, 4, 4))
    assert [tuple(m.shape[2:]) for m in encoder(torch.zeros(1, 1, 4, 8, 8))] == [
        (4, 8, 8),
        (4, 4, 4),
        (2, 2, 2),
    ]


def test_defaults_keep_full_resolution_first():
    encoder = build_encoder("dynunet", spatial_dims=2, in_channels=1)
    assert encoder.channels == (16, 32, 64, 128)
    assert encoder.strides == ((1, 1), (2, 2), (4, 4), (8, 8))


@pytest.mark.parametrize(("filters", "strides"), [((4,), (1, 2)), ((4, 8), (1,)), ((), None)])
def test_strides_that_do_not_match_the_filters_are_rejected(filters, strides):
    with pytest.raises(UsageError, match="expected one stride per entry of filters, got "):
        build_encoder("dynunet", spatial_dims=2, in_channels=1, filters=filters, strides=strides)


@pytest.mark.parametrize("stride", [0, (1, 2, 2)])
def test_invalid_strides_are_rejected(stride):
    with pytest.raises(ShapeError, match=r"encoder_options\.strides: expected one or 2 positive sizes"):
        build_encoder("dynunet", spatial_dims=2, in_channels=1, filters=(4,), strides=(stride,))
