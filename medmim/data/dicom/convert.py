"""One stack of DICOM slices becomes one volume through dcm2niix, of which nothing is taken unchecked.

The result must lie on the grid that the headers give, and hold the values that pydicom decodes from the same
files. Where dcm2niix gives no single volume, pydicom's values are placed on that grid. What is written is the
array as (column, row, slice) with the affine of the headers. Uncompressed slices do not come here, but to
`raw_stack`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from medmim.data.dicom.dcm2niix import FdLinks, run_converter
from medmim.data.dicom.decode import Pixels, Reader, write_alone
from medmim.data.dicom.gantry_tilt import is_tilted, upright
from medmim.data.dicom.header import Kind
from medmim.data.formats import geometry
from medmim.data.formats.nifti import Image, check_image
from medmim.data.formats.safe_open import is_plain
from medmim.data.formats.write_volume import write_volume
from medmim.errors import DataError

MAX_VOXELS_OFF = 0.5
Scales = Shaped[np.ndarray, "slices 2"]


class _RefusalError(Exception):
    """A conversion that is not what the headers promise."""

    def __init__(self, reason: str, **measured: float | int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.measured = {name: float(value) for name, value in measured.items()}


@dataclass(frozen=True)
class _AssembledVolume:
    """Slices in order along their normal: file, frame and scale of each; size; the headers' grid."""

    kind: Kind
    files: Sequence[str]
    frames: Sequence[int]
    size: tuple[int, int]
    affine: geometry.Affine
    scales: Scales

    def __len__(self) -> int:
        return len(self.files)


def convert(
    files: Sequence[str],
    affine: Sequence[Sequence[float]],
    scales: Sequence[Sequence[float]],
    *,
    staging: str,
    target: str,
    size: Sequence[int],
    frames: Sequence[int] | None = None,
    kind: Kind = "slice",
) -> dict[str, Any]:
    """Convert the slices of one stack, check the volume and write it; meant for a sandbox.

    Args:
        files: path of the file of each slice, in order along the normal.
        affine: grid of the headers, (column, row, slice) to mm in RAS.
        scales: rescale slope and intercept of each slice.
        staging: how folders that this call makes and removes are called; each attempt has one of its own.
        target: path of the volume.
        size: rows and columns of a slice.
        frames: place of each slice in its file; the first without it.
        kind: what slices are in their files.

    Returns:
        The volume's facts, or `reason` and `measured`.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{Path(staging).name}.", dir=Path(staging).parent))
    rows, columns = size
    stack = _AssembledVolume(
        kind,
        files,
        frames or [0] * len(files),
        (rows, columns),
        np.asarray(affine, np.float64),
        np.asarray(scales, np.float64),
    )
    try:
        image, measured = _checked(stack, folder)
        image = upright(Image(_whole(image.array, stack.scales), stack.affine))
        check_image(image)
        return {**write_volume(image, Path(target)), "measured": measured}
    except _RefusalError as refusal:
        return {"reason": refusal.reason, "measured": refusal.measured}
    except DataError as error:
        return {"reason": error.reason, "measured": {}}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _checked(stack: _AssembledVolume, folder: Path) -> tuple[Image, dict[str, float]]:
    """Return the converter's volume once it is checked, or the one that pydicom decodes."""
    nothing = {"deviation_mm": 0.0, "slices_compared": 0.0}
    if is_tilted(
        stack.affine, len(stack)
    ):  # of these dcm2niix writes a volume with another grid, and one it resampled
        return _assembled(stack, "tilt"), nothing
    with FdLinks(len(stack)) as links:
        _lay_out(stack, folder / "in", links)
        converted = run_converter(folder / "in", folder / "out", precise=_varies(stack.scales))
    if converted is None:
        return _assembled(stack, "conversion_failed"), nothing
    image = _aligned(converted, stack.affine)
    return image, _check(image, stack)


def _assembled(stack: _AssembledVolume, reason: str) -> Image:
    """Return pydicom's values on the grid of the headers; without all of them, refuse for `reason`."""
    reader = Reader(stack.kind)
    array = np.empty((stack.size[1], stack.size[0], len(stack)), np.float32)
    for place, (file, frame) in enumerate(zip(stack.files, stack.frames, strict=True)):
        decoded = reader.decode(file, frame, stack.size)
        if decoded is None:
            raise _RefusalError(reason)
        slope, intercept = stack.scales[place]
        array[:, :, place] = (decoded[0].astype(np.float64) * slope + intercept).T
    return Image(array, stack.affine)


