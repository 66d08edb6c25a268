"""Numerical precision of training: what the device supports, autocast, and exceptions from bf16.

The exceptions are convolutions of maps smaller than their kernel, on a CPU that computes in bf16: there the
weight gradient of a padded convolution is uninitialised memory (oneDNN in torch 2.13; 3D with two voxels
along the first axis, stride 2 with one along the last): huge, not finite, or merely wrong. Such maps are the
smallest of a network and cost nothing in float32. Packed cells have a halo instead of padding.
"""

from __future__ import annotations

import threading
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medmim.encoders import Masked

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
_opened = threading.local()


def precision_for(setting: str) -> Precision:
    """Return Lightning's name of the precision.

    `auto` is bf16 where the device supports it natively, fp16 with loss scaling on other GPUs, and fp32 on
    other CPUs; fp16 without a GPU is fp32.
    """
    return _precision(setting, gpu=torch.cuda.is_available(), bf16=has_bf16())


def _precision(setting: str, *, gpu: bool, bf16: bool) -> Precision:
    if setting == "bf16" or (setting == "auto" and bf16):
        return "bf16-mixed"
    return "16-mixed" if gpu and setting in ("auto", "fp16") else "32-true"


def autocast(setting: str, device: torch.device) -> torch.autocast:
    """Return the context in which a network runs outside the trainer."""
    precision = precision_for(setting)
    lower = torch.float16 if precision == "16-mixed" else torch.bfloat16
    return torch.autocast(device.type, dtype=lower, enabled=precision != "32-true")


def has_bf16() -> bool:
    """Return whether the device computes with bf16 rather than emulating it."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def compute_small_maps_exactly(module: nn.Module) -> None:
    """Make every convolution of a module compute maps smaller than its kernel in float32."""
    for layer in module.modules():
        if isinstance(layer, _CONVOLUTIONS) and layer.groups == 1 and max(layer.kernel_size) > 1:
            layer.register_forward_pre_hook(_leave_autocast)
            layer.register_forward_hook(_return_to_autocast, always_call=True)


def _leave_autocast(layer: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Leave autocast for a small map; no closure over a layer, because layers are copied."""
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


def _return_to_autocast(layer: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Return to autocast, also after an error in the convolution."""
    opened = _stack().pop()
    if opened is not None:
        opened.__exit__(None, None, None)


def _stack() -> list[Any]:
    if not hasattr(_opened, "stack"):
        _opened.stack = []
    stack: list[Any] = _opened.stack
    return stack
