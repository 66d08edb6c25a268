"""Patch-based encoders: embedding, selection of patches, and position embeddings.

A convolutional encoder receives masked images as `Packed` or `Masked` values. A patch-based encoder is masked
between its two halves: `embed` processes each patch separately, so that hidden patches can be replaced by a
token (SimMIM) or left out (MAE) before `encode` mixes patches.
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

Tokens = Float[Tensor, "batch _ _"]  # (batch, patches, channels)
Real = Bool[Tensor, "batch _"]


class TokenEncoder(Encoder):
    """An encoder in two halves: patch embedding, and everything that mixes patches.

    Attributes:
        patch: patch size in voxels along each axis; mask cells are multiples of it.
        width: channels of a patch embedding.
    """

    patch: Size
    width: int

    @abstractmethod
    def embed(self, images: Any) -> Any:
        """Return one embedding per patch, (batch, width, *grid), computed from that patch only."""

    @abstractmethod
    def encode(self, patches: Any) -> list[Any]:
        """Return the feature maps, fine to coarse, of patch embeddings (batch, width, *grid)."""

    def forward(self, images: Map) -> list[Map]:
        """Return the feature maps of whole images."""
        if isinstance(images, (Masked, Packed)):
            raise ShapeError(
                f"{type(self).__name__} is patch-based and accepts no masked or packed images: use another "
                "--encoder, such as dynunet, or a patch-based --method, such as mae or simmim"
            )
        return self.encode(self.embed(images))


@dataclass(frozen=True)
class PatchSelection:
    """Selected patches of each sample, in grid order, padded to the largest count of the batch.

    Attributes:
        index: position of each patch in its grid.
        real: False at padding; None where there is none.
    """

    index: Int[Tensor, "batch most"]
    real: Bool[Tensor, "batch most"] | None

    @property
    def weight(self) -> Float[Tensor, "batch most 1"]:
        """Return 1 at selected patches and 0 at padding."""
        real = torch.ones_like(self.index) if self.real is None else self.real
        return real.unsqueeze(-1).float()

    def take(self, sequence: Tokens) -> Tokens:
        """Return the selected ones of all patches (batch, patches, width), zero at padding."""
        taken = sequence.gather(1, self._wide(sequence))
        # not by multiplication: padding may point to a hidden patch, and 0 × inf is NaN
        return taken if self.real is None else taken.where(self.real.unsqueeze(-1), 0.0)

    def put(self, values: Tokens, sequence: Tokens) -> Tokens:
        """Return all patches of `sequence` with the selected ones replaced by `values`."""
        index = self._wide(sequence)
        if self.real is not None:
            values = values.where(self.real.unsqueeze(-1), sequence.gather(1, index))
        return sequence.scatter(1, index, values.to(sequence.dtype))

    def _wide(self, sequence: Tokens) -> Int[Tensor, "batch most width"]:
        return self.index.unsqueeze(-1).expand(-1, -1, sequence.shape[-1])


def select_patches(where: Hidden) -> PatchSelection:
    """Select the patches where `where`, (batch, *grid), is True; counts may differ between samples."""
    flat = where.flatten(1)
    counts = flat.sum(dim=1)
    fewest, most = int(counts.min()), int(counts.max())
    index = (~flat).byte().argsort(dim=1, stable=True)[:, :most]
    real = torch.arange(most, device=flat.device) < counts.unsqueeze(1)
    return PatchSelection(index, None if fewest == most else real)


def wave_positions(
    grid: Sequence[int], width: int, *, device: torch.device, stretch: bool = False
) -> Float[Tensor, "patches width"]:
    """Return fixed sine-cosine position embeddings of a grid, in grid order (Vaswani et al., 2017).

    Each axis gets an equal share of the channels, as in MAE; remaining channels are zero.

    Args:
        stretch: whether positions run from 0 to the number of patches, as in Latent MIM's code, instead of to
            that number minus one.
    """
    each = width // (2 * len(grid))
    rates = 1e4 ** -(torch.arange(each, device=device) / each)
    waves = torch.zeros(*grid, width, device=device)
    for axis, length in enumerate(grid):
        step = length / max(length - 1, 1) if stretch else 1.0
        angles = torch.outer(step * torch.arange(length, device=device, dtype=torch.float32), rates)
        along = torch.cat([angles.sin(), angles.cos()], dim=-1)
        shape = [length if other == axis else 1 for other in range(len(grid))]
        waves[..., 2 * each * axis : 2 * each * (axis + 1)] = along.reshape(*shape, 2 * each)
    return waves.flatten(0, -2)


def as_sequence(features: Features) -> Tokens:
    """Flatten a map (batch, width, *grid) to a sequence of patches in grid order."""
    return features.flatten(2).transpose(1, 2)


def as_map(sequence: Tokens, grid: Sequence[int]) -> Features:
    """Reshape a sequence of all patches to a map (batch, width, *grid); the inverse of `as_sequence`."""
    return sequence.transpose(1, 2).reshape(len(sequence), sequence.shape[2], *grid)


def initialise(module: nn.Module) -> None:
    """Initialise linear layers as MAE does: Xavier-uniform weights, zero biases. For `Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
