"""Options of the ConvNeXt encoder, and its norm over channels."""

import pytest
import torch

from medmim.encoders import build_encoder
from medmim.encoders.convnext import ChannelNorm
from medmim.errors import UsageError


@pytest.mark.parametrize(("dims", "kernel"), [(2, 7), (3, 5)])
def test_the_kernel_is_smaller_in_3d(dims, kernel):
    encoder = build_encoder("convnext", spatial_dims=dims, in_channels=1, widths=(2, 4), blocks=(1, 1))
    assert encoder.stages[0][1].depthwise.kernel_size == (kernel,) * dims
    assert encoder.strides == ((2,) * dims, (4,) * dims)


def test_the_norm_is_over_the_channels_of_each_voxel():
    maps = torch.randn(2, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    normed = ChannelNorm(5)(maps)
    torch.testing.assert_close(normed.mean(dim=1), torch.zeros(2, 3, 3), rtol=0, atol=1e-6)
    torch.testing.assert_close(normed.var(dim=1, correction=0), torch.ones(2, 3, 3), rtol=0, atol=1e-3)


def test_stochastic_depth_grows_over_the_blocks():
    words = {"widths": (2, 4), "blocks": (1, 2), "drop_path": 0.2}
    encoder = build_encoder("convnext", spatial_dims=2, in_channels=1, **words)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for stage in encoder.stages for block in stage[1:]]
    assert rates == pytest.approx([0.0, 0.1, 0.2])


@pytest.mark.parametrize("words", [{"blocks": (1,)}, {"kernel_size": 4}, {"widths": (), "blocks": ()}])
def test_options_that_do_not_fit_together_are_rejected(words):
    words = {"widths": (2, 4), "blocks": (1, 1), **words}
    with pytest.raises(UsageError, match="expected as many blocks as widths and an odd kernel"):
        build_encoder("convnext", spatial_dims=2, in_channels=1, **words)
