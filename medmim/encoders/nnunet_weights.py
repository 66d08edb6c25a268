"""Weights of nnU-Net's residual encoder, from checkpoints of nnU-Net v2 and nnssl.

nnU-Net orders the axes of arrays z, y, x, or otherwise where its plans transpose images; medmim orders them
x, y, z. Kernels and strides are reordered, so that the encoder computes the maps of the original.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from medmim.encoders.public_weights import Family, Named, Weights, as_option, numbers_in
from medmim.encoders.resenc import SIZES

_KERNEL_AXES = (4, 5)  # axes of a 2D and of a 3D kernel


def nnunet_axes(order: Sequence[int], dims: int) -> list[int]:
    """Return the axis of medmim (0: x, 1: y, 2: z) of each spatial axis of nnU-Net's patches.

    Args:
        order: `transpose_forward` of nnU-Net's plans, for z, y, x. In 2D nnU-Net cuts slices across the first
            axis. Slices that are not axial have no counterpart here, and y, x is returned for them.
    """
    axes = [2 - axis for axis in order][-dims:]
    return axes if max(axes) < dims else [1, 0]


@dataclass(frozen=True)
class _NetworkRecord:
    """What a checkpoint records of its network: strides of the stages, and `transpose_forward`."""

    strides: Sequence[Sequence[int]] | None = None
    order: Sequence[int] = (0, 1, 2)

    def back(self, dims: int) -> list[int]:
        """Return the axis of nnU-Net for x, y (and z)."""
        axes = nnunet_axes(self.order, dims)
        return [axes.index(axis) for axis in range(dims)]


def residual_encoder(content: Any = None) -> Family:
    """Return the family, with the strides and the order of axes that the content of a checkpoint records."""
    recorded = _recorded(content) if isinstance(content, Mapping) else _NetworkRecord()
    return Family(
        "residual encoder of nnU-Net (nnssl, OpenMind ResEnc-L)",
        ("stem.convs.0.conv.weight", "stages.0.blocks.0.conv1.conv.weight"),
        {r"((?:stem|stages)\..+)": r"\1"},
        partial(_describe, recorded=recorded),
        partial(_reordered, recorded=recorded),
    )


def _recorded(content: Mapping[str, Any]) -> _NetworkRecord:
    """Read the plans in a checkpoint of nnU-Net or nnssl; those of another form are the defaults."""
    try:
        if "nnssl_adaptation_plan" in content:
            adaptation = content["nnssl_adaptation_plan"]
            plans, architecture = adaptation["pretrain_plan"], adaptation["architecture_plans"]
        else:
            plans, name = content["init_args"]["plans"], content["init_args"]["configuration"]
            configuration = plans["configurations"][name]
            base = configuration.get("inherits_from", name)  # a cascade
            architecture = {**plans["configurations"][base], **configuration}["architecture"]
        strides = [[int(stride) for stride in row] for row in architecture["arch_kwargs"]["strides"]]
        order = [int(axis) for axis in plans["transpose_forward"]]
    except (KeyError, TypeError, ValueError, AttributeError):
        return _NetworkRecord()
    return _NetworkRecord(strides, order) if sorted(order) == [0, 1, 2] else _NetworkRecord()


def _describe(weights: Weights, *, recorded: _NetworkRecord) -> tuple[str, dict[str, Any]]:
    stages = range(numbers_in(weights, r"stages\.(\d+)\."))
    first = [weights[f"stages.{stage}.blocks.0.conv1.conv.weight"] for stage in stages]
    blocks = tuple(numbers_in(weights, rf"stages\.{stage}\.blocks\.(\d+)\.") for stage in stages)
    features, kernels = tuple(map(len, first)), [as_option(kernel.shape[2:]) for kernel in first]
    size = next((size for size, known in SIZES.items() if known == (features, blocks)), None)
    options: dict[str, Any] = {"size": size} if size else {"features": [*features], "blocks": [*blocks]}
    options |= {} if set(map(str, kernels)) == {"3"} else {"kernel_sizes": kernels}
    back = recorded.back(first[0].dim() - 2)
    steps = [
        as_option([row[axis] for axis in back]) for row in recorded.strides or () if len(row) == len(back)
    ]
    return "resenc", options | ({} if steps in ([], [1] + [2] * (len(first) - 1)) else {"strides": steps})


def _reordered(weights: Named, *, recorded: _NetworkRecord) -> tuple[Named, list[str]]:
    """Give kernels the axes x, y, z."""
    kernels = {name: value for name, value in weights.items() if value.dim() in _KERNEL_AXES}
    back = recorded.back(weights["stem.convs.0.conv.weight"].dim() - 2)
    turned = {name: value.permute(0, 1, *(axis + 2 for axis in back)) for name, value in kernels.items()}
    names = ["xyz"[axis] for axis in nnunet_axes(recorded.order, len(back))]
    rules = [f"axes {', '.join(names)} of nnU-Net reordered to {', '.join(sorted(names))}"]
    rules += [] if recorded.strides else ["strides are not recorded: 1, 2, 2, … assumed"]
    return {**weights, **turned}, rules
