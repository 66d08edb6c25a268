"""Packed cells for tests, and the comparison of a layer with its masked form."""

import torch

from medmim.encoders import mask, pack
from medmim.masks import build_mask


def some(cell, grid, *, batch=3, channels=4, ratio=0.5, seed=0):
    """Images and a mask with another count in every sample."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(
        batch, channels, *[c * g for c, g in zip(cell, grid, strict=True)], generator=generator
    )
    hidden = torch.rand(batch, *grid, generator=generator) < ratio
    hidden.view(batch, -1)[:, 0] = False
    return images.double(), hidden


def agree(layer, images, hidden):
    """Compare values and gradients with the masked form, in float64."""
    results = []
    for hide in (pack, mask):
        layer.zero_grad(set_to_none=True)
        source = images.clone().requires_grad_()
        dense = layer(hide(source, hidden)).unpack()
        weights = torch.randn(dense.shape, generator=torch.Generator().manual_seed(1)).to(dense)
        (dense * weights).sum().backward()
        results.append([dense, source.grad, *[p.grad for p in layer.parameters()]])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def masked_as(value, dense):
    """The dense tensor with zeros where `value` hides."""
    return mask(dense, value.layout.hidden).unpack()


def masks(dims):
    return build_mask("random", ratio=0.5).sample(3, (4,) * dims, generator=torch.Generator().manual_seed(0))
