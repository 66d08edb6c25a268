"""Networks of other libraries as encoders; a dry run finds their strides and channels.

`module:callable` names a user's own network, `timm:NAME` one of timm's table (PyTorch Image Models).
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from inspect import signature
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from medmim.config.own_code import import_callable
from medmim.encoders.base import Encoder, Map
from medmim.errors import ShapeError, UsageError, did_you_mean
from medmim.shapes import Size

TIMM = "timm:"
_TIMM_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?")  # of the table, never of a hub or folder
_PROBE_VOXELS = 64
# arguments of timm.create_model by which a description of others could unpickle a file or download one
_READING = frozenset(
    {"checkpoint_path", "cache_dir", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"}
)


class CustomEncoder(Encoder):
    """Wrap a network whose forward returns a list of feature maps, fine to coarse."""

    def __init__(self, net: nn.Module, *, spatial_dims: int, in_channels: int) -> None:
        super().__init__()
        self.net = net
        self.in_channels = in_channels
        self.channels, self.strides = _dry_run(net, spatial_dims=spatial_dims, in_channels=in_channels)

    def forward(self, images: Map) -> list[Map]:
        """Return the network's maps."""
        return list(self.net(images))


def from_callable(path: str, *, spatial_dims: int, in_channels: int, **options: Any) -> Encoder:
    """Import `module:callable`, call it and wrap the network that it returns."""
    build = import_callable(path, word="--encoder", expected="which returns a torch network")
    try:
        signature(build).bind(spatial_dims=spatial_dims, in_channels=in_channels, **options)
    except TypeError as error:
        raise UsageError(
            f"--encoder {path}: cannot be called ({error}); expected a callable that takes spatial_dims, "
            f"in_channels{''.join(f', {name}' for name in options)}"
        ) from error
    net = build(spatial_dims=spatial_dims, in_channels=in_channels, **options)
    if isinstance(net, Encoder):
        return net
    if not isinstance(net, nn.Module):
        raise UsageError(f"--encoder {path}: expected a torch network, got {type(net).__name__}")
    return CustomEncoder(net, spatial_dims=spatial_dims, in_channels=in_channels)


def from_timm(name: str, *, spatial_dims: int, in_channels: int, **options: Any) -> Encoder:
    """Build a 2D network of timm with random weights, which returns the maps of its stages."""
    if reading := sorted(_READING & set(options)):
        raise UsageError(
            f"--encoder {TIMM}{name}: option '{reading[0]}' reads files; load weights with --init"
        )
    if spatial_dims != 2:
        raise UsageError(f"--encoder {TIMM}{name}: timm has 2D networks only: add --dims 2")
    try:
        timm = importlib.import_module("timm")
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that does not fit torch
        raise UsageError(
            f"--encoder {TIMM}{name}: timm cannot be imported ({error}): pip install 'medmim[timm]'"
        ) from error
    if not _TIMM_NAME.fullmatch(name) or not timm.is_model(name):
        raise UsageError(f"--encoder {TIMM}{name}: unknown to timm{did_you_mean(name, timm.list_models())}")
    try:
        net = timm.create_model(name, pretrained=False, features_only=True, in_chans=in_channels, **options)
    except (RuntimeError, TypeError, AttributeError, AssertionError) as error:
        raise UsageError(
            f"--encoder {TIMM}{name}: timm cannot build it as a feature extractor ({error})"
        ) from error
    return CustomEncoder(net, spatial_dims=spatial_dims, in_channels=in_channels)


def _dry_run(
    net: nn.Module, *, spatial_dims: int, in_channels: int
) -> tuple[tuple[int, ...], tuple[Size, ...]]:
    training = net.training
    net.eval()
    with torch.no_grad():
        maps = net(torch.zeros(1, in_channels, *[_PROBE_VOXELS] * spatial_dims))
    net.train(training)
    is_list = isinstance(maps, Sequence) and all(isinstance(item, torch.Tensor) for item in maps)
    if not is_list or not maps:
        raise ShapeError(
            f"custom encoder: expected a list of feature maps from forward, got {type(maps).__name__}"
        )
    sizes = [tuple(item.shape[2:]) for item in maps]
    if any(len(size) != spatial_dims or any(_PROBE_VOXELS % n for n in size) for size in sizes):
        raise ShapeError(
            f"custom encoder: expected maps whose sizes divide {_PROBE_VOXELS} voxels along each of "
            f"{spatial_dims} axes, got {sizes}: pad the convolutions"
        )
    strides = tuple(tuple(_PROBE_VOXELS // length for length in size) for size in sizes)
    if any(c % f for fine, coarse in pairwise(strides) for f, c in zip(fine, coarse, strict=True)):
        raise ShapeError(f"custom encoder: expected maps from fine to coarse, got strides {list(strides)}")
    return tuple(item.shape[1] for item in maps), strides
