"""Recalibration of batch norm on whole images, since masked pretraining sees visible voxels only."""

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
    """Return the batch norm layers with running statistics."""
    return [m for m in encoder.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


@contextmanager
def frozen_batch_norm_statistics(network: nn.Module) -> Iterator[None]:
    """Normalise by batch statistics without updating the running ones."""
    norms = batch_norms(network)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def recalibrate_batch_norms(encoder: nn.Module, batches: Iterable[Images]) -> None:
    """Replace running statistics by the mean over the given batches; nothing else changes.

    Convolutions read zeros from hidden cells, so that statistics of masked images differ from those of whole
    ones by up to a standard deviation, which degrades a frozen encoder.
    """
    norms = batch_norms(encoder)
    modes, momenta = [(m, m.training) for m in encoder.modules()], [norm.momentum for norm in norms]
    encoder.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # PyTorch then averages over all batches
        norm.train()
    with torch.no_grad():
        for images in batches:
            encoder(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for module, training in modes:
        module.training = training


def recalibrated_copy(encoder: Network, images: Images) -> Network:
    """Return a copy recalibrated on these images, by this process alone."""
    recalibrated = copy.deepcopy(encoder)
    for norm in batch_norms(recalibrated):
        if isinstance(norm, SyncedBatchNorm):
            norm.alone = True
    device = next(recalibrated.parameters()).device
    pieces = images.tensor_split(
        -(-len(images) // _AT_ONCE)
    )  # of about equal size, since each has equal weight
    recalibrate_batch_norms(recalibrated, (piece.to(device) for piece in pieces))
    return recalibrated
