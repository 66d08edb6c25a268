"""`Masked` against SparK's scheme written out by hand in float64: values and gradients."""

import pytest
import torch
from naive_spark import Naive
from torch import nn

from medmim.encoders import build_encoder, mask
from medmim.encoders.resnet import ResNetEncoder
from medmim.masks import build_mask


def images_and_mask(dims, *, cells=4, cell=4, ratio=0.6, batch=2, channels=2):
    generator = torch.Generator().manual_seed(1)
    grid = (cells, cells + 1, cells - 1)[:dims]
    images = torch.randn(batch, channels, *[n * cell for n in grid], generator=generator)
    return images + 0.5, build_mask("random", ratio=ratio).sample(batch, grid, generator=generator)


def shaken(net):
    """Give norms weights and biases that a mistake cannot hide behind."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in net.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.5 * noise + 1 if parameter.dim() == 1 else 0.3 * noise)
    return net.train()


def small_resnet(dims, **options):
    net = ResNetEncoder(
        spatial_dims=dims, in_channels=2, block="basic", layers=(1, 2, 1, 1), widths=(3, 4, 4, 5), **options
    )
    return shaken(net)


def small_dynunet(dims):
    return shaken(build_encoder("dynunet", spatial_dims=dims, in_channels=2, filters=(3, 3, 5)))


def compare(maps, expected):
    assert len(maps) == len(expected)
    for ours, naive in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours.unpack().double(), naive, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_dynunet_equals_the_naive_scheme(dims):
    net = small_dynunet(dims)
    images, hidden = images_and_mask(dims)
    compare(
        net(mask(images, hidden)), Naive(net.state_dict(), hidden, dims).dynunet(images.double(), [1, 2, 2])
    )


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("stem_stride", "max_pool"), [(1, False), (1, True)])
def test_resnet_equals_the_naive_scheme(dims, stem_stride, max_pool):
    net = small_resnet(dims, stem_stride=stem_stride, max_pool=max_pool)
    images, hidden = images_and_mask(dims, cells=2 if dims == 3 else 3, cell=16 if max_pool else 8, ratio=0.4)
    naive = Naive(net.state_dict(), hidden, dims)
    expected = naive.resnet(images.double(), stem_stride=stem_stride, max_pool=max_pool, layers=(1, 2, 1, 1))
    compare(net(mask(images, hidden)), expected)


@pytest.mark.parametrize("dims", [2, 3])
def test_float64_keeps_full_precision(dims):
    net = small_resnet(dims, stem_stride=1).double()
    images, hidden = images_and_mask(dims, cells=2 if dims == 3 else 3, cell=8, ratio=0.4)
    naive = Naive(net.state_dict(), hidden, dims)
    expected = naive.resnet(images.double(), stem_stride=1, max_pool=False, layers=(1, 2, 1, 1))
    for ours, reference in zip(net(mask(images.double(), hidden)), expected, strict=True):
        torch.testing.assert_close(ours.unpack(), reference, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_group_norm_equals_the_naive_scheme(dims, groups):
    norm = shaken(nn.GroupNorm(groups, 6))
    images, hidden = images_and_mask(dims, channels=6)
    weights = {f"n.{key}": value for key, value in norm.state_dict().items()}
    naive = Naive(weights, hidden, dims)
    expected = naive.group_norm(images.double(), "n", groups=groups)
    compare([norm(mask(images, hidden))], [expected])


@pytest.mark.parametrize("dims", [2, 3])
def test_gradients_equal_the_naive_scheme(dims):
    net = small_dynunet(dims)
    images, hidden = images_and_mask(dims)
    naive = Naive({key: value.detach() for key, value in net.state_dict().items()}, hidden, dims)
    for value in naive.weights.values():
        value.requires_grad_()
    sum(m.square().mean() for m in naive.dynunet(images.double(), [1, 2, 2])).backward()
    sum(m.unpack().square().mean() for m in net(mask(images, hidden))).backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(
            parameter.grad.double(),
            naive.weights[name].grad,
            rtol=2e-3,
            atol=1e-4,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def test_batch_norm_keeps_the_statistics_of_visible_voxels():
    images, hidden = images_and_mask(2)
    norm = nn.BatchNorm2d(2)
    norm(mask(images, hidden))
    seen = images.movedim(1, -1)[mask(images, hidden).visible[:, 0].bool()]
    torch.testing.assert_close(norm.running_mean, 0.1 * seen.mean(0))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * seen.var(0, unbiased=True))
    norm.eval()
    expected = (seen - norm.running_mean) / (norm.running_var + 1e-5).sqrt()
    evaluated = norm(mask(images, hidden)).unpack().movedim(1, -1)[mask(images, hidden).visible[:, 0].bool()]
    torch.testing.assert_close(evaluated, expected)


def test_all_visible_equals_the_network_without_a_mask():
    net = small_dynunet(2)
    images, hidden = images_and_mask(2)
    for ours, dense in zip(net(mask(images, torch.zeros_like(hidden))), net(images), strict=True):
        torch.testing.assert_close(ours.unpack(), dense, rtol=1e-4, atol=1e-4)