def _lay_out(stack: _AssembledVolume, source: Path, links: FdLinks) -> None:
    """Give the converter one file a slice: a link, or a copy of the slice alone where it needs one."""
    source.mkdir()
    if stack.kind == "tile":
        links.link(source / "000000.dcm", Path(stack.files[0]))
        return
    reader = Reader(stack.kind)
    for place, (file, frame) in enumerate(zip(stack.files, stack.frames, strict=True)):
        target = source / f"{place:06d}.dcm"
        if stack.kind == "slice" and is_plain(Path(file)):
            links.link(target, Path(file))
            continue
        grid = stack.affine.copy()
        grid[:3, 3] += place * grid[:3, 2]
        slope, intercept = stack.scales[place]
        scale = float(slope), float(intercept)
        write_alone(reader.open(file), frame, place=grid, scale=scale, target=target, number=place + 1)


def _aligned(image: Image, expected: geometry.Affine) -> Image:
    """Turn the converter's axes back to (column, row, slice)."""
    turned = geometry.align_axes(image, expected)
    if turned is None:
        spacing = image.spacing_mm
        raise _RefusalError(
            "geometry_mismatch", spacing_0=spacing[0], spacing_1=spacing[1], spacing_2=spacing[2]
        )
    return turned


def _check(image: Image, stack: _AssembledVolume) -> dict[str, float]:
    """Compare slice count, corners and voxels with the headers and with pydicom's decoding."""
    count = image.array.shape[2]
    if count != len(stack):
        raise _RefusalError("geometry_mismatch", slices=count, expected_slices=len(stack))
    deviation = geometry.corner_distance(image.array.shape, image.affine, stack.affine)
    if deviation > MAX_VOXELS_OFF * min(Image(image.array, stack.affine).spacing_mm):
        raise _RefusalError("geometry_mismatch", deviation_mm=deviation)
    compared = 0
    reader = Reader(stack.kind)
    for place, (file, frame) in enumerate(zip(stack.files, stack.frames, strict=True)):
        decoded = reader.decode(file, frame, stack.size)
        if decoded is None:
            continue
        pixels, slack = decoded
        slope, intercept = stack.scales[place]
        got = image.array[:, :, place].T
        if not _same_integers(got, pixels, slope, intercept):
            values = pixels.astype(np.float64) * slope + intercept
            _compare(got, values, slack * abs(slope), varies=_varies(stack.scales))
        compared += 1
    return {"deviation_mm": round(deviation, 6), "slices_compared": float(compared)}


def _same_integers(got: Pixels, pixels: Pixels, slope: float, intercept: float) -> bool:
    """Compare the quick way, which is enough for most slices: whole numbers, shifted by a whole number."""
    if slope != 1 or intercept != round(intercept) or got.shape != pixels.shape or pixels.dtype.itemsize > 2:
        return False
    return bool((got == pixels.astype(np.int32) + np.int32(intercept)).all())


def _compare(got: Pixels, values: Pixels, slack: float, *, varies: bool) -> None:
    """Refuse a slice whose values differ by more than float32 rounding and `slack` (lossy compression)."""
    if got.shape != values.shape:
        raise _RefusalError("mixed_shape", rows=values.shape[0], columns=values.shape[1])
    largest = float(np.abs(values).max())
    difference = float(np.abs(got.astype(np.float64) - values).max())
    exact = np.array_equal(values, np.rint(values)) and largest < 2**24
    if not difference <= slack + (0.0 if exact and not varies else 1e-6 * largest):
        raise _RefusalError(
            "rescale_varies" if varies else "voxels_differ", difference=difference, largest=largest
        )


def _varies(scales: Scales) -> bool:
    return bool((scales != scales[0]).any())


def _whole(array: Shaped[np.ndarray, "x y z"], scales: Scales) -> Shaped[np.ndarray, "x y z"]:
    """Return whole numbers (Hounsfield units are) as integers again; the NIfTI reader made them floats."""
    if array.dtype.kind != "f" or not np.array_equal(scales, np.rint(scales)):
        return array
    if not np.isfinite(array).all() or np.abs(array).max() >= 2**24:
        return array
    limits = np.iinfo(np.int16)
    fits = array.min() >= limits.min and array.max() <= limits.max
    whole: Shaped[np.ndarray, "x y z"] = np.rint(array).astype(np.int16 if fits else np.int32)
    return whole
