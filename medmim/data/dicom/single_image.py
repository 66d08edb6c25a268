"""One DICOM picture (radiograph, ultrasound, a lone slice) becomes one image of (columns, rows, 1)."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from jaxtyping import Shaped
from pydicom.pixels import apply_color_lut, pixel_array

from medmim.data.dicom.dcm2niix import run_converter
from medmim.data.dicom.decode import PIXEL_TAGS, has_decoder, write_alone
from medmim.data.dicom.header import number
from medmim.data.formats.geometry import align_axes
from medmim.data.formats.nifti import Image, check_image
from medmim.data.formats.safe_open import quiet_pydicom, read_dicom
from medmim.data.formats.write_volume import write_volume
from medmim.errors import DataError

_TAGS = (
    *PIXEL_TAGS, "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence",
    "PresentationLUTShape", "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData", "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
)  # fmt: skip
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, the weights of the standard's own YBR
Grey = Shaped[np.ndarray, "rows columns"]


def convert_picture(
    file: str, frame: int, *, affine: Sequence[Sequence[float]], staging: str, target: str
) -> dict[str, Any]:
    """Decode a picture, give its values their meaning and write it; meant for a sandbox.

    The modality's table or slope is applied, then a table of interest if there is one. A window is not: it
    clips values that a network may want. MONOCHROME1 is turned over, so that more is brighter everywhere.

    Args:
        file: path of the file.
        frame: place of the picture in it.
        affine: (column, row, 0) to mm in RAS.
        staging: how a folder that this call makes and removes is called; each attempt has one of its own.
        target: path of the image.

    Returns:
        The image's facts, `repairs` and `flags`, or `reason` and `measured`.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{Path(staging).name}.", dir=Path(staging).parent))
    grid = np.asarray(affine, np.float64)
    try:
        dataset = read_dicom(Path(file), _TAGS)
        with quiet_pydicom():
            pixels, repairs, flags = _decoded(dataset, frame, folder)
            if pixels.ndim == 2:
                pixels, turned = _meaning(pixels, dataset)
                flags |= turned
        array = _smallest(_grey(pixels)).T[..., None]
        check_image(Image(np.repeat(array, 2, axis=2), grid))  # a lone slice is no fault here
        image = Image(array, grid)
        measured = {"slices_compared": float(not flags.pop("one_decoder", ""))}
        return {**write_volume(image, Path(target)), "repairs": repairs, "flags": flags, "measured": measured}
    except DataError as error:
        return {"reason": error.reason, "measured": {}}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _decoded(
    dataset: pydicom.FileDataset, frame: int, folder: Path
) -> tuple[Shaped[np.ndarray, "..."], list[str], dict[str, str]]:
    """Return grey values or colours, what was done to them, and what a user should know."""
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        pixels = pixel_array(dataset, index=frame)
    except (RuntimeError, NotImplementedError, ValueError, AttributeError) as error:
        if has_decoder(syntax) or int(dataset.get("SamplesPerPixel") or 1) != 1:
            raise DataError(
                "picture cannot be decoded; export it again", reason="pixels_unreadable"
            ) from error
        return _through_converter(dataset, frame, folder), [], {"one_decoder": "dcm2niix"}
    if "PALETTE" in dataset.PhotometricInterpretation:
        pixels = apply_color_lut(pixels, dataset)
    grey = pixels.ndim == 2 or bool((pixels == pixels[..., :1]).all())
    return pixels, [] if grey else ["colour_to_grey"], {}


def _through_converter(dataset: pydicom.FileDataset, frame: int, folder: Path) -> Grey:
    """Let dcm2niix decode what pydicom has no codec for, such as lossless JPEG."""
    grid = np.diag([-1.0, -1.0, 1.0, 1.0])
    source = folder / "in"
    source.mkdir(parents=True)
    write_alone(dataset, frame, place=grid, scale=(1.0, 0.0), target=source / "0.dcm")
    image = run_converter(source, folder / "out")
    turned = align_axes(image, grid) if image else None
    if turned is None or turned.array.shape != (dataset.Columns, dataset.Rows, 1):
        raise DataError("no decoder for this compression here; export it uncompressed", reason="no_decoder")
    return np.ascontiguousarray(turned.array[:, :, 0].T)


def _meaning(pixels: Grey, dataset: pydicom.FileDataset) -> tuple[Grey, dict[str, str]]:
    """Apply the tables of the header, and turn MONOCHROME1 over within the range that its bits allow."""
    bits = int(dataset.get("BitsStored") or dataset.BitsAllocated)
    low = -(2 ** (bits - 1)) if int(dataset.get("PixelRepresentation") or 0) else 0
    values, ends = pixels.astype(np.float64), np.array([low, low + 2**bits - 1], np.float64)
    if dataset.get("ModalityLUTSequence"):
        values, ends = _looked_up(values, dataset.ModalityLUTSequence[0])
    else:
        slope, intercept = (
            _or(number(dataset, "RescaleSlope"), 1.0),
            _or(number(dataset, "RescaleIntercept"), 0.0),
        )
        values, ends = values * slope + intercept, ends * slope + intercept
    if dataset.get("VOILUTSequence"):
        values, ends = _looked_up(values, dataset.VOILUTSequence[0])
    inverse = str(dataset.get("PresentationLUTShape") or "").strip().upper() == "INVERSE"
    if not inverse and dataset.PhotometricInterpretation != "MONOCHROME1":
        return values, {}
    return ends.sum() - values, {"inverted": "monochrome1"}


def _looked_up(values: Grey, table: pydicom.Dataset) -> tuple[Grey, Shaped[np.ndarray, "2"]]:
    """Return values through a table, which is flat beyond its ends, and the range that its bits allow."""
    count, first, bits = (int(value) for value in table.LUTDescriptor)
    data = table.LUTData
    wide = bits > 8 or (isinstance(data, bytes) and len(data) >= 2 * (count or 1 << 16))
    entries = np.frombuffer(data, "<u2" if wide else "u1") if isinstance(data, bytes) else np.asarray(data)
    entries = entries[: count or 1 << 16].astype(np.float64)
    if first >= 1 << 15 and values.min() < 0:
        first -= 1 << 16  # a signed number that the file calls unsigned
    places = np.clip(values - first, 0, len(entries) - 1).astype(np.int64)
    return entries[places], np.array([0.0, 2.0**bits - 1.0])


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _grey(pixels: Shaped[np.ndarray, "..."]) -> Grey:
    if pixels.ndim == 2:
        return pixels
    if (pixels == pixels[..., :1]).all():
        return np.ascontiguousarray(pixels[..., 0])
    return (pixels[..., :3].astype(np.float32) @ np.array(_LUMA, np.float32)).astype(np.float32)


def _smallest(values: Grey) -> Grey:
    """Return whole numbers as integers, others as float32."""
    if values.dtype.kind in "iu":
        return values
    if np.isfinite(values).all() and np.array_equal(values, np.rint(values)) and np.abs(values).max() < 2**24:
        limits = np.iinfo(np.int16)
        fits = values.min() >= limits.min and values.max() <= limits.max
        return values.astype(np.int16 if fits else np.int32)
    return values.astype(np.float32)
