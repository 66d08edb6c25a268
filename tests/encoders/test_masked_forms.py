"""Masked forms against packed ones, and padding against convolution of the multiplied image."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from medmim.encoders import mask, pack
from medmim.errors import ShapeError
from medmim.masks import build_mask, hidden_voxels

both_dims = pytest.mark.parametrize("dims", [2, 3])


def some(dims, *, channels=4):
    generator = torch.Generator().manual_seed(0)
    hidden = build_mask("random", ratio=0.5).sample(2, (2,) * dims, generator=generator)
    hidden[0].view(-1)[0] = True
    hidden[0].view(-1)[1:] = False  # unequal counts
    return torch.randn(2, channels, *[8] * dims, generator=generator), hidden


def last(layer):
    """Apply a layer with channels behind the spatial axes."""
    return lambda x: layer(x.permute(0, *range(2, x.dim()), 1)).movedim(-1, 1)


def space(x):
    return tuple(range(2, x.dim()))


def response_norm(x):
    """Global response normalization of ConvNeXt V2, channels last."""
    y = x.movedim(1, -1)
    norms = torch.norm(y, p=2, dim=tuple(range(1, y.dim() - 1)), keepdim=True)
    return (y + y * (norms / (norms.mean(dim=-1, keepdim=True) + 1e-6))).movedim(-1, 1)


FORMS = {
    "layer_norm": last(nn.LayerNorm(4)),
    "rms_norm": last(nn.RMSNorm(4)),
    "linear": last(nn.Linear(4, 3)),
    "gate": last(lambda x: x * torch.arange(4.0)),
    "softmax": lambda x: x.softmax(1),
    "chunks": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "indexing": lambda x: x[:, 1:3] * x[:, :2],
    "powers": lambda x: (x**2 + 1.5 - x / 2) * 2,
    "data": lambda x: x.data.clone().contiguous(),
    "response norm": response_norm,
    "excitation": lambda x: x * x.mean(space(x), keepdim=True).sigmoid(),
    "squeeze": lambda x: x * getattr(F, f"adaptive_avg_pool{x.dim() - 2}d")(x, 1),
}


@both_dims
@pytest.mark.parametrize("name", FORMS)
def test_masked_forms_equal_packed_ones(name, dims):
    images, hidden = some(dims)
    ours, packed = (FORMS[name](hide(images, hidden)).unpack() for hide in (mask, pack))
    torch.testing.assert_close(ours, packed, rtol=1e-5, atol=1e-6)
    assert not (ours * hidden_voxels(hidden, images.shape[2:])).any()


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x / (x * 2),
        lambda x: x**0.5 + x.rsqrt() + torch.sqrt(x),
        lambda x: x + (x - x) * torch.norm(x - x, dim=space(x), keepdim=True),
    ],
)
@pytest.mark.parametrize("hide", [mask, pack])
def test_gradients_are_finite_where_a_function_has_no_slope_at_zero(hide, operation):
    images, hidden = some(2)
    leaf = images.abs().add(0.1).requires_grad_()
    result = operation(hide(leaf, hidden)).unpack()
    result.sum().backward()
    assert result.isfinite().all()
    assert leaf.grad.isfinite().all()


@both_dims
def test_the_adaptive_maximum_is_over_visible_voxels(dims):
    images, hidden = some(dims)
    images -= 10  # hidden zeros would win
    pooled = getattr(nn, f"AdaptiveMaxPool{dims}d")(1)(mask(images, hidden))
    shown = images.masked_fill(hidden_voxels(hidden, images.shape[2:]), -torch.inf)
    assert torch.equal(pooled.flatten(1), shown.flatten(2).amax(dim=2))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular", "zeros"])
@both_dims
def test_padded_convolutions_equal_those_of_the_multiplied_image(mode, dims):
    images, hidden = some(dims)
    layer = getattr(nn, f"Conv{dims}d")(4, 3, 3, stride=2, padding=1, padding_mode=mode)
    visible = ~hidden_voxels(hidden, images.shape[2:])
    expected = layer(images * visible) * ~hidden_voxels(hidden, (4,) * dims)
    torch.testing.assert_close(layer(mask(images, hidden)).unpack(), expected)


def test_pooling_after_padding_equals_that_of_the_multiplied_image():
    images, hidden = some(2)
    visible = ~hidden_voxels(hidden, images.shape[2:])
    padded = F.pad(F.pad(mask(images, hidden), (1, 0)), (0, 0, 1, 0))
    for pool in (nn.MaxPool2d(3, 2), nn.AvgPool2d(3, 2)):
        expected = pool(F.pad(images * visible, (1, 0, 1, 0))) * ~hidden_voxels(hidden, (4, 4))
        assert torch.equal(pool(padded).unpack(), expected)


def test_pixel_shuffle_keeps_cells():
    images, hidden = some(2)
    back = F.pixel_shuffle(F.pixel_unshuffle(mask(images, hidden), 2), 2)
    assert torch.equal(back.unpack(), mask(images, hidden).unpack())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: F.pad(x, (1, 1)).relu(), "'relu' after 'pad' has no masked form"),
        (lambda x: torch.cat([F.pad(x, (1, 1))]), "'cat' after 'pad' has no masked form"),
        (lambda x: F.adaptive_avg_pool2d(F.pad(x, (1, 1)), 1), "'adaptive_avg_pool2d' after 'pad'"),
        (lambda x: F.max_pool2d(F.pad(x, (1, 1)), 2, return_indices=True), "'max_pool2d_with_indices' after"),
        (
            lambda x: F.conv2d(F.pad(x, (2, 2)), torch.ones(3, 4, 1, 1)),
            "'conv2d' after 'pad' maps 8×8 voxels",
        ),
        (lambda x: x.permute(0, 1, 3, 2), "'permute' to"),
        (
            lambda x: F.layer_norm(x, (4, 8, 8)),
            "'layer_norm' over (4, 8, 8) of masked values: expected channels last",
        ),
        (lambda x: F.layer_norm(x.movedim(1, -1), (8, 4)), "'layer_norm' over"),
        (lambda x: x.softmax(2), "'softmax' over axis 2"),
        (lambda x: x.chunk(2, 2), "divided along channels"),
        (lambda x: x[0], "'indexing' with 0"),
        (lambda x: x.mean(1), "'mean' over axes"),
        (lambda x: torch.norm(x, p=1, dim=(2, 3)), "'norm' of order 1"),
        (lambda x: F.adaptive_avg_pool2d(x, 2), "'adaptive_avg_pool2d' to"),
        (lambda x: F.conv2d(x.movedim(1, -1), torch.ones(3, 4, 1, 1)), "'conv2d' on channels-last masked"),
        (lambda x: x + x.movedim(1, -1), "channels first and channels last"),
    ],
)
def test_other_uses_are_rejected_by_name(call, message):
    with pytest.raises(ShapeError, match=re.escape(message)):
        call(mask(*some(2)))
