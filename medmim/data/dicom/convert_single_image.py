"""Conversion of single DICOM images (radiographs, ultrasound, lone slices) to arrays of one slice."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pydicom
from jaxtyping import Shaped
from pydantic import validate_call
from pydicom.pixels import apply_color_lut, pixel_array

from medmim.data.dicom.conversion_task import ConversionResult, ConversionTask, refusal
from medmim.data.dicom.dcm2niix import run_converter
from medmim.data.dicom.decode import (
    GDCM_SYNTAXES,
    PIXEL_TAGS,
    decode_frame,
    has_decoder,
    read_pixels,
    write_frame,
)
from medmim.data.dicom.header import values
from medmim.data.dicom.pixel_padding import FILLED, PADDING_TAGS, fill_padding, padding_range
from medmim.data.dicom.rescale import Grey, apply_tables, is_inverse, smallest_type
from medmim.data.formats.geometry import align_axes
from medmim.data.formats.nifti import Image, check_image
from medmim.data.formats.safe_open import quiet_pydicom
from medmim.data.formats.write_volume import write_volume
from medmim.errors import DataError

_TAGS = (
    *PIXEL_TAGS, *PADDING_TAGS,
    "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence",
    "PresentationLUTShape", "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData", "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
)  # fmt: skip
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, the weights of the standard's own YBR


@validate_call
def convert_single_image(task: ConversionTask) -> ConversionResult:
    """Decode a single image, apply the tables of its header and write it; runs in a sandbox.

    The modality's table or slope is applied, then a value-of-interest table if there is one. A window is not
    applied, because it clips values. Radiographs and other images without a position in space are inverted if
    they are MONOCHROME1, so that larger values are brighter everywhere.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{Path(task.staging).name}.", dir=Path(task.staging).parent))
    try:
        dataset = read_pixels(task.files[0], _TAGS)
        with quiet_pydicom():
            pixels, repairs, flags = _decode(dataset, task.frames[0], folder)
            if pixels.ndim == 2:
                pixels, filled = _without_padding(pixels, dataset, invert=task.kind == "picture")
                repairs = (*repairs, FILLED) if filled else repairs
                pixels, more = apply_tables(pixels, dataset, invert=task.kind == "picture")
                flags |= more
        array = smallest_type(_grey(pixels)).T[..., None]
        check_image(Image(np.repeat(array, 2, axis=2), task.grid))  # one slice is no fault here
        measured = {"slices_compared": float(not flags.pop("one_decoder", ""))}
        facts = write_volume(Image(array, task.grid), Path(task.target))
        return ConversionResult(**facts, repairs=repairs, flags=flags, measured=measured)
    except DataError as error:
        return refusal(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _decode(
    dataset: pydicom.FileDataset, frame: int, folder: Path
) -> tuple[Shaped[np.ndarray, "..."], tuple[str, ...], dict[str, str]]:
    """Return grey values or colours, the repairs, and the flags for the user."""
    try:
        pixels = pixel_array(dataset, index=frame)
    except (RuntimeError, NotImplementedError, ValueError, AttributeError) as error:
        syntax = dataset.file_meta.TransferSyntaxUID
        grey = decode_frame(dataset, frame) if syntax in GDCM_SYNTAXES else None
        if grey is not None:
            return grey, (), {}
        if has_decoder(syntax) or int(dataset.get("SamplesPerPixel") or 1) != 1:
            raise DataError("image cannot be decoded; export it again", reason="pixels_unreadable") from error
        return _through_converter(dataset, frame, folder), (), {"one_decoder": "dcm2niix"}
    if "PALETTE" in dataset.PhotometricInterpretation:
        pixels = apply_color_lut(pixels, dataset)
    grey_only = pixels.ndim == 2 or bool((pixels == pixels[..., :1]).all())
    return pixels, () if grey_only else ("colour_to_grey",), {}


def _without_padding(pixels: Grey, dataset: pydicom.FileDataset, *, invert: bool) -> tuple[Grey, int]:
    """Return stored values with padding filled, and the number of filled pixels."""
    found = (values(dataset, name) for name in PADDING_TAGS)
    padding = padding_range(*found)
    if padding is None:
        return pixels, 0
    filled = np.array(pixels)
    outside = (pixels >= padding[0]) & (pixels <= padding[1])
    count = fill_padding(filled, outside, bright=invert and is_inverse(dataset))
    return filled, count


def _through_converter(dataset: pydicom.FileDataset, frame: int, folder: Path) -> Grey:
    """Let dcm2niix decode what neither pydicom nor SimpleITK can."""
    grid = np.diag([-1.0, -1.0, 1.0, 1.0])
    source = folder / "in"
    source.mkdir(parents=True)
    write_frame(dataset, frame, place=grid, scale=(1.0, 0.0), target=source / "0.dcm")
    image = run_converter(source, folder / "out")
    turned = align_axes(image, grid) if image else None
    if turned is None or turned.array.shape != (dataset.Columns, dataset.Rows, 1):
        raise DataError(
            "no decoder for this compression is installed: run `pip install 'medmim[itk]'`, or export it "
            "uncompressed",
            reason="no_decoder",
        )
    return np.ascontiguousarray(turned.array[:, :, 0].T)


def _grey(pixels: Shaped[np.ndarray, "..."]) -> Grey:
    if pixels.ndim == 2:
        return pixels
    if (pixels == pixels[..., :1]).all():
        return np.ascontiguousarray(pixels[..., 0])
    return (pixels[..., :3].astype(np.float32) @ np.array(_LUMA, np.float32)).astype(np.float32)
