"""What is hidden: one rule a file, looked up in the table `MASKS`.

To add a mask: write `masks/<name>.py` with a final subclass of `Mask`, add one line to `MASKS`, and one YAML
to `configs/pretrain`. The contract tests run over the table and find it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from medmim.errors import UsageError, refuse_unknown_options, unknown_name
from medmim.masks.base import Mask, hidden_count
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
from medmim.masks.upsample import hidden_voxels

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


def build_mask(name: str, *, ratio: float, **options: Any) -> Mask:
    """Build the mask `name` of the table, or a user's own.

    Args:
        name: a key of `MASKS`, or `module:callable`.
        ratio: share of cells to hide, between 0 and 1, both excluded.
        **options: further fields of that mask. Masks made of masks name them: `rule` of tissue is a name,
            `masks` of combined a mapping from names to weights.

    Raises:
        UsageError: for an unknown name or option, or a ratio out of range.
    """
    if ":" in name:
        return load_custom_mask(name, ratio=ratio, options=options)
    if name not in MASKS:
        raise unknown_name("mask", name, MASKS)
    known = {field.name for field in fields(MASKS[name])} - {"ratio"}
    refuse_unknown_options(f"mask '{name}'", options, known)
    if isinstance(options.get("rule"), str):
        options["rule"] = build_mask(options["rule"], ratio=ratio)
    if "masks" in options:
        options["masks"] = _mixed(options["masks"], ratio)
    return MASKS[name](ratio=ratio, **options)


def _mixed(weights: Any, ratio: float) -> tuple[tuple[Mask, float], ...]:
    numbers = isinstance(weights, Mapping) and all(isinstance(w, (int, float)) for w in weights.values())
    if not numbers or not weights:
        raise UsageError("mask option masks: expected names with weights, such as {mesh: 2, random: 1}")
    return tuple((build_mask(name, ratio=ratio), float(weight)) for name, weight in weights.items())


__all__ = ["MASKS", "Mask", "MaskRequest", "build_mask", "hidden_count", "hidden_voxels", "tissue_share"]
