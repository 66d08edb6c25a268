"""Packed values: visible cells as a batch of small maps, and the layout that values of a forward share.

A table of a layout lists, for every entry that an operation reads, the row (a voxel of a visible cell) to
gather. Tables depend on the mask and the operation's window only; they are cached in the layout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from medmim.encoders.tensor_like import TensorLike
from medmim.errors import ShapeError
from medmim.shapes import Hidden, Size

_HIDDEN, _OUTSIDE = -1, -2
Entry = tuple[int, int] | None  # (offset in cells, voxel within that cell) along an axis; None: nothing


@dataclass(frozen=True)
class Window:
    """Entry i, tap t reads voxel step·i + dilation·t − before of the own cell's frame.

    Attributes:
        entries: number of entries per cell.
        source: voxels of an input cell; positions beyond it are in neighbouring cells.
        before: voxels before the cell that the first entry reads.
        taps, step, dilation: size, stride and dilation of the window.
    """

    entries: int
    source: int
    before: int
    taps: int = 1
    step: int = 1
    dilation: int = 1

    def places(self) -> tuple[tuple[Entry, ...], ...]:
        """Return the source of each entry and tap."""
        return tuple(tuple(self._place(i, t) for t in range(self.taps)) for i in range(self.entries))

    def _place(self, entry: int, tap: int) -> Entry:
        return divmod(self.step * entry + self.dilation * tap - self.before, self.source)


@dataclass(frozen=True)
class HaloTranspose:
    """The transpose of a halo: entry i reads all its copies in the haloed cells around it.

    Attributes:
        entries: voxels of a cell along this axis.
        before: voxels of halo before a cell.
        source: voxels of a cell with its halo.
    """

    entries: int
    before: int
    source: int

    def places(self) -> tuple[tuple[Entry, ...], ...]:
        """Return the copies of each entry."""
        after = self.source - self.before - self.entries
        nearest, farthest = (max(-(-width // self.entries), 0) for width in (after, self.before))
        reach = range(-nearest, farthest + 1)
        return tuple(tuple(self._place(i, away) for away in reach) for i in range(self.entries))

    def _place(self, entry: int, away: int) -> Entry:
        within = entry - away * self.entries + self.before  # relative to the cell that contains the copy
        return (away, within) if 0 <= within < self.source else None


# the reads of an operation along one axis: one row per entry, one column per tap
Axis = Window | HaloTranspose


class CellLayout:
    """The visible cells of a batch in grid order, sample after sample.

    Attributes:
        hidden: (batch, *grid), True = hidden.
        batch, grid: number of samples, and cells along each axis.
        cells: index of each visible cell among all cells of the batch.
        sample: index of each visible cell's sample.
        counts: number of visible cells of each sample.

    Raises:
        ShapeError: if a sample has no visible cell.
    """

    def __init__(self, hidden: Hidden) -> None:
        self.hidden = hidden
        self.batch, self.grid = hidden.shape[0], tuple(hidden.shape[1:])
        self.cells: Int[Tensor, " visible"] = (~hidden).flatten().nonzero().squeeze(1)
        self.sample: Int[Tensor, " visible"] = self.cells // prod(self.grid)
        self.counts: tuple[int, ...] = tuple((~hidden).flatten(1).sum(1).tolist())
        if not all(self.counts):
            raise ShapeError("expected visible cells in every sample, got one all hidden: lower --ratio")
        self._tables: dict[tuple[Axis, ...], Tensor] = {}
        self._slots: Tensor | None = None

    @property
    def slots(self) -> Int[Tensor, " all_cells"]:
        """Index of every cell of the batch among the visible ones; their number for hidden cells."""
        if self._slots is None:
            self._slots = torch.full((self.hidden.numel(),), len(self.cells), device=self.cells.device)
            self._slots[self.cells] = torch.arange(len(self.cells), device=self.cells.device)
        return self._slots

    def table(self, axes: tuple[Axis, ...]) -> Int[Tensor, "visible entries taps"]:
        """Return the source row of each entry and tap.

        Rows are the voxels of the visible cells in order. The row after the last represents hidden voxels,
        the next one voxels outside the image.
        """
        if axes not in self._tables:
            self._tables[axes] = self._make(axes)
        return self._tables[axes]

    def _make(self, axes: Sequence[Axis]) -> Tensor:
        dims, device = len(axes), self.cells.device
        cell = torch.zeros([1] * (2 * dims), dtype=torch.long, device=device)  # index among the neighbours
        voxel, exists = cell, cell == 0  # voxel within that cell; whether the entry exists
        around: list[list[int]] = []
        for number, axis in enumerate(axes):
            places = axis.places()
            away = sorted({place[0] for row in places for place in row if place} or {0})
            entries = [[away.index(p[0]) if p else 0 for p in row] for row in places]
            within = [[p[1] if p else -1 for p in row] for row in places]
            shape = [1] * (2 * dims)
            shape[number], shape[dims + number] = len(places), len(places[0])
            steps = torch.tensor(within, device=device).reshape(shape)
            cell = cell * len(away) + torch.tensor(entries, device=device).reshape(shape)
            voxel = voxel * axis.source + steps.clamp(min=0)
            exists = exists & (steps >= 0)
            around.append(away)
        neighbours, size = self._neighbours(around), prod(axis.source for axis in axes)
        found = neighbours[:, cell.flatten()]
        absent = len(self.cells) * size
        rows = torch.where(found >= 0, found * size + voxel.flatten(), absent + (found == _OUTSIDE))
        rows = torch.where(exists.flatten(), rows, absent)
        taps = prod(cell.shape[dims:])
        return rows.to(torch.int32).reshape(len(self.cells), -1, taps)

    def _neighbours(self, around: Sequence[Sequence[int]]) -> Int[Tensor, "visible places"]:
        """Return the indices of neighbours at given offsets along each axis; negative where not visible."""
        numbers = torch.where(self.hidden.flatten(), _HIDDEN, self.slots).reshape(self.batch, *self.grid)
        reach = [max(abs(step) for step in away) for away in around]
        padding = [n for n in reversed(reach) for _ in range(2)]
        numbers = F.pad(numbers, padding, value=_OUTSIDE)
        places: list[Tensor] = [self.sample.reshape(-1, *[1] * len(around))]
        rest = self.cells % prod(self.grid)
        for number, (away, margin) in enumerate(zip(around, reach, strict=True)):
            below = prod(self.grid[number + 1 :])
            here, rest = rest // below, rest % below
            shape = [1] * len(around)
            shape[number] = len(away)
            steps = torch.tensor(away, device=self.cells.device).reshape(1, *shape)
            places.append(here.reshape(-1, *[1] * len(around)) + margin + steps)
        return numbers[tuple(places)].flatten(1)


Rows = Shaped[Tensor, "rows channels"]

_AXES = {2: ("y", "x"), 3: ("z", "y", "x")}


class PackedCells(TensorLike):
    """The visible cells of a map, stacked along the batch axis.

    Attributes:
        values: (visible cells, channels, *voxels of a cell), channels innermost in memory: halos are gathered
            as rows of channels, and CPUs convolve that order fastest.
        layout: position of these cells in the images.
    """

    noun: ClassVar[str] = "packed cells"

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

    @property
    def stored(self) -> Tensor:
        """The visible cells, channels first."""
        return self.values

    def like(self, stored: Tensor) -> PackedCells:
        """Return a value with the same cells and other contents."""
        return type(self)(stored, self.layout, last=self.last)

    def reordered(self, *, last: bool) -> PackedCells:
        """Return this value with another axis order."""
        return type(self)(self.values, self.layout, last=last)

    def operand(self, func: Callable[..., Any], other: Any) -> Any:
        """Return the cells of a packed value, or what broadcasts against those of this one."""
        if isinstance(other, PackedCells):
            return other.values
        return per_sample(self, other) if isinstance(other, Tensor) and other.dim() else other

    def from_rows(self, rows: Tensor, cell: Size | None = None) -> PackedCells:
        """Return a value whose voxels are `rows`, with cells of `cell` voxels; None: as here."""
        return self.like(cells_from_rows(rows, self.cell if cell is None else cell))


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
