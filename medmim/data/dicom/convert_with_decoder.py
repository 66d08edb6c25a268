"""Conversion of slices that need a decoder. Compressed slices are decoded twice, by pydicom and by dcm2niix.

Values come from pydicom, or from SimpleITK or dcm2niix where pydicom has no decoder; the grid comes from the
headers. dcm2niix's volume must lie on that grid and have the same values.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from pydantic import validate_call

from medmim.data.dicom.conversion_task import (
    MAX_VOXELS_OFF,
    ConversionResult,
    ConversionTask,
    MeasuredError,
    deviation_mm,
    finish,
    refusal,
)
from medmim.data.dicom.dcm2niix import FdLinks, run_converter
from medmim.data.dicom.decode import Reader, write_frame
from medmim.data.dicom.gantry_tilt import is_tilted
from medmim.data.dicom.rescale import Scales, Stored, rescale
from medmim.data.formats import geometry
from medmim.data.formats.nifti import Image
from medmim.data.formats.safe_open import is_plain
from medmim.errors import DataError


@validate_call
def convert_with_decoder(task: ConversionTask) -> ConversionResult:
    """Decode the slices of one stack, check the volume and write it; runs in a sandbox."""
    folder = Path(tempfile.mkdtemp(prefix=f"{Path(task.staging).name}.", dir=Path(task.staging).parent))
    try:
        measured = {"deviation_mm": round(deviation_mm(task), 6)}
        values, compared = _checked_values(task, folder)
        return finish(values, task, measured | compared)
    except DataError as error:
        return refusal(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _checked_values(task: ConversionTask, folder: Path) -> tuple[Stored, dict[str, float]]:
    """Return the values of all slices, and how many of them two decoders agree on."""
    scales = np.asarray(task.scales, np.float64)
    decoded, slack, compressed = _decode(task)
    if decoded is not None and not compressed:
        return rescale(decoded, scales), {"slices_uncompressed": float(len(task.files))}
    resampled = bool(task.heights_mm) or is_tilted(task.grid, len(task.files))  # by dcm2niix
    image = None if resampled else _run_dcm2niix(task, scales, folder)
    if image is not None and task.kind == "tile" and image.array.shape[2] != len(task.files):
        image = None  # a mosaic that dcm2niix does not recognise
    if image is not None:
        _check_grid(image, task)
    if decoded is None:
        if image is None:
            raise MeasuredError("conversion_failed")
        return image.array.transpose(2, 1, 0), {"slices_compared": 0.0}
    values = rescale(decoded, scales)
    if image is not None:
        _compare(image, values, scales, slack)
    return values, {"slices_compared": float(len(task.files) if image is not None else 0)}


def _decode(task: ConversionTask) -> tuple[Stored | None, float, bool]:
    """Return stored values (None without decoder), how far decoders may differ, and if any is compressed."""
    reader, decoded, slack, compressed = Reader(task.kind), [], 0.0, False
    for file, frame in zip(task.files, task.frames, strict=True):
        found = reader.decode(file, frame, task.size)
        compressed |= reader.open(file).file_meta.TransferSyntaxUID.is_encapsulated
        if found is None:
            return None, slack, True
        decoded.append(found[0])
        slack = max(slack, found[1])
    return np.stack(decoded), slack, compressed


def _run_dcm2niix(task: ConversionTask, scales: Scales, folder: Path) -> Image | None:
    """Return dcm2niix's volume with its axes turned to (column, row, slice), or None if there is none."""
    with FdLinks(len(task.files)) as links:
        _lay_out(task, folder / "in", links)
        converted = run_converter(folder / "in", folder / "out", precise=_varies(scales))
    if converted is None:
        return None
    turned = geometry.align_axes(converted, task.grid)
    if turned is None:
        spacing = {f"spacing_{axis}": length for axis, length in enumerate(converted.spacing_mm)}
        raise MeasuredError("geometry_mismatch", **spacing)
    return turned


def _lay_out(task: ConversionTask, source: Path, links: FdLinks) -> None:
    """Give the converter one file for each slice: a link, or a copy of the slice alone where it needs one."""
    source.mkdir()
    if task.kind == "tile":
        links.link(source / "000000.dcm", Path(task.files[0]))
        return
    reader = Reader(task.kind)
    for place, (file, frame) in enumerate(zip(task.files, task.frames, strict=True)):
        target = source / f"{place:06d}.dcm"
        if task.kind == "slice" and is_plain(Path(file)):
            links.link(target, Path(file))
            continue
        grid = task.grid
        grid[:3, 3] += place * grid[:3, 2]
        write_frame(
            reader.open(file), frame, place=grid, scale=task.scales[place], target=target, number=place + 1
        )


def _check_grid(image: Image, task: ConversionTask) -> None:
    """Compare the number of slices and the corners of dcm2niix's volume with the headers."""
    count = image.array.shape[2]
    if count != len(task.files):
        raise MeasuredError("geometry_mismatch", slices=count, expected_slices=len(task.files))
    deviation = geometry.corner_distance(image.array.shape, image.affine, task.grid)
    if deviation > MAX_VOXELS_OFF * min(Image(image.array, task.grid).spacing_mm):
        raise MeasuredError("geometry_mismatch", deviation_mm=deviation)


def _compare(image: Image, values: Stored, scales: Scales, slack: float) -> None:
    """Refuse values that differ by more than float32 rounding and `slack` (lossy compression)."""
    varies = _varies(scales)
    for place, (expected, (slope, _)) in enumerate(zip(values, scales, strict=True)):
        got = image.array[:, :, place].T
        if got.shape != expected.shape:
            raise MeasuredError("mixed_shape", rows=expected.shape[0], columns=expected.shape[1])
        largest = float(np.abs(expected.astype(np.float64)).max())
        difference = float(np.abs(got.astype(np.float64) - expected).max())
        exact = expected.dtype.kind in "iu" and not varies
        if not difference <= slack * abs(slope) + (0.0 if exact else 2e-6 * largest):
            reason = "rescale_varies" if varies else "voxels_differ"
            raise MeasuredError(reason, difference=difference, largest=largest)


def _varies(scales: Scales) -> bool:
    return bool((scales != scales[0]).any())
