"""The representation of a packed value: visible cells as a batch of small maps, and their layout."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from medmim.encoders.packed.layout import CellLayout
from medmim.encoders.tensor_like import TensorLike
from medmim.errors import ShapeError
from medmim.shapes import Size

Rows = Shaped[Tensor, "rows channels"]

ADVICE = "use an encoder without it"
_AXES = {2: ("y", "x"), 3: ("z", "y", "x")}


class PackedCells(TensorLike):
    """The visible cells of a map, stacked along the batch axis.

    Attributes:
        values: (visible cells, channels, *voxels of a cell), channels innermost in memory: halos are gathered
            as rows of channels, and CPUs convolve that order fastest.
        layout: position of these cells in the images.
        last: whether the network has moved channels behind the spatial axes (`permute(0, 2, 3, 1)`); the
            memory order of `values` does not change.
    """

    def __init__(self, values: Tensor, layout: CellLayout, *, last: bool = False) -> None:
        self.values = values
        self.layout = layout
        self.last = last

    @property
    def dims(self) -> int:
        """Number of spatial axes."""
        return len(self.layout.grid)

    @property
    def cell(self) -> Size:
        """Voxels of a cell of this map along each axis."""
        return tuple(self.values.shape[2:])

    @property
    def space(self) -> Size:
        """Voxels of the dense map along each axis."""
        return tuple(n * c for n, c in zip(self.layout.grid, self.cell, strict=True))

    @property
    def shape(self) -> torch.Size:
        """Shape of the dense tensor that this value represents."""
        channels = self.values.shape[1]
        sizes = (*self.space, channels) if self.last else (channels, *self.space)
        return torch.Size((self.layout.batch, *sizes))

    def like(self, values: Tensor) -> PackedCells:
        """Return a value with the same cells and other contents."""
        return type(self)(values, self.layout, last=self.last)

    def from_rows(self, rows: Tensor, cell: Size | None = None) -> PackedCells:
        """Return a value whose voxels are `rows`, with cells of `cell` voxels; None: as here."""
        return self.like(cells_from_rows(rows, self.cell if cell is None else cell))

    def require_channels_first(self, name: str) -> None:
        """Reject an operation on a value whose channels were moved behind the spatial axes."""
        if self.last:
            raise ShapeError(f"'{name}' on channels-last packed cells: permute channels back to axis 1 first")


def rows_from_cells(values: Tensor) -> Rows:
    """Return one row of channels per voxel; a view where channels are innermost."""
    return rearrange(values, "n c ... -> (n ...) c")


def cells_from_rows(rows: Tensor, cell: Size) -> Float[Tensor, "visible channels ..."]:
    """Return the cells whose voxels are `rows`, channels innermost in memory."""
    return rows.reshape(-1, *cell, rows.shape[1]).movedim(-1, 1)


def channels_innermost(values: Tensor) -> Tensor:
    """Return `values` with channels innermost in memory."""
    return values.movedim(1, -1).contiguous().movedim(-1, 1)


def gather(values: Tensor, table: Int[Tensor, "visible entries taps"], outside: float = 0.0) -> Tensor:
    """Gather rows, (visible, entries, taps, channels); hidden voxels are 0, `outside` beyond the image."""
    rows = rows_from_cells(values)
    absent = rows.new_zeros(2, rows.shape[1])
    absent[1] = outside
    return torch.cat([rows, absent]).index_select(0, table.flatten()).reshape(*table.shape, -1)


def per_sample(packed: PackedCells, tensor: Tensor) -> Tensor:
    """Convert a dense tensor that broadcasts against the map to one that broadcasts against its cells.

    Axes are aligned at the last one, as usual in torch. Along the spatial axes the tensor has size 1 or the
    size of the map.
    """
    full = tensor.reshape(*[1] * (packed.dims + 2 - tensor.dim()), *tensor.shape)
    if packed.last:
        full = full.movedim(-1, 1)
    if any(size != 1 for size in full.shape[2:]):
        full = full.expand(packed.layout.batch, full.shape[1], *packed.space)
        return cut(full, packed.layout)
    return full if full.shape[0] == 1 else full[packed.layout.sample]


def cut(images: Tensor, layout: CellLayout) -> Tensor:
    """Extract the visible cells of a dense tensor, channels innermost in memory."""
    joined, apart, sizes = _patterns(layout.grid)
    cells = rearrange(images, f"b c {joined} -> {apart} c", **sizes)
    return cells.index_select(0, layout.cells).movedim(-1, 1)


def paste(values: Tensor, layout: CellLayout, fill: float) -> Tensor:
    """Return the dense tensor of visible cells; hidden voxels are `fill`."""
    cells = values.movedim(1, -1)
    whole = cells.new_full((layout.hidden.numel(), *cells.shape[1:]), fill)
    whole.index_copy_(0, layout.cells, cells)
    joined, apart, sizes = _patterns(layout.grid)
    return rearrange(whole, f"{apart} c -> b {joined} c", **sizes).movedim(-1, 1)


def _patterns(grid: Size) -> tuple[str, str, dict[str, int]]:
    """Return einops patterns of the spatial axes, joined and split into cells, and the grid sizes."""
    names = _AXES[len(grid)]
    joined = " ".join(f"(g{name} c{name})" for name in names)
    apart = f"(b {' '.join(f'g{name}' for name in names)}) {' '.join(f'c{name}' for name in names)}"
    return joined, apart, {f"g{name}": count for name, count in zip(names, grid, strict=True)}
