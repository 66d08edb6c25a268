"""The residual encoder of MONAI's DynUNet, built from its own blocks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from monai.networks.blocks.dynunet_block import UnetResBlock
from torch import nn

from medmim.encoders.base import Encoder, Map, run_in_sequence
from medmim.errors import UsageError
from medmim.shapes import as_size

FILTERS = (16, 32, 64, 128)


class DynUNetEncoder(Encoder):
    """Stages of one MONAI `UnetResBlock` with instance norm, the first at full resolution.

    Args:
        filters: channels of each stage, fine to coarse.
        strides: stride of each stage relative to the one before, one number or one per axis; None: 1 for the
            first stage and 2 for the others.
    """

    def __init__(
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        filters: Sequence[int] = FILTERS,
        strides: Sequence[int | Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        steps = strides if strides is not None else [1] + [2] * (len(filters) - 1)
        if not filters or len(steps) != len(filters):
            raise UsageError(
                f"encoder_options: expected one stride per entry of filters, got {len(steps)} strides and "
                f"{len(filters)} filters"
            )
        relative = [as_size(step, spatial_dims, what="encoder_options.strides") for step in steps]
        if any(max(step) > 2 for step in relative):
            raise UsageError("encoder_options.strides: expected 1 or 2 per stage, as MONAI's blocks require")
        widths = [in_channels, *filters]
        self.in_channels = in_channels
        self.channels = tuple(filters)
        self.strides = tuple(tuple(int(s) for s in row) for row in np.cumprod(relative, axis=0))
        self.stages = nn.ModuleList(
            UnetResBlock(spatial_dims, widths[i], widths[i + 1], kernel_size=3, stride=step, norm_name=_NORM)
            for i, step in enumerate(relative)
        )

    def steps(self) -> list[nn.Module]:
        """Return the encoder as modules, one per map."""
        return list(self.stages)

    def forward(self, images: Map) -> list[Map]:
        """Return the output of every stage."""
        return run_in_sequence(self.stages, images)


_NORM = ("instance", {"affine": True})
