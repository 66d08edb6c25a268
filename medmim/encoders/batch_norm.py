"""Batch norm over visible voxels: shared by processes, and recalibrated on whole images.

PyTorch's `SyncBatchNorm` supports GPUs and dense tensors only. Here the norm is a function that `Packed` and
`Masked` override as they do `F.batch_norm`, so that the visible voxels of all processes are counted.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import handle_torch_function, has_torch_function_unary

from medmim.distributed import all_reduce_sum, world_size
from medmim.shapes import Images


def synced_batch_norm(
    values: Any,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Any:
    """Normalise each channel over the samples and voxels of all processes, as `F.batch_norm`.

    The number of samples of (samples, channels, ...) may differ between processes.
    """
    named: dict[str, Any] = {"weight": weight, "bias": bias, "training": training, "momentum": momentum}
    if has_torch_function_unary(values):
        return handle_torch_function(
            synced_batch_norm, (values,), values, running_mean, running_var, **named, eps=eps
        )
    axes = [0, *range(2, values.dim())]
    wide = values.to(torch.promote_types(values.dtype, torch.float32))
    voxels = wide.new_tensor([values.numel() / values.shape[1]])
    sums = all_reduce_sum(torch.cat([wide.sum(axes), voxels]))
    count = sums[-1]
    mean = sums[:-1] / count
    shape = (1, -1, *[1] * (values.dim() - 2))
    centred = wide - mean.reshape(shape)
    # a second reduction around the global mean: a difference of squares would lose half of the digits
    variance = all_reduce_sum(centred.square().sum(axes)) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance * count / (count - 1), momentum)
    normed = centred * (variance + eps).rsqrt().reshape(shape)
    if weight is not None:
        normed = normed * weight.reshape(shape)
    return (normed if bias is None else normed + bias.reshape(shape)).to(values.dtype)


class SyncedBatchNorm(_BatchNorm):
    """Batch norm for any number of axes; identical to PyTorch's in one process and in evaluation mode.

    Attributes:
        alone: whether to count this process's voxels only, for a copy that other processes do not have.
    """

    alone = False

    def forward(self, values: Any) -> Any:
        """Normalise the values of this process by the statistics of all processes."""
        if self.alone or not self.training or world_size() == 1:
            return super().forward(values)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return synced_batch_norm(
            values,
            self.running_mean,
            self.running_var,
            weight=self.weight,
            bias=self.bias,
            training=True,
            momentum=self.momentum or 0.0,
            eps=self.eps,
        )

    def _check_input_dim(self, input: Any) -> None:  # noqa: A002 - PyTorch's name
        """Accept any number of axes."""


def sync_batch_norms(module: nn.Module) -> None:
    """Replace every batch norm within a module by a synchronised one; names of weights do not change."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            norm = SyncedBatchNorm(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
            )
            norm.__dict__.update(child.__dict__)  # share weights and statistics
            setattr(module, name, norm)
        else:
            sync_batch_norms(child)


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
    # of about equal size, since each has equal weight
    pieces = images.tensor_split(-(-len(images) // _AT_ONCE))
    recalibrate_batch_norms(recalibrated, (piece.to(device) for piece in pieces))
    return recalibrated
