"""Encoders that begin with patches: how they are cut open, which patches are kept, where a patch lies.

A convolutional encoder takes hidden cells as `Packed` or `Masked` values. An encoder of this kind takes them
between its two halves: `embed` looks at each patch alone, so whatever is hidden can be replaced by a token
(SimMIM) or left out (MAE) before `encode` lets patches see each other.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from medmim.encoders.base import Encoder, Map
from medmim.encoders.masked import Masked
from medmim.encoders.packed.tensor import Packed
from medmim.errors import ShapeError
from medmim.shapes import Features, Hidden, Size

Tokens = Float[Tensor, "batch _ _"]  # (batch, patches, channels); sets of patches and widths are of any size
Real = Bool[Tensor, "batch _"]


class TokenEncoder(Encoder):
    """An encoder in two halves, of which the first looks at each patch alone.

    Attributes:
        patch: voxels of a patch along each axis; mask cells are multiples of it.
        width: channels of an embedded patch.
    """

    patch: Size
    width: int

    @abstractmethod
    def embed(self, images: Any) -> Any:
        """Return one vector a patch, (batch, width, *grid), that depends on that patch only."""

    @abstractmethod
    def encode(self, patches: Any) -> list[Any]:
        """Return the maps, fine to coarse, of embedded patches (batch, width, *grid)."""

    def forward(self, images: Map) -> list[Map]:
        """Return the maps of whole images.

        Raises:
            ShapeError: for images whose voxels are hidden.
        """
        if isinstance(images, (Masked, Packed)):
            raise ShapeError(
                f"{type(self).__name__} begins with patches and takes no masked or packed voxels: use "
                "another --encoder, such as dynunet, or a --method on patches, such as mae or simmim"
            )
        return self.encode(self.embed(images))


@dataclass(frozen=True)
class PatchSelection:
    """Some patches of each sample, in grid order; where a sample has fewer than the most, fillers follow.

    Attributes:
        index: number of each patch in its grid.
        real: False at fillers; None where there are none.
    """

    index: Int[Tensor, "batch most"]
    real: Bool[Tensor, "batch most"] | None

    @property
    def weight(self) -> Float[Tensor, "batch most 1"]:
        """Return 1 at real patches and 0 at fillers."""
        real = torch.ones_like(self.index) if self.real is None else self.real
        return real.unsqueeze(-1).float()

    def take(self, sequence: Tokens) -> Tokens:
        """Return the chosen of all patches (batch, patches, width), zero at fillers."""
        taken = sequence.gather(1, self._wide(sequence))
        # not by multiplication: a filler may be a hidden patch, and even infinity must not come through
        return taken if self.real is None else taken.where(self.real.unsqueeze(-1), 0.0)

    def put(self, values: Tokens, sequence: Tokens) -> Tokens:
        """Return all patches of `sequence` with the chosen ones replaced by `values`."""
        index = self._wide(sequence)
        if self.real is not None:
            values = values.where(self.real.unsqueeze(-1), sequence.gather(1, index))
        return sequence.scatter(1, index, values.to(sequence.dtype))

    def _wide(self, sequence: Tokens) -> Int[Tensor, "batch most width"]:
        return self.index.unsqueeze(-1).expand(-1, -1, sequence.shape[-1])


def select_patches(where: Hidden) -> PatchSelection:
    """Choose the patches at which `where`, (batch, *grid), is True; counts may differ between samples."""
    flat = where.flatten(1)
    counts = flat.sum(dim=1)
    fewest, most = int(counts.min()), int(counts.max())
    index = (~flat).byte().argsort(dim=1, stable=True)[:, :most]
    real = torch.arange(most, device=flat.device) < counts.unsqueeze(1)
    return PatchSelection(index, None if fewest == most else real)


def wave_positions(
    grid: Sequence[int], width: int, *, device: torch.device
) -> Float[Tensor, "patches width"]:
    """Return fixed sine and cosine positions of a grid's patches, in grid order (Vaswani et al., 2017).

    The channels are shared out evenly among the axes, as in MAE; what does not divide stays zero.

    Args:
        grid: patches along each axis.
        width: channels.
        device: where they are needed.
    """
    each = width // (2 * len(grid))
    rates = 1e4 ** -(torch.arange(each, device=device) / each)
    waves = torch.zeros(*grid, width, device=device)
    for axis, length in enumerate(grid):
        angles = torch.outer(torch.arange(length, device=device, dtype=torch.float32), rates)
        along = torch.cat([angles.sin(), angles.cos()], dim=-1)
        shape = [length if other == axis else 1 for other in range(len(grid))]
        waves[..., 2 * each * axis : 2 * each * (axis + 1)] = along.reshape(*shape, 2 * each)
    return waves.flatten(0, -2)


def as_sequence(features: Features) -> Tokens:
    """Return a map (batch, width, *grid) as a sequence of patches in grid order."""
    return features.flatten(2).transpose(1, 2)


def as_map(sequence: Tokens, grid: Sequence[int]) -> Features:
    """Return all patches of a grid as a map (batch, width, *grid); the inverse of `as_sequence`."""
    return sequence.transpose(1, 2).reshape(len(sequence), sequence.shape[2], *grid)


def initialise(module: nn.Module) -> None:
    """Start linear layers as MAE does: uniform weights after Glorot, biases zero. For `Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
