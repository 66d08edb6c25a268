"""The size of a mask cell, given in voxels or in millimetres."""

from __future__ import annotations

from collections.abc import Sequence

from medmim.errors import ShapeError, UsageError
from medmim.shapes import Size, as_size

UNIT = "mm"
_USE = "give voxels, such as --cell 16"


def cell_in_voxels(
    wanted: Sequence[int | str] | None, *, multiple: Size, voxel_mm: Sequence[float] | None
) -> Size:
    """Return the cell size in voxels; millimetres are rounded to a multiple of the encoder's total stride.

    Args:
        wanted: one size, or one per axis: voxels, or millimetres such as `8mm`; None: the total stride.
        multiple: total stride along each axis, the step to which millimetres are rounded.
        voxel_mm: voxel size along each axis in mm; None: unknown.

    Raises:
        ShapeError: for a wrong number of sizes, or a size below half the smallest possible cell.
        UsageError: for millimetres where the voxel size is unknown.
    """
    if wanted is None:
        return multiple
    dims = len(multiple)
    voxels = [size for size in wanted if isinstance(size, int)]
    if len(voxels) == len(wanted):
        return as_size(voxels, dims, what="--cell")
    words = ",".join(map(str, wanted))
    if voxel_mm is None:
        raise UsageError(
            f"--cell {words}: expected voxels of a known size in mm, which 2D images and augment=resized "
            f"do not have; {_USE}"
        )
    lengths = [float(str(size).removesuffix(UNIT)) for size in wanted]
    if len(lengths) not in (1, dims):
        raise ShapeError(f"--cell {words}: expected one or {dims} sizes in mm, got {len(lengths)}")
    lengths = lengths * dims if len(lengths) == 1 else lengths
    smallest = [size * step for size, step in zip(voxel_mm, multiple, strict=True)]
    if any(length < least / 2 for length, least in zip(lengths, smallest, strict=True)):
        fitting = ",".join(f"{least:g}{UNIT}" for least in smallest)
        raise ShapeError(
            f"--cell {words}: expected cells of about {fitting} or more, the encoder's total stride "
            f"{'×'.join(map(str, multiple))} in mm; use --cell {fitting}, or an encoder with a smaller stride"
        )
    steps = [max(round(length / least), 1) for length, least in zip(lengths, smallest, strict=True)]
    return tuple(count * step for count, step in zip(steps, multiple, strict=True))


def cell_words(cell: Size, voxel_mm: Sequence[float] | None) -> str:
    """Format a cell as `8×8×8 voxels = 8×8×9.6 mm`, without millimetres where the voxel size is unknown."""
    voxels = f"{'×'.join(map(str, cell))} voxels"
    if voxel_mm is None:
        return voxels
    lengths = (count * length for count, length in zip(cell, voxel_mm, strict=True))
    return f"{voxels} = {'×'.join(f'{length:.4g}' for length in lengths)} mm"
