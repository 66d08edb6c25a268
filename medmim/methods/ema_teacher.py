"""A teacher whose weights are an exponential moving average (EMA) of a student's.

As in BYOL (Grill et al., 2020, arXiv 2006.07733) and Latent MIM (arXiv 2407.15837), the momentum rises along
a cosine over the whole training, and the teacher gets no gradient. Its weights are part of the method's
state, so that a resumed run continues exactly.
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
    """The moving average of a student, always evaluated without gradient and in evaluation mode.

    A method calls `update` in `on_step_end`.

    Args:
        last_momentum: momentum at the end of training; 1 freezes the teacher.
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
    def inference(self) -> Iterator[Network]:
        """Yield the averaged network in evaluation mode and without gradient."""
        training = self.network.training
        self.network.eval()
        try:
            with torch.no_grad():
                yield self.network
        finally:
            self.network.train(training)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the output of the averaged network."""
        with self.inference() as network:
            return network(*args, **kwargs)

    def momentum_at(self, progress: float) -> float:
        """Return the momentum at a progress of 0 to 1."""
        return (
            self.last_momentum - (self.last_momentum - self.momentum) * (1 + math.cos(math.pi * progress)) / 2
        )

    @torch.no_grad()
    def update(self, student: nn.Module, *, progress: float, max_momentum: float = 1.0) -> None:
        """Move every weight towards the student's; buffers, which are running statistics, are copied."""
        share = 1 - min(self.momentum_at(progress), max_momentum)
        for average, weight in zip(self.network.parameters(), student.parameters(), strict=True):
            average.lerp_(weight, share)
        for copied, buffer in zip(self.network.buffers(), student.buffers(), strict=True):
            copied.copy_(buffer)
