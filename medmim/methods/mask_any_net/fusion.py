"""MaskAnyNet's auxiliary branch and its fusion with the encoder.

The paper (arXiv 2511.12480) defines neither the alignment module nor the boundary between shallow and deep
stages; here both are options, and levels count the encoder's maps. Auxiliary maps of another size are resized
to the primary's by linear interpolation.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from monai.networks.layers.factories import Conv, Norm
from torch import Tensor, nn

from medmim.encoders import Encoder
from medmim.errors import UsageError, did_you_mean
from medmim.methods.mask_any_net.reuse_image import Canvas
from medmim.shapes import Features, Images

LEVELS = ("image", "low", "mid", "decision")
OPERATIONS = ("add", "concat")


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """Level and operation of the fusion of the two branches.

    Levels count maps, not layers: `low` is the first stage of a convolutional encoder, but the first of a
    vision transformer's four maps follows 3 of its 12 blocks. `decision` fuses the last maps of two complete
    encoders before the head. For an encoder of one map, `low` equals `decision`.

    Attributes:
        level: image (before the encoder), low (after its first map), mid (after the middle one of three or
            more; of four, the second) or decision (after the last one).
        operation: add (primary + align(auxiliary)) or concat (align of the concatenation).
        kernel: kernel of the alignment's three convolutions, odd; 0: no alignment; `concat` then uses one 1×1
            convolution.
        width: channels between these convolutions, relative to the encoder's at that level.
    """

    level: str = "low"
    operation: str = "concat"
    kernel: int = 3
    width: float = 1.0

    def __post_init__(self) -> None:
        """Check names and sizes."""
        for what, word, known in (("level", self.level, LEVELS), ("operation", self.operation, OPERATIONS)):
            if word not in known:
                raise UsageError(
                    f"method_options: fusion: unknown {what} '{word}'{did_you_mean(word, known)}"
                )
        if self.kernel < 0 or (self.kernel and self.kernel % 2 == 0) or self.width <= 0:
            raise UsageError(
                "method_options: fusion: expected an odd kernel (0: no alignment) and a width above 0, got "
                f"kernel {self.kernel} and width {self.width:g}"
            )

    def depth(self, encoder: Encoder) -> int:
        """Return the number of encoder maps before the fusion; 0 is before the encoder.

        Raises:
            UsageError: for a level between the maps of an encoder that cannot be cut, or without a middle
                map.
        """
        maps = len(encoder.channels)
        if self.level in ("low", "mid") and not encoder.steps():
            raise UsageError(
                f"method_options: fusion: level '{self.level}' needs an encoder that can be cut between its "
                f"maps, which {type(encoder).__name__} cannot; use level image or decision"
            )
        if self.level == "mid" and maps < 3:
            raise UsageError(
                f"method_options: fusion: level 'mid' needs an encoder of three maps or more, and "
                f"{type(encoder).__name__} has {maps}; use level low"
            )
        return {"image": 0, "low": 1, "mid": (maps + 1) // 2, "decision": maps}[self.level]


class Fusion(nn.Module):
    """Fuse an auxiliary map into a primary one with as many channels."""

    def __init__(self, spatial_dims: int, channels: int, how: FusionConfig) -> None:
        super().__init__()
        self.adds = how.operation == "add"
        entering = channels if self.adds else 2 * channels
        self.align: nn.Module = nn.Identity()
        if how.kernel:
            self.align = _alignment(spatial_dims, entering, channels, how)
        elif not self.adds:
            self.align = Conv[Conv.CONV, spatial_dims](entering, channels, 1)

    def forward(self, primary: Features, auxiliary: Features) -> Features:
        """Return the fused map, with the primary's size and channels."""
        space = tuple(primary.shape[2:])
        if tuple(auxiliary.shape[2:]) != space:
            mode = "bilinear" if len(space) == 2 else "trilinear"
            auxiliary = F.interpolate(auxiliary, size=space, mode=mode, align_corners=False)
        fused: Tensor = (
            primary + self.align(auxiliary)
            if self.adds
            else self.align(torch.cat([primary, auxiliary], dim=1))
        )
        return fused


class TwoBranchEncoder(nn.Module):
    """The auxiliary branch and its fusion into the encoder's maps at one level.

    The branch is a copy of the encoder up to that level, with its own weights; at level `image` there is
    none. The encoder itself is an argument of `forward` and not part of this module.
    """

    def __init__(self, encoder: Encoder, *, spatial_dims: int, how: FusionConfig) -> None:
        super().__init__()
        self.depth = how.depth(encoder)
        self.branch: nn.Module = nn.Identity()
        if self.depth == len(encoder.channels):
            self.branch = copy.deepcopy(encoder)
        elif self.depth:
            self.branch = copy.deepcopy(nn.Sequential(*encoder.steps()[: self.depth]))
        channels = encoder.channels[self.depth - 1] if self.depth else encoder.in_channels
        self.fusion = Fusion(spatial_dims, channels, how)

    def forward(self, encoder: Encoder, primary: Images, auxiliary: Canvas) -> list[Features]:
        """Return the encoder's maps, fine to coarse; maps from the fusion level on depend on both images."""
        seen = self.branch(auxiliary)
        if self.depth == 0:
            fused: list[Features] = encoder(self.fusion(primary, seen))
            return fused
        if self.depth == len(encoder.channels):
            *finer, last = encoder(primary)
            return [*finer, self.fusion(last, seen[-1])]
        maps: list[Features] = []
        x = primary
        for number, step in enumerate(encoder.steps(), start=1):
            x = self.fusion(step(x), seen) if number == self.depth else step(x)
            maps.append(x)
        return maps


def _alignment(spatial_dims: int, entering: int, channels: int, how: FusionConfig) -> nn.Module:
    """Return three convolutions with batch norm and ReLU between them."""
    conv, norm = Conv[Conv.CONV, spatial_dims], Norm[Norm.BATCH, spatial_dims]
    between, kernel, padding = max(1, round(how.width * channels)), how.kernel, how.kernel // 2
    return nn.Sequential(
        conv(entering, between, kernel, padding=padding, bias=False),
        norm(between),
        nn.ReLU(),
        conv(between, between, kernel, padding=padding, bias=False),
        norm(between),
        nn.ReLU(),
        conv(between, channels, kernel, padding=padding),
    )
