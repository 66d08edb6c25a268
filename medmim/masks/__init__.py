"""Masks: which cells of an image are hidden. One rule per file, listed in the table `MASKS`.

To add a mask, write `masks/<name>.py` with a final subclass of `Mask`, add one line to `MASKS`, and one YAML
to `configs/pretrain`. The contract tests run over the table.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from medmim.arguments import checked, fitting_options
from medmim.errors import UsageError, unknown_name
from medmim.masks.base import Mask, hidden_count, hidden_voxels
from medmim.masks.block import BlockMask
from medmim.masks.combined import CombinedMask
from medmim.masks.custom import load_custom_mask
from medmim.masks.gap import GapMask
from medmim.masks.grid import GridMask
from medmim.masks.mesh import MeshMask
from medmim.masks.patch import PatchMask
from medmim.masks.random import RandomMask
from medmim.masks.sampling import MaskRequest
from medmim.masks.square import SquareMask
from medmim.masks.tissue import TissueMask, tissue_share

MASKS: dict[str, type[Mask]] = {
    "mesh": MeshMask,
    "random": RandomMask,
    "block": BlockMask,
    "square": SquareMask,
    "patch": PatchMask,
    "grid": GridMask,
    "combined": CombinedMask,
    "gap": GapMask,
    "tissue": TissueMask,
}


@checked
def build_mask(name: str, *, ratio: float, **options: Any) -> Mask:
    """Build a mask of the table, or a user's own.

    Args:
        name: a key of `MASKS`, or `module:callable`.
        ratio: share of cells to hide, between 0 and 1, both excluded.
        **options: further fields of that mask. `rule` of tissue is the name of a mask, `masks` of combined a
            mapping from names to weights. `up_to` is the name of `max_ratio` before version 0.2.

    Raises:
        UsageError: for an unknown name or option, or a ratio out of range.
    """
    if "up_to" in options:
        warnings.warn("mask option up_to is now max_ratio; the old name will be removed", FutureWarning, 2)
        options["max_ratio"] = options.pop("up_to")
    if ":" in name:
        return load_custom_mask(name, ratio=ratio, options=options)
    if name not in MASKS:
        raise unknown_name("mask", name, MASKS)
    known = {field.name for field in fields(MASKS[name])} - {"ratio"}
    if isinstance(options.get("rule"), str):
        options["rule"] = build_mask(options["rule"], ratio=ratio)
    if "masks" in options:
        options["masks"] = _weighted_masks(options["masks"], ratio)
    fitted = fitting_options(f"mask '{name}'", MASKS[name], options, known=known)
    return MASKS[name](ratio=ratio, **fitted)


def _weighted_masks(weights: Any, ratio: float) -> tuple[tuple[Mask, float], ...]:
    valid = isinstance(weights, Mapping) and all(isinstance(w, (int, float)) for w in weights.values())
    if not valid or not weights:
        raise UsageError("mask option masks: expected names with weights, such as {mesh: 2, random: 1}")
    return tuple((build_mask(name, ratio=ratio), float(weight)) for name, weight in weights.items())


Draw = MaskRequest  # its name before version 0.2, which users' own masks may import

__all__ = [
    "MASKS",
    "BlockMask",
    "CombinedMask",
    "GapMask",
    "GridMask",
    "Mask",
    "MaskRequest",
    "MeshMask",
    "PatchMask",
    "RandomMask",
    "SquareMask",
    "TissueMask",
    "build_mask",
    "hidden_count",
    "hidden_voxels",
    "tissue_share",
]
