"""A teacher: a copy of a network whose weights follow the student's as an exponential moving average.

As in BYOL (Grill et al., 2020, arXiv 2006.07733) and Latent MIM (arXiv 2407.15837): the momentum rises from
its first value to its last along a cosine over the whole training; no gradient reaches the teacher. Its
weights are part of the method's state, so that a resumed run continues them bit for bit.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from medmim.errors import UsageError

Network = TypeVar("Network", bound=nn.Module)


class EMATeacher(nn.Module, Generic[Network]):
    """The moving average of a student; called as the student is, without gradient and always in evaluation.

    A method keeps it beside the student and calls `update` in `after_step`. Whether it stands in training or
    evaluation in between means nothing: it is asked in evaluation.

    Args:
        student: the network that is copied; it is left as it is.
        momentum: share of the teacher that is kept in the first update.
        last_momentum: the same at the end of the training; 1 keeps the teacher as it is.
    """

    def __init__(self, student: Network, *, momentum: float = 0.99, last_momentum: float = 1.0) -> None:
        super().__init__()
        if not 0 <= momentum <= last_momentum <= 1:
            raise UsageError(
                f"method_options: expected 0 ≤ momentum ≤ last_momentum ≤ 1, got {momentum:g} and "
                f"{last_momentum:g}"
            )
        self.network: Network = copy.deepcopy(student).requires_grad_(requires_grad=False)
        self.momentum = momentum
        self.last_momentum = last_momentum

    @contextmanager
    def asked(self) -> Iterator[Network]:
        """Give the averaged network without gradient and in evaluation: no dropout, no batch statistics."""
        training = self.network.training
        self.network.eval()
        try:
            with torch.no_grad():
                yield self.network
        finally:
            self.network.train(training)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the averaged network gives."""
        with self.asked() as network:
            return network(*args, **kwargs)

    def momentum_at(self, progress: float) -> float:
        """Return the momentum after a share of the training, 0 to 1."""
        return (
            self.last_momentum - (self.last_momentum - self.momentum) * (1 + math.cos(math.pi * progress)) / 2
        )

    @torch.no_grad()
    def update(self, student: nn.Module, *, progress: float, most: float = 1.0) -> None:
        """Move every weight towards the student's; buffers, which count and average already, are copied.

        Args:
            student: the network, after its optimiser step.
            progress: share of the training that is done, 0 to 1.
            most: limit of the momentum.
        """
        share = 1 - min(self.momentum_at(progress), most)
        for average, weight in zip(self.network.parameters(), student.parameters(), strict=True):
            average.lerp_(weight, share)
        for copied, buffer in zip(self.network.buffers(), student.buffers(), strict=True):
            copied.copy_(buffer)
