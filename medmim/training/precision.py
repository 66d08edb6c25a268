"""Numerical precision of training: which one a device has, and autocast."""

from __future__ import annotations

from typing import Literal

import torch


def precision_for(setting: str) -> Literal["32-true", "bf16-mixed"]:
    """Return Lightning's word for the precision; auto is bf16 where the device computes with it."""
    if setting == "auto":
        setting = "bf16" if has_bf16() else "fp32"
    return "bf16-mixed" if setting == "bf16" else "32-true"


def autocast(setting: str, device: torch.device) -> torch.autocast:
    """Return the context in which a network runs outside the trainer."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision_for(setting) == "bf16-mixed")


def has_bf16() -> bool:
    """Return whether the device computes with bf16, rather than imitating it."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())
