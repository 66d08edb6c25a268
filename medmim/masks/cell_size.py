"""The size of a mask cell: voxels as they are, or millimetres as the nearest size that an encoder takes."""

from __future__ import annotations

from collections.abc import Sequence

from medmim.errors import ShapeError, UsageError
from medmim.shapes import Size, as_size

UNIT = "mm"
_USE = "give voxels, such as --cell 16"


def cell_in_voxels(wanted: Sequence[int | str], *, multiple: Size, voxel_mm: Sequence[float] | None) -> Size:
    """Return a cell in voxels; millimetres become the nearest multiple of the encoder's total stride.

    Args:
        wanted: one size or one an axis: voxels, or millimetres such as `8mm`.
        multiple: voxels that the cell must divide by along each axis, where millimetres are rounded.
        voxel_mm: millimetres of a voxel along each axis; None: not known.

    Raises:
        ShapeError: for another count of sizes, or millimetres of less than half the smallest cell.
        UsageError: for millimetres where a voxel's are not known.
    """
    dims = len(multiple)
    voxels = [size for size in wanted if isinstance(size, int)]
    if len(voxels) == len(wanted):
        return as_size(voxels, dims, what="--cell")
    words = ",".join(map(str, wanted))
    if voxel_mm is None:
        raise UsageError(
            f"--cell {words}: expected voxels of a known size in mm, which pictures and augment=resized "
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
    """Return `8×8×8 voxels = 8×8×9.6 mm`; without the second where a voxel's size is not known."""
    voxels = f"{'×'.join(map(str, cell))} voxels"
    if voxel_mm is None:
        return voxels
    lengths = (count * length for count, length in zip(cell, voxel_mm, strict=True))
    return f"{voxels} = {'×'.join(f'{length:.4g}' for length in lengths)} mm"
