"""What sees: encoders that give feature maps from fine to coarse, looked up in the table `ENCODERS`.

A user's own network comes in as `module:callable`, called with `spatial_dims` and `in_channels`; see
`encoders/custom.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

from medmim.encoders.base import Encoder
from medmim.encoders.convnext import ConvNeXtEncoder
from medmim.encoders.custom import from_callable
from medmim.encoders.dynunet import DynUNetEncoder
from medmim.encoders.masked import Masked, mask
from medmim.encoders.packed.tensor import Packed, pack
from medmim.encoders.patch_tokens import TokenEncoder
from medmim.encoders.resnet import resnet18, resnet50
from medmim.encoders.segresnet import SegResNetEncoder
from medmim.encoders.swin import SwinEncoder
from medmim.encoders.vit import ViTEncoder
from medmim.errors import refuse_unknown_options, unknown_name

ENCODERS: dict[str, Callable[..., Encoder]] = {
    "convnext": ConvNeXtEncoder,
    "dynunet": DynUNetEncoder,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "segresnet": SegResNetEncoder,
    "swin": SwinEncoder,
    "vit": ViTEncoder,
}


def build_encoder(name: str, *, spatial_dims: int, in_channels: int, **options: Any) -> Encoder:
    """Build the encoder `name` of the table, or `module:callable`.

    Args:
        name: a key of `ENCODERS`, or an import path such as `my_package.nets:tiny`.
        spatial_dims: 2 or 3.
        in_channels: image channels.
        **options: that encoder's own settings.

    Raises:
        UsageError: for an unknown name or option.
    """
    if ":" in name:
        return from_callable(name, spatial_dims=spatial_dims, in_channels=in_channels, **options)
    if name not in ENCODERS:
        raise unknown_name("encoder", name, ENCODERS)
    known = set(signature(ENCODERS[name]).parameters) - {"spatial_dims", "in_channels"}
    refuse_unknown_options(f"encoder '{name}'", options, known)
    return ENCODERS[name](spatial_dims=spatial_dims, in_channels=in_channels, **options)


__all__ = ["ENCODERS", "Encoder", "Masked", "Packed", "TokenEncoder", "build_encoder", "mask", "pack"]
