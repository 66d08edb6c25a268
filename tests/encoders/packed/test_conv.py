"""Convolutions of packed cells against the same on masked values."""

from itertools import product

import pytest
import torch
from packed_cells import agree, some
from torch import nn

from medmim.encoders import pack

CONVS = [
    # cell, kernel, stride, dilation, groups
    *product([(4, 4), (2, 6), (1, 1), (8, 8)], [1, 3, 5, 7], [1], [1, 2], [1, 2]),
    *product([(4, 4), (2, 2), (2, 4), (8, 4)], [1, 2, 3, 5, 7], [2], [1], [1, 4]),
    *product([(4, 2, 4), (2, 2, 2), (1, 1, 1), (8, 8, 8)], [1, 3, 5], [1], [1], [1, 4]),
    *product([(4, 2, 4), (2, 2, 2)], [1, 2, 3], [2], [1], [1, 2]),
    ((2, 4, 4), (1, 3, 3), (1, 2, 2), 1, 1),
    ((1, 1, 1), 3, 1, 2, 1),
    ((3, 6), 3, 3, 1, 1),
    ((4, 4), 4, 2, 1, 1),
    ((4, 4), 6, 2, 1, 1),
    ((2, 2, 4), 7, 1, 1, 1),
    ((4, 4, 2), 7, 1, 1, 4),
    ((2, 2, 2), 5, 1, 2, 1),
    ((4, 4, 2), 4, 2, 1, 2),
]


@pytest.mark.parametrize(("cell", "kernel", "stride", "dilation", "groups"), CONVS, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_convolutions(cell, kernel, stride, dilation, groups, bias):
    dims = len(cell)
    grid = (3, 4, 2)[:dims]
    widths = [k - 1 for k in ((kernel,) * dims if isinstance(kernel, int) else kernel)]
    steps = (stride,) * dims if isinstance(stride, int) else stride
    # the padding that keeps size / stride: half the window; where it overlaps by stride only, less
    padding = tuple(
        max(dilation * width - step + 2, 0) // 2 for width, step in zip(widths, steps, strict=True)
    )
    layer = (nn.Conv2d, nn.Conv3d)[dims - 2](
        4, 8, kernel, stride, padding, dilation=dilation, groups=groups, bias=bias
    ).double()
    agree(layer, *some(cell, grid))


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("kernel", [2, 3, 4])
def test_padding_same_is_wider_behind_for_even_kernels(kernel):
    agree(nn.Conv2d(4, 5, kernel, padding="same").double(), *some((3, 3), (3, 3)))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("channels", [(1, 2), (3, 1), (4, 4)])
def test_few_channels(dims, channels):
    images, hidden = some((4, 2, 2)[:dims], (2, 3, 2)[:dims], channels=channels[0])
    agree((nn.Conv2d, nn.Conv3d)[dims - 2](*channels, 3, padding=1).double(), images, hidden)


def test_results_do_not_depend_on_threads(images, hidden):
    net = nn.Sequential(
        nn.Conv2d(4, 8, 3, 2, 1), nn.MaxPool2d(3, 1, 1), nn.Conv2d(8, 8, 3, padding=1)
    ).double()

    def gradients():
        net.zero_grad(set_to_none=True)
        net(pack(images, hidden)).unpack().square().sum().backward()
        return [parameter.grad for parameter in net.parameters()]

    first = gradients()
    assert all(torch.equal(a, b) for a, b in zip(first, gradients(), strict=True))
