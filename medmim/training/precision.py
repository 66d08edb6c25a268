"""Numerical precision of training and prediction: what the device supports, and autocast.

fp32   float32 throughout
bf16   bf16 where autocast allows it, also on devices that emulate it
fp16   fp16 with loss scaling on a GPU; fp32 without one
auto   bf16 where the device computes in it, fp16 on other GPUs, fp32 on other CPUs

Convolutions that a CPU computes wrongly in bf16 are computed in float32; see `encoders/cpu_convolutions.py`.
"""

from __future__ import annotations

from typing import Literal

import torch

# Lightning's names: "mixed" keeps the weights and the optimizer in float32
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


def precision_for(setting: str) -> Precision:
    """Return Lightning's name of the precision of a setting on this machine."""
    return _precision(setting, gpu=torch.cuda.is_available(), bf16=has_bf16())


def precision_name(setting: str) -> str:
    """Return fp32, bf16 or fp16: the precision of a setting on this machine."""
    return {"32-true": "fp32", "bf16-mixed": "bf16", "16-mixed": "fp16"}[precision_for(setting)]


def _precision(setting: str, *, gpu: bool, bf16: bool) -> Precision:
    if setting == "bf16" or (setting == "auto" and bf16):
        return "bf16-mixed"
    return "16-mixed" if gpu and setting in ("auto", "fp16") else "32-true"


def autocast(setting: str, device: torch.device) -> torch.autocast:
    """Return the context in which a network runs outside the trainer, which has its own.

    Args:
        setting: fp32, bf16, fp16 or auto.
        device: where the network is.
    """
    precision = precision_for(setting)
    lower = torch.float16 if precision == "16-mixed" else torch.bfloat16
    return torch.autocast(device.type, dtype=lower, enabled=precision != "32-true")


def has_bf16() -> bool:
    """Return whether the device computes with bf16 rather than emulating it.

    That is the GPU where there is one; a CPU needs the bf16 instructions of AVX-512.
    """
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())
