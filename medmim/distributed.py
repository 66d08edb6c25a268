"""What the processes that share a training step know together, so that a loss is that of the whole step.

Every process computes the same number from such sums, and the gradients of all processes are averaged behind
it, as `DistributedDataParallel` does: they are those of one process with all patches.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def together() -> int:
    """Return how many processes share a step; 1 where none are joined."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def number() -> int:
    """Return which of them this one is, from 0."""
    return dist.get_rank() if together() > 1 else 0


def sum_of_all(values: Tensor) -> Tensor:
    """Return the sum over all processes, to be called in each with the same shape; in one, the values."""
    if together() == 1:
        return values
    total: Tensor = _SumOverAll.apply(values)  # type: ignore[no-untyped-call]
    return total


def each_of_all(values: Tensor) -> Tensor:
    """Return the values of all processes, (processes, *values.shape), which all have the same shape."""
    if together() == 1:
        return values[None]
    placed = values.new_zeros(together(), *values.shape)
    placed[number()] = values
    return sum_of_all(placed)


class _SumOverAll(torch.autograd.Function):
    """The sum over all processes; its gradient is summed over them too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        """Return the sum in memory of its own."""
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Return the sum of the gradients: what one process gave counts in the sums of all."""
        (total,) = (gradient.clone() for gradient in gradients)
        dist.all_reduce(total)
        return total
