"""Encoders: networks that return feature maps from fine to coarse, listed in the table `ENCODERS`.

A user's own network is given as `module:callable` and called with `spatial_dims` and `in_channels`, one of
timm as `timm:NAME`; see `encoders/custom.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

import medmim.encoders.cpu_convolutions  # replaces kernels that compute some shapes wrongly
import medmim.encoders.einops_forms  # noqa: F401 - makes masked and packed values known to einops
from medmim.arguments import checked, fitting_options
from medmim.encoders.base import Encoder
from medmim.encoders.convnext import ConvNeXtEncoder
from medmim.encoders.custom import TIMM, from_callable, from_timm
from medmim.encoders.dynunet import DynUNetEncoder
from medmim.encoders.masked import Masked, mask
from medmim.encoders.packed.tensor import Packed, pack
from medmim.encoders.patch_tokens import TokenEncoder
from medmim.encoders.resenc import ResEncEncoder
from medmim.encoders.resnet import ResNetEncoder
from medmim.encoders.segresnet import SegResNetEncoder
from medmim.encoders.swin import SwinEncoder
from medmim.encoders.vit import ViTEncoder
from medmim.errors import UsageError, unknown_name

ENCODERS: dict[str, Callable[..., Encoder]] = {
    "convnext": ConvNeXtEncoder,
    "dynunet": DynUNetEncoder,
    "resenc": ResEncEncoder,
    "resnet18": partial(ResNetEncoder, block="basic", layers=(2, 2, 2, 2)),
    "resnet50": partial(ResNetEncoder, block="bottleneck", layers=(3, 4, 6, 3)),
    "segresnet": SegResNetEncoder,
    "swin": SwinEncoder,
    "vit": ViTEncoder,
}


@checked
def build_encoder(name: str, *, spatial_dims: int, in_channels: int, **options: Any) -> Encoder:
    """Build an encoder of the table, or a user's own.

    Args:
        name: a key of `ENCODERS`, `timm:NAME`, or `module:callable`, such as `my_package.nets:tiny`.

    Raises:
        UsageError: for an unknown name or option, or one of a wrong type.
    """
    if spatial_dims not in (2, 3) or in_channels < 1:
        raise UsageError(
            "build_encoder: expected spatial_dims of 2 or 3 and in_channels of at least 1, got "
            f"{spatial_dims} and {in_channels}"
        )
    if name.startswith(TIMM):
        return from_timm(
            name.removeprefix(TIMM), spatial_dims=spatial_dims, in_channels=in_channels, **options
        )
    if ":" in name:
        return from_callable(name, spatial_dims=spatial_dims, in_channels=in_channels, **options)
    if name not in ENCODERS:
        raise unknown_name("encoder", name, ENCODERS)
    known = set(signature(ENCODERS[name]).parameters) - {"spatial_dims", "in_channels", "block"}
    fitted = fitting_options(f"encoder '{name}'", ENCODERS[name], options, known=known)
    return ENCODERS[name](spatial_dims=spatial_dims, in_channels=in_channels, **fitted)


__all__ = ["ENCODERS", "Encoder", "Masked", "Packed", "TokenEncoder", "build_encoder", "mask", "pack"]
