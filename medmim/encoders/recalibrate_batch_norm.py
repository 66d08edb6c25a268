"""Statistics of batch norm for whole images: those that masked pretraining leaves are of visible voxels."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from medmim.encoders.sync_batch_norm import SyncedBatchNorm
from medmim.shapes import Images

Network = TypeVar("Network", bound=nn.Module)

_AT_ONCE = 8


def batch_norms(encoder: nn.Module) -> list[_BatchNorm]:
    """Return the layers that keep running statistics."""
    return [m for m in encoder.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


@contextmanager
def unmoved_batch_norms(network: nn.Module) -> Iterator[None]:
    """Let batch norm go on with the statistics of each batch, and keep the running ones as they are."""
    norms = batch_norms(network)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def settle_batch_norms(encoder: nn.Module, batches: Iterable[Images]) -> None:
    """Replace running statistics by the mean of those of some batches; nothing else changes.

    Beside hidden cells a convolution sees zeros, beside visible ones it sees an image: statistics of the one
    are up to a deviation away from those of the other, which a frozen encoder would feel.

    Args:
        encoder: any network, in place.
        batches: whole images, (batch, channels, *space).
    """
    norms = batch_norms(encoder)
    modes, momenta = [(m, m.training) for m in encoder.modules()], [norm.momentum for norm in norms]
    encoder.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # PyTorch's word for the mean of all batches
        norm.train()
    with torch.no_grad():
        for images in batches:
            encoder(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for module, training in modes:
        module.training = training


def settled_copy(encoder: Network, images: Images) -> Network:
    """Return a copy with running statistics of these images, settled by this process alone.

    Args:
        encoder: with batch norms; neither its weights nor its statistics change.
        images: whole images, (batch, channels, *space), a few of which are looked at together.
    """
    settled = copy.deepcopy(encoder)
    for norm in batch_norms(settled):
        if isinstance(norm, SyncedBatchNorm):
            norm.alone = True
    device = next(settled.parameters()).device
    pieces = images.tensor_split(-(-len(images) // _AT_ONCE))  # of about equal size: each counts as much
    settle_batch_norms(settled, (piece.to(device) for piece in pieces))
    return settled
