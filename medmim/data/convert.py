"""One stack of DICOM slices becomes one volume: dcm2niix converts it, and nothing is taken from it unchecked.

The result must lie on the grid that the headers give, and hold the values that pydicom decodes from the same
files. What is written is the array as (column, row, slice) with the affine of the headers.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dcm2niix
import numpy as np
import pydicom
from jaxtyping import Shaped
from pydicom import uid

from medmim.data import geometry
from medmim.data.accept import store
from medmim.data.nifti import Image, check_image, read_image
from medmim.data.scan import quiet_pydicom
from medmim.errors import DataError

MAX_VOXELS_OFF = 0.5
_CONVERTER_S = 300.0
_OPTIONS = (
    *("-b", "n", "-z", "n"),  # one plain volume and nothing beside it
    *("-g", "i"),  # defaults of the program, not those that a user saved at home
    *("-m", "y"),  # the slices belong together: that was decided before
    *("-x", "i", "-l", "o"),  # no cropping, turning or scaling of its own
    *("-d", "0", "-f", "volume"),
)
_LOSSY = {uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLSNearLossless, uid.JPEG2000}


class _RefusalError(Exception):
    """A conversion that is not what the headers promise."""

    def __init__(self, reason: str, **measured: float | int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.measured = {name: float(value) for name, value in measured.items()}


def convert(
    files: Sequence[str],
    affine: Sequence[Sequence[float]],
    scales: Sequence[Sequence[float]],
    staging: str,
    target: str,
) -> dict[str, Any]:
    """Convert the slices of one stack, check the volume and write it; meant for a sandbox.

    Args:
        files: paths of the slices in order along the normal.
        affine: grid of the headers, (column, row, slice) to mm in RAS.
        scales: rescale slope and intercept of each slice.
        staging: folder that this call may make and remove.
        target: path of the volume.

    Returns:
        The volume's facts, or `reason` and `measured`.
    """
    folder = Path(staging)
    try:
        expected = np.asarray(affine, np.float64)
        factors = np.asarray(scales, np.float64)
        image = _aligned(_run(files, folder, varies=_varies(factors)), expected)
        measured = _check(image, expected, files, factors)
        image = Image(_whole(image.array, factors), expected)
        check_image(image)
        return {**store(image, Path(target)), "measured": measured}
    except _RefusalError as refusal:
        return {"reason": refusal.reason, "measured": refusal.measured}
    except DataError as error:
        return {"reason": error.reason, "measured": {}}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(files: Sequence[str], folder: Path, *, varies: bool) -> Image:
    """Run dcm2niix on links with names of our own, in a folder of its own.

    Slopes that vary by slice need its precise mode, which for one slope would prefer a vendor's private one.
    """
    source, result = folder / "in", folder / "out"
    source.mkdir(parents=True)
    result.mkdir()
    for place, file in enumerate(files):
        (source / f"{place:06d}.dcm").symlink_to(file)
    try:
        status = subprocess.run(
            [dcm2niix.bin, *_OPTIONS, "-p", "y" if varies else "n", "-o", str(result), str(source)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # it prints names of series
            stderr=subprocess.DEVNULL,
            timeout=_CONVERTER_S,
            env={"HOME": str(folder), "TMPDIR": str(folder)},
            check=False,
        ).returncode
    except subprocess.TimeoutExpired as error:
        raise _RefusalError("conversion_failed", seconds=_CONVERTER_S) from error
    # Beside a volume it may write a resampled one (`_Eq`, `_Tilt`); the plain one is checked like any other.
    outputs = [
        path for path in result.glob("*.nii") if not path.stem.startswith(("volume_Eq", "volume_Tilt"))
    ]
    if len(outputs) != 1:
        raise _RefusalError("conversion_failed", outputs=len(outputs), status=status)
    return read_image(outputs[0])


def _aligned(image: Image, expected: geometry.Affine) -> Image:
    """Turn the converter's axes back to (column, row, slice)."""
    turned = geometry.along(image, expected)
    if turned is None:
        spacing = image.spacing_mm
        raise _RefusalError(
            "geometry_mismatch", spacing_0=spacing[0], spacing_1=spacing[1], spacing_2=spacing[2]
        )
    return turned


def _check(
    image: Image, expected: geometry.Affine, files: Sequence[str], scales: Shaped[np.ndarray, "slices 2"]
) -> dict[str, float]:
    """Compare slice count, corners and voxels with the headers and with pydicom's decoding."""
    count = image.array.shape[2]
    if count != len(files):
        raise _RefusalError("geometry_mismatch", slices=count, expected_slices=len(files))
    deviation = geometry.corner_distance(image.array.shape, image.affine, expected)
    if deviation > MAX_VOXELS_OFF * min(Image(image.array, expected).spacing_mm):
        raise _RefusalError("geometry_mismatch", deviation_mm=deviation)
    compared = 0
    for place, file in enumerate(files):
        decoded = _decode(file)
        if decoded is None:
            continue
        pixels, slack = decoded
        slope, intercept = scales[place]
        values = pixels.astype(np.float64) * slope + intercept
        _compare(image.array[:, :, place].T, values, slack * abs(slope), varies=_varies(scales))
        compared += 1
    return {"deviation_mm": round(deviation, 6), "slices_compared": float(compared)}


def _compare(
    got: Shaped[np.ndarray, "rows columns"],
    values: Shaped[np.ndarray, "rows columns"],
    slack: float,
    *,
    varies: bool,
) -> None:
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


def _decode(file: str) -> tuple[Shaped[np.ndarray, "rows columns"], float] | None:
    """Return a slice's stored values and the allowed difference, or None if pydicom has no decoder for it."""
    with quiet_pydicom():
        dataset = pydicom.dcmread(file, force=True)
        meta = dataset.file_meta
        if "TransferSyntaxUID" not in meta:
            implicit, _ = dataset.original_encoding
            meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
        syntax = meta.TransferSyntaxUID
        try:
            pixels = dataset.pixel_array
        except (RuntimeError, NotImplementedError, ValueError, AttributeError) as error:
            if syntax.is_encapsulated:
                return None  # no codec here; dcm2niix has its own, and the geometry is still checked
            raise _RefusalError("pixels_unreadable") from error
    if pixels.ndim != 2:
        raise _RefusalError("mixed_shape", axes=pixels.ndim)
    return pixels, 2.0 if syntax in _LOSSY else 0.0


def _varies(scales: Shaped[np.ndarray, "slices 2"]) -> bool:
    return bool((scales != scales[0]).any())


def _whole(
    array: Shaped[np.ndarray, "x y z"], scales: Shaped[np.ndarray, "slices 2"]
) -> Shaped[np.ndarray, "x y z"]:
    """Return whole numbers (Hounsfield units are) as integers again; the NIfTI reader made them floats."""
    if array.dtype.kind != "f" or not np.array_equal(scales, np.rint(scales)):
        return array
    if not np.isfinite(array).all() or np.abs(array).max() >= 2**24:
        return array
    limits = np.iinfo(np.int16)
    fits = array.min() >= limits.min and array.max() <= limits.max
    whole: Shaped[np.ndarray, "x y z"] = np.rint(array).astype(np.int16 if fits else np.int32)
    return whole
