"""Convolutions of maps smaller than their kernel, in float32 where a processor computes in bf16.

There the weight gradient of a padded convolution is memory that was never written (oneDNN in torch 2.13; 3D
with two voxels along the first axis, stride 2 with one along the last): huge, or not finite, or merely wrong.
Such maps are the smallest of a network, and cost nothing in float32. Packed cells have a halo and no padding.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor, nn

from medmim.encoders import Masked

_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
_opened = threading.local()


def compute_small_maps_exactly(module: nn.Module) -> None:
    """Let every convolution within a module leave autocast for small maps; names stay as they are."""
    for layer in module.modules():
        if isinstance(layer, _CONVOLUTIONS) and layer.groups == 1 and max(layer.kernel_size) > 1:
            layer.register_forward_pre_hook(_open)
            layer.register_forward_hook(_close, always_call=True)


def _open(layer: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Leave autocast for a small map; a function that is bound to no layer, since layers are copied."""
    stack = _stack()
    values = inputs[0]
    dense = values.dense if isinstance(values, Masked) else values
    if not (torch.is_autocast_enabled("cpu") and isinstance(dense, Tensor) and _is_small(dense, layer)):
        stack.append(None)
        return None
    stack.append(torch.autocast("cpu", enabled=False))
    stack[-1].__enter__()
    exact = Masked(dense.float(), values.layout) if isinstance(values, Masked) else dense.float()
    return (exact, *inputs[1:])


def _is_small(values: Tensor, layer: Any) -> bool:
    return any(n < kernel for n, kernel in zip(values.shape[2:], layer.kernel_size, strict=True))


def _close(layer: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Go back to autocast, also when the convolution failed."""
    opened = _stack().pop()
    if opened is not None:
        opened.__exit__(None, None, None)


def _stack() -> list[Any]:
    if not hasattr(_opened, "stack"):
        _opened.stack = []
    stack: list[Any] = _opened.stack
    return stack
