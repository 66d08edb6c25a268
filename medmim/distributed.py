"""Differentiable sums over the processes of a training step, for losses of the whole batch.

Each process computes the same loss from these sums. `DistributedDataParallel` then averages the gradients,
which equal those of a single process that has all patches.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Return the number of processes that share a step; 1 without distributed training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def all_reduce_sum(values: Tensor) -> Tensor:
    """Return the sum over all processes; each process must call it with the same shape."""
    if world_size() == 1:
        return values
    total: Tensor = _AllReduceSum.apply(values)  # type: ignore[no-untyped-call]
    return total


def all_gather(values: Tensor) -> Tensor:
    """Return the values of all processes, (processes, *values.shape); shapes must be equal."""
    if world_size() == 1:
        return values[None]
    placed = values.new_zeros(world_size(), *values.shape)
    placed[rank()] = values
    return all_reduce_sum(placed)


class _AllReduceSum(torch.autograd.Function):
    """Sum over all processes; the gradient is summed over them as well."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        """Return the sum as a new tensor."""
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Return the sum of the gradients, since the values of one process enter the sums of all."""
        (total,) = (gradient.clone() for gradient in gradients)
        dist.all_reduce(total)
        return total
