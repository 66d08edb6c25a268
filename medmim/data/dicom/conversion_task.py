"""Task and result of a conversion of DICOM slices, with the last checks of its values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float64
from pydantic import BaseModel, ConfigDict, Field

from medmim.data.dicom.gantry_tilt import correct_tilt
from medmim.data.dicom.header import Kind
from medmim.data.dicom.pixel_data_element import RawPixelData
from medmim.data.dicom.pixel_padding import FILLED, fill_padding, is_padding
from medmim.data.dicom.rescale import Stored
from medmim.data.formats import geometry
from medmim.data.formats.labels import class_numbers
from medmim.data.formats.nifti import Image, check_image
from medmim.data.formats.write_volume import write_volume
from medmim.errors import DataError

MAX_VOXELS_OFF = 0.5


class ConversionTask(BaseModel):
    """Slices in order along their normal, and the file to write. Travels to a sandbox as JSON.

    Attributes:
        files: path of the file of each slice.
        frames: index of each slice in its file.
        kind: what the slices are in their files.
        size: rows and columns of a slice.
        affine: grid of the headers, (column, row, slice) to mm in RAS.
        scales: rescale slope and intercept of each slice.
        padding: range of stored values outside the scanned field of each slice; none: no slice has any.
        places: position, row direction and column direction times spacing of each slice from its own header:
            nine lengths in mm (LPS).
        raw: location of each slice's pixels, if all of them are uncompressed.
        heights_mm: positions of unevenly spaced slices along the normal, from 0.
        regrid: interpolate unevenly spaced slices on an even grid; without it they are kept as they are.
        reversed_rows: the rows are stored bottom to top, against the headers.
        staging: prefix of temporary folders.
        target: path of the volume.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: tuple[str, ...]
    frames: tuple[int, ...]
    kind: Kind
    size: tuple[int, int]
    affine: tuple[tuple[float, ...], ...]
    scales: tuple[tuple[float, float], ...]
    padding: tuple[tuple[float, float] | None, ...] = ()
    places: tuple[tuple[float, ...], ...] = ()
    raw: tuple[RawPixelData, ...] = ()
    heights_mm: tuple[float, ...] = ()
    regrid: bool = False
    reversed_rows: bool = False
    staging: str
    target: str

    @property
    def grid(self) -> geometry.Affine:
        """The affine as an array."""
        return np.asarray(self.affine, np.float64)


class ConversionResult(BaseModel):
    """A written volume, or the reason of its refusal; `measured` contains the numbers that show either.

    `label_like`: the values are background and a few classes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str = ""
    measured: dict[str, float] = Field(default_factory=dict)
    repairs: tuple[str, ...] = ()
    flags: dict[str, str] = Field(default_factory=dict)
    shape: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    orientation: str = ""
    sha256: str = ""
    pixels_sha256: str = ""
    perceptual_hash: str | None = None
    label_like: bool = False


def deviation_mm(task: ConversionTask) -> float:
    """Return the largest distance of slices' corners, from their own headers, to the grid of the task.

    Raises:
        DataError: with reason geometry_mismatch, if it is more than half a voxel.
    """
    grid, count = task.grid, len(task.files)
    planned = np.tile(np.concatenate([grid[:3, 3], grid[:3, 0], grid[:3, 1]]), (count, 1))
    step = grid[:3, 2]
    if task.heights_mm:
        planned[:, :3] += np.outer(task.heights_mm, step / np.linalg.norm(step))
    else:
        planned[:, :3] += np.arange(count)[:, None] * step
    planned *= np.tile([-1.0, -1.0, 1.0], 3)  # RAS to LPS
    places = np.asarray(task.places, np.float64)
    difference = geometry.slice_corners(places, task.size) - geometry.slice_corners(planned, task.size)
    deviation = float(np.linalg.norm(difference, axis=2).max())
    if deviation > MAX_VOXELS_OFF * float(np.linalg.norm(grid[:3, :3], axis=0).min()):
        raise MeasuredError("geometry_mismatch", deviation_mm=deviation)
    return deviation


class MeasuredError(DataError):
    """A refusal with the numbers that show why."""

    def __init__(self, reason: str, **measured: float) -> None:
        super().__init__(f"conversion refused: {reason}", reason=reason)
        self.measured = measured


def refusal(error: DataError) -> ConversionResult:
    """Return the result of a conversion that was refused."""
    return ConversionResult(reason=error.reason, measured=getattr(error, "measured", {}))


def finish(values: Stored, task: ConversionTask, measured: dict[str, float]) -> ConversionResult:
    """Bring values to an even grid with axes at right angles, check the volume and write it.

    Raises:
        DataError: if nothing could be learnt from the volume.
    """
    repairs: tuple[str, ...] = ()
    if task.padding:
        values = np.array(values)  # those of dcm2niix cannot be written
        outside = is_padding(values, task.padding, np.asarray(task.scales))
        if filled := fill_padding(values, outside):
            repairs, measured = (FILLED,), measured | {FILLED: float(filled)}
    array = values[:, ::-1] if task.reversed_rows else values
    image = Image(array.transpose(2, 1, 0), task.grid)
    if task.heights_mm and task.regrid:
        image = _regridded(image, np.asarray(task.heights_mm))
        measured = measured | {"regridded_slices": float(image.array.shape[2])}
    image = correct_tilt(image)
    check_image(image)
    written = write_volume(image, Path(task.target))
    like_label = bool(class_numbers(image.array))
    return ConversionResult(**written, repairs=repairs, measured=measured, label_like=like_label)


def _regridded(image: Image, heights: Float64[np.ndarray, "slices"]) -> Image:
    """Interpolate unevenly spaced slices linearly on a grid with the smallest of their steps."""
    step = float(np.diff(heights).min())
    count = round(float(heights[-1]) / step) + 1
    targets = np.linspace(0.0, heights[-1], count)
    above = np.clip(np.searchsorted(heights, targets, side="left"), 1, len(heights) - 1)
    weights = (targets - heights[above - 1]) / (heights[above] - heights[above - 1])
    array = np.empty((*image.array.shape[:2], count), np.float32)
    for place, (upper, weight) in enumerate(zip(above, weights, strict=True)):
        low, high = image.array[:, :, upper - 1], image.array[:, :, upper]
        array[:, :, place] = low * (1.0 - weight) + high * weight
    if image.array.dtype.kind in "iu":
        array = np.rint(array).astype(image.array.dtype)
    affine = image.affine.copy()
    affine[:3, 2] *= targets[1] / float(np.linalg.norm(affine[:3, 2]))
    return Image(array, affine)
