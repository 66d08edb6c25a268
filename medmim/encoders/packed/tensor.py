"""The tensor-like value `Packed`, on which networks compute visible cells only.

`pack(images, hidden)` returns a `Packed`, on which any network is called as on a tensor. Visible cells are a
batch of small maps: elementwise operations run on them directly, convolutions first gather a halo from
neighbouring cells (zeros where hidden). The result equals the dense network under SparK's masking
(`encoders/masked.py`) on visible voxels, at every scale down to one voxel per cell. The layout is part of the
value, so that forwards with different masks never interfere, also under
`torch.utils.checkpoint(..., use_reentrant=False)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medmim.encoders.batch_norm import synced_batch_norm
from medmim.encoders.masked import has_masked_form
from medmim.encoders.packed import norm_and_pool, ops
from medmim.encoders.packed.cells import CellLayout, PackedCells, cut, paste
from medmim.encoders.packed.conv import conv
from medmim.encoders.shared_forms import ELEMENTWISE, SHARED_FORMS
from medmim.encoders.tensor_like import ADVICE, Reduction
from medmim.errors import ShapeError, size_text
from medmim.shapes import Hidden, Images, require_tensors


class Packed(PackedCells):
    """Visible cells that behave like a dense tensor whose hidden voxels are zero; see `PackedCells`."""

    def unpack(self, fill: float = 0.0) -> Tensor:
        """Return the dense tensor, hidden voxels set to `fill`."""
        dense = paste(self.values, self.layout, fill)
        return dense.movedim(1, -1) if self.last else dense

    def over_space(self, kind: Reduction) -> Tensor:
        """Return the mean, maximum or L2 norm over each sample's visible voxels, (batch, channels)."""
        samples = torch.split(self.values.flatten(2), list(self.layout.counts))
        if kind == "norm":
            return torch.stack([torch.linalg.vector_norm(cells, dim=(0, 2)) for cells in samples])
        if kind == "mean":
            return torch.stack([cells.mean(dim=2).mean(dim=0) for cells in samples])
        return torch.stack([cells.amax(dim=2).amax(dim=0) for cells in samples])

    @classmethod
    def form_of(cls, func: Callable[..., Any]) -> Callable[..., Any] | None:
        """Return the packed form of an operation."""
        return _FORMS.get(func)

    @classmethod
    def no_form(cls, name: str, func: Callable[..., Any] | None = None) -> ShapeError:
        """Return the error for an operation without a packed form."""
        masked = ", or --compute masked" if func is not None and has_masked_form(func) else ""
        return ShapeError(f"'{name}' has no packed form: {ADVICE}{masked}")


def pack(images: Images, hidden: Hidden) -> Packed:
    """Extract the visible cells of images; a cell is space / grid.

    Raises:
        ShapeError: if the numbers of samples differ, the grid does not divide the image, or a sample has no
            visible cell.
        TypeError: unless images are a floating-point tensor and the mask is a Boolean one.
    """
    require_tensors(images, hidden)
    if images.shape[0] != hidden.shape[0]:
        raise ShapeError(f"expected one mask per sample, got {hidden.shape[0]} for {images.shape[0]} images")
    space, grid = tuple(images.shape[2:]), tuple(hidden.shape[1:])
    if len(space) != len(grid) or any(n % cells for n, cells in zip(space, grid, strict=True)):
        raise ShapeError(
            f"an image of {size_text(space)} voxels does not divide into a grid of "
            f"{size_text(grid)} cells: expected a multiple of the grid along each axis"
        )
    layout = CellLayout(hidden)
    return Packed(cut(images, layout), layout)


_FORMS: dict[Callable[..., Any], Callable[..., Any]] = {
    **SHARED_FORMS,
    **dict.fromkeys((torch.conv2d, torch.conv3d), conv),
    **dict.fromkeys((F.max_pool2d, F.max_pool3d, torch.max_pool2d, torch.max_pool3d), norm_and_pool.max_pool),
    **dict.fromkeys((F.avg_pool2d, F.avg_pool3d), norm_and_pool.avg_pool),
    **dict.fromkeys((F.pixel_shuffle, F.pixel_unshuffle), ops.within_cells),
    **dict.fromkeys((F.batch_norm, synced_batch_norm), norm_and_pool.batch_norm),
    F.instance_norm: norm_and_pool.instance_norm,
    F.group_norm: norm_and_pool.group_norm,
    F.linear: ops.linear,
    F.prelu: ops.prelu,
    **dict.fromkeys(ELEMENTWISE, ops.elementwise),
    **dict.fromkeys((F.dropout2d, F.dropout3d), ops.channel_dropout),
}
