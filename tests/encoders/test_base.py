"""What every encoder inherits: its total stride, and modules run one after another."""

import torch
from torch import nn

from medmim.encoders.base import Encoder, run_in_sequence


class Halving(Encoder):
    """Two maps; cannot be cut between them."""

    in_channels, channels, strides = 1, (1, 1), ((1, 1), (2, 4))

    def forward(self, images):
        return [images, images[..., ::2, ::4]]


def test_the_total_stride_is_that_of_the_coarsest_map():
    assert Halving().total_stride == (2, 4)
    assert Halving().steps() == []


def test_each_module_takes_the_output_of_the_one_before():
    modules = [nn.AvgPool2d(2), nn.Flatten(), nn.Identity()]
    outputs = run_in_sequence(modules, torch.arange(16.0).reshape(1, 1, 4, 4))
    assert [tuple(one.shape) for one in outputs] == [(1, 1, 2, 2), (1, 4), (1, 4)]
    assert outputs[1].tolist() == [[2.5, 4.5, 10.5, 12.5]]
