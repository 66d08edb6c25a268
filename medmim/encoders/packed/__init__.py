"""Packed cells: networks compute the visible cells of a masked image only."""

from medmim.encoders.packed.tensor import Packed, pack

__all__ = ["Packed", "pack"]
