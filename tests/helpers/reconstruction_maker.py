"""Small reconstruction methods, their batches, and their loss written out in float64."""

import numpy as np
import torch

from medmim.encoders import build_encoder
from medmim.masks import build_mask
from medmim.methods import build_method

VIT = {"patch": 2, "width": 24, "depth": 1, "heads": 2}


def build(name, dims, *, cell=4, encoder="vit", channels=2, **options):
    torch.manual_seed(0)
    words = VIT if encoder == "vit" else {"patch": 2, "width": 6, "depths": (1, 1), "heads": (1, 1)}
    network = build_encoder(encoder, spatial_dims=dims, in_channels=channels, **words)
    return build_method(name, encoder=network, spatial_dims=dims, cell=(cell,) * dims, **options)


def batch_for(dims, *, cell=4):
    generator = torch.Generator().manual_seed(0)
    grid = (3, 4, 2)[:dims]
    images = torch.randn(2, 2, *[cell * n for n in grid], generator=generator) * 30 + 10
    return images, build_mask("random", ratio=0.6).sample(2, grid, generator=generator)


def window(place, cell):
    return tuple(slice(cell * index, cell * (index + 1)) for index in place)


def naive_loss(prediction, images, hidden, *, unit, cell, normalised, power):
    """Mean over the units of hidden cells of the mean |prediction - target|^power of their values."""
    prediction, images = prediction.detach().double().numpy(), images.double().numpy()
    errors = []
    grid = [n // unit for n in images.shape[2:]]
    for sample in range(len(images)):
        for place in np.ndindex(*grid):
            if not hidden[(sample, *[index * unit // cell for index in place])]:
                continue
            where = (sample, slice(None), *window(place, unit))
            true = images[where].reshape(-1)
            if normalised:
                true = (true - true.mean()) / np.sqrt(true.var(ddof=1) + 1e-6)
            errors.append((np.abs(prediction[where].reshape(-1) - true) ** power).mean())
    return float(np.mean(errors))


def predictions_of(method):
    seen = []
    method.predict.register_forward_hook(lambda module, inputs, output: seen.append(output))
    return seen
