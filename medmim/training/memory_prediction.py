"""Prediction of the memory of a training step without running it.

Feature maps are counted on PyTorch's meta device, which computes shapes only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medmim.shapes import Size

_WEIGHT_BYTES = 16  # float32 weight, gradient and both moments of AdamW
_TRANSIENT = 1.3  # gradients of feature maps and work space of convolutions, as a multiple of the maps
_FIXED_MB = 800.0  # libraries and context


@dataclass(frozen=True)
class PredictedMemory:
    """Peak memory of a training step in MiB: weights and libraries, and what every patch adds."""

    fixed_mb: float
    patch_mb: float

    def of_batch(self, patches: int) -> float:
        """Return the memory of a step with a batch of patches, in MiB."""
        return self.fixed_mb + patches * self.patch_mb


def predict_memory(
    build: Callable[[], nn.Module], *, channels: int, size: Size, value_bytes: int
) -> PredictedMemory:
    """Predict the memory of training a network.

    Args:
        build: builds the network; it is called on the meta device.
        value_bytes: bytes of a value in a feature map: 2 for bf16, 4 for float32.
    """
    counts: list[int] = []

    def count(layer: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and not list(layer.children()):
            counts.append(output.numel())

    with torch.device("meta"), torch.no_grad():
        network = build().eval()  # batch norm of a 1 × 1 map
        for layer in network.modules():
            layer.register_forward_hook(count)
        network(torch.zeros(1, channels, *size))
    weights = sum(parameter.numel() for parameter in network.parameters())
    maps = sum(counts) * value_bytes * _TRANSIENT
    return PredictedMemory(_FIXED_MB + weights * _WEIGHT_BYTES / 2**20, maps / 2**20)
