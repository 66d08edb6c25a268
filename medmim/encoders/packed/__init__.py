"""Packed cells: a network computes only the visible cells of a masked image."""

from medmim.encoders.packed.tensor import Packed, pack

__all__ = ["Packed", "pack"]
