"""The geometry of sliding windows on cells: their halo, and whether their output fits the same grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medmim.encoders.packed.cells import Axis, HaloTranspose, PackedCells, Window
from medmim.encoders.tensor_like import ADVICE
from medmim.errors import ShapeError, size_text
from medmim.shapes import Size


@dataclass(frozen=True)
class WindowGeometry:
    """The window of a convolution or pooling on cells; all values are per axis.

    Attributes:
        cell: voxels of an input cell.
        out: voxels of an output cell.
        before: padding before the first voxel.
    """

    cell: Size
    out: Size
    kernel: Size
    stride: Size
    dilation: Size
    before: Size

    @property
    def stays_inside(self) -> bool:
        """Whether all windows are inside their cell."""
        return all(lead == 0 and width <= cell for lead, width, cell in self._halo_sizes)

    @property
    def windows(self) -> tuple[Axis, ...]:
        """Reads of each output voxel, one tap per kernel position."""
        return tuple(
            Window(out, cell, before, taps=k, step=s, dilation=d) for out, cell, k, s, d, before in self._axes
        )

    @property
    def halo(self) -> tuple[Axis, ...]:
        """Reads of a cell and its halo."""
        return tuple(Window(width, cell, lead) for lead, width, cell in self._halo_sizes)

    @property
    def halo_space(self) -> Size:
        """Voxels of a cell with its halo."""
        return tuple(width for _, width, _ in self._halo_sizes)

    @property
    def halo_back(self) -> tuple[Axis, ...]:
        """Copies of each voxel in the haloed cells: the transpose of `halo`."""
        return tuple(HaloTranspose(cell, lead, width) for lead, width, cell in self._halo_sizes)

    @property
    def gradient_halo(self) -> tuple[Axis, ...]:
        """Output voxels, including those of neighbouring cells, that read a cell."""
        return tuple(Window(width, out, lead) for lead, width, out, _, _ in self._gradient_sizes)

    @property
    def gradient_space(self) -> Size:
        """Size of the input, starting with the cell, of which `gradient_halo` is the convolution output."""
        return tuple(space for _, _, _, space, _ in self._gradient_sizes)

    @property
    def gradient_padding(self) -> Size:
        """Padding of that convolution."""
        return tuple(padding for _, _, _, _, padding in self._gradient_sizes)

    @property
    def gradient_halo_space(self) -> Size:
        """Voxels of `gradient_halo` along each axis."""
        return tuple(width for _, width, _, _, _ in self._gradient_sizes)

    @property
    def _axes(self) -> list[tuple[int, ...]]:
        sizes = (self.out, self.cell, self.kernel, self.stride, self.dilation, self.before)
        return list(zip(*sizes, strict=True))

    @property
    def _halo_sizes(self) -> list[tuple[int, ...]]:
        """Return voxels before the cell, total voxels with halo, and voxels of the cell."""
        return [(before, s * (out - 1) + d * (k - 1) + 1, cell) for out, cell, k, s, d, before in self._axes]

    @property
    def _gradient_sizes(self) -> list[tuple[int, ...]]:
        """Return voxels before, total voxels, the output cell, and input size and padding of the convolution.

        Output voxel o reads s·o − before … + d·(k − 1). The outputs that touch voxels 0 … cell − 1 are those
        of a convolution of the symmetrically padded cell; where its size does not match, the cell is extended
        at its end and cropped later.
        """
        found: list[tuple[int, ...]] = []
        for out, cell, k, s, d, before in self._axes:
            width = d * (k - 1)
            lead = (width - before) // s
            padding = s * lead + before
            last = (cell - 1 + before) // s
            count = max(last + lead + 1, (cell + 2 * padding - width - 1) // s + 1)
            found.append((lead, count, out, max(cell, s * (count - 1) + width + 1 - 2 * padding), padding))
        return found


def window_geometry(
    name: str,
    value: PackedCells,
    *,
    kernel: Sequence[int],
    stride: int | Sequence[int],
    padding: str | int | Sequence[int],
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
) -> WindowGeometry:
    """Return a window's geometry, after checking that its output divides into the same cells.

    Raises:
        ShapeError: if the stride does not divide the cell, or the output has another size than input /
            stride.
    """
    steps, spread = _each(stride, value.dims), _each(dilation, value.dims)
    widths = tuple(d * (k - 1) for d, k in zip(spread, kernel, strict=True))
    before, padded = _padding(padding, widths)
    if any(cell % step for cell, step in zip(value.cell, steps, strict=True)):
        raise ShapeError(
            f"'{name}' with stride {size_text(steps)} on packed cells of {size_text(value.cell)} voxels: "
            "expected a stride that divides the cell; use --cell with a multiple of the encoder's total "
            "stride"
        )
    sizes = zip(value.space, padded, widths, steps, strict=True)
    rounding = [step - 1 if ceil_mode else 0 for step in steps]
    result = [
        (length + total - width - 1 + up) // step + 1
        for (length, total, width, step), up in zip(sizes, rounding, strict=True)
    ]
    expected = [length // step for length, step in zip(value.space, steps, strict=True)]
    if result != expected:
        raise ShapeError(
            f"'{name}' with kernel {size_text(kernel)}, stride {size_text(steps)} maps "
            f"{size_text(value.space)} voxels to {size_text(result)}: packed cells need "
            f"{size_text(expected)}; change its padding, {ADVICE}"
        )
    out = tuple(cell // step for cell, step in zip(value.cell, steps, strict=True))
    return WindowGeometry(value.cell, out, tuple(kernel), steps, spread, before)


def _padding(padding: str | int | Sequence[int], widths: Size) -> tuple[Size, Size]:
    """Return the padding before the first voxel, and the total padding, along each axis."""
    if padding == "valid":
        padding = 0
    if isinstance(padding, str):
        return tuple(width // 2 for width in widths), widths
    before = _each(padding, len(widths))
    return before, tuple(2 * size for size in before)


def _each(value: int | Sequence[int], dims: int) -> Size:
    sizes = (value,) if isinstance(value, int) else tuple(value)
    return sizes * dims if len(sizes) == 1 else sizes
