"""What is hidden: one rule a file, looked up in the table `MASKS`.

To add a mask: write `masks/<name>.py` with a final subclass of `Mask`, add one line to `MASKS`, and one YAML
to `configs/pretrain`. The contract tests run over the table and find it.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from medmim.errors import refuse_unknown_options, unknown_name
from medmim.masks.base import Mask, hidden_count
from medmim.masks.cells import hidden_voxels
from medmim.masks.mesh import MeshMask
from medmim.masks.random import RandomMask

MASKS: dict[str, type[Mask]] = {
    "mesh": MeshMask,
    "random": RandomMask,
}


def build_mask(name: str, *, ratio: float, **options: Any) -> Mask:
    """Build the mask `name` of the table.

    Args:
        name: a key of `MASKS`.
        ratio: share of cells to hide, between 0 and 1, both excluded.
        **options: further fields of that mask.

    Raises:
        UsageError: for an unknown name or option, or a ratio out of range.
    """
    if name not in MASKS:
        raise unknown_name("mask", name, MASKS)
    known = {field.name for field in fields(MASKS[name])} - {"ratio"}
    refuse_unknown_options(f"mask '{name}'", options, known)
    return MASKS[name](ratio=ratio, **options)


__all__ = ["MASKS", "Mask", "build_mask", "hidden_count", "hidden_voxels"]
