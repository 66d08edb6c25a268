"""DICOM-SEG files of predicted labels, which refer to the slices of the scan that they were predicted from.

Only this module writes identifiers of a scan: the file returns to the archive that they came from.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
from jaxtyping import Int, UInt8
from pydantic import BaseModel, ConfigDict, validate_call
from pydicom.filebase import DicomBytesIO
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from medmim import __version__, files
from medmim.data.formats.nifti import Image, read_image
from medmim.data.formats.safe_open import quiet_pydicom, read_dicom
from medmim.errors import DataError

_OWNER_ONLY = 0o600
_UTF8 = "ISO_IR 192"
_PATIENT = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
_READ = (
    *_PATIENT, "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "Modality",
    "SeriesInstanceUID", "FrameOfReferenceUID", "PositionReferenceIndicator", "StudyDescription", "Rows",
    "Columns", "NumberOfFrames", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices", "ImageType",
    "ImageOrientationPatient", "ImagePositionPatient", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence", "DimensionOrganizationSequence", "DimensionIndexSequence",
    "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
)  # fmt: skip
_SHARED_GROUPS = ("PixelMeasuresSequence", "PlaneOrientationSequence")
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])

Mask = UInt8[np.ndarray, "slices rows columns"]


class SourceSlice(BaseModel):
    """A slice of the scan: file, index in a multi-frame file (else None), `own_place`, rows and columns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    frame: int | None
    place: tuple[float, ...]
    size: tuple[int, int]


@validate_call
def write_segmentation(
    label: str, target: str, *, slices: list[SourceSlice], names: dict[str, str], model: str
) -> dict[str, Any]:
    """Write a label volume as a segmentation of the slices it was predicted from; runs in a sandbox.

    Args:
        label: NIfTI file with a class for each voxel, on the grid of the stored volume.
        slices: in the order of the volume's third axis.
        model: SHA-256 of the weights.

    Returns:
        `frames` and `voxels`: numbers of frames in the segmentation and of marked voxels in them;
        `new_frame_of_reference`: whether the source has no FrameOfReferenceUID, so that one was generated.

    Raises:
        DataError: with reason segmentation_not_possible, if the source lacks required elements, or
            frames_in_several_files.
    """
    image = read_image(Path(label))
    drawn = np.stack([_on_slice(image, one) for one in slices])
    numbers = sorted(map(int, names))
    mask: Mask = np.zeros(drawn.shape, np.uint8)
    for segment, number in enumerate(numbers, start=1):  # segments count from 1 without a gap
        mask[drawn == number] = segment
    with quiet_pydicom():
        sources, generated = _sources(slices)
        made = _segmentation(sources, mask, [names[str(number)] for number in numbers], model)
        if slices[0].frame is not None:
            _restore_frame_numbers(made, [one.frame or 0 for one in slices])
        stream = DicomBytesIO()
        made.save_as(stream)
    files.write_bytes(Path(target), stream.getvalue(), mode=_OWNER_ONLY)
    voxels = int(np.count_nonzero(mask))
    return {"frames": int(made.NumberOfFrames), "voxels": voxels, "new_frame_of_reference": generated}


def _on_slice(image: Image, one: SourceSlice) -> Int[np.ndarray, "rows columns"]:
    """Return the label at the pixels of a slice, from the nearest voxel to each pixel's position."""
    origin, across, down = np.reshape(np.asarray(one.place, np.float64), (3, 3)) * _LPS_TO_RAS
    back = np.linalg.inv(image.affine)
    start, across, down = back[:3, :3] @ origin + back[:3, 3], back[:3, :3] @ across, back[:3, :3] @ down
    rows, columns = np.arange(one.size[0])[:, None, None], np.arange(one.size[1])[None, :, None]
    voxels = np.rint(start + columns * across + rows * down).astype(int)
    inside = ((voxels >= 0) & (voxels < image.array.shape)).all(axis=2)
    found: Int[np.ndarray, "rows columns"] = np.zeros(one.size, np.int32)
    found[inside] = image.array[tuple(voxels[inside].T)]
    return found


def _sources(slices: Sequence[SourceSlice]) -> tuple[list[pydicom.Dataset], bool]:
    """Return the files to refer to, a multi-frame file with the frames of this volume only.

    Returns:
        The headers, and whether a frame of reference was generated.
    """
    if slices[0].frame is None:
        sources = [_headers(one.file) for one in slices]
        for one in sources:  # ingestion compared them with one grid; their last digits may differ
            one.ImageOrientationPatient = sources[0].ImageOrientationPatient
            one.PixelSpacing = sources[0].PixelSpacing
    else:
        if len({one.file for one in slices}) > 1:
            raise DataError(
                "segmentation: expected all frames of the volume in one file",
                reason="frames_in_several_files",
            )
        sources = [_only_frames(_headers(slices[0].file), [one.frame or 0 for one in slices])]
    missing = not all(one.get("FrameOfReferenceUID") for one in sources)
    if missing:
        series = str(sources[0].SeriesInstanceUID)
        for one in sources:
            one.FrameOfReferenceUID = generate_uid(entropy_srcs=[series, "frame of reference"])
    return sources, missing


def _only_frames(source: pydicom.Dataset, frames: Sequence[int]) -> pydicom.Dataset:
    """Return a multi-frame header with some of its frames, and with plane groups that they share."""
    per_frame = source.get("PerFrameFunctionalGroupsSequence") or ()
    kept = [copy.copy(per_frame[frame]) for frame in frames] if per_frame else []
    shared = (source.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0]
    for name in _SHARED_GROUPS:
        if kept and name not in shared and name in kept[0]:
            setattr(shared, name, kept[0][name].value)
        for one in kept:
            if name in one:
                delattr(one, name)
    source.SharedFunctionalGroupsSequence = [shared]
    source.PerFrameFunctionalGroupsSequence = kept
    source.NumberOfFrames = len(frames)
    return source


def _restore_frame_numbers(made: hd.seg.Segmentation, frames: Sequence[int]) -> None:
    """Give references to frames their numbers in the whole source file."""
    references = {  # highdicom gives segments of one slice the same object
        id(one): one
        for group in made.PerFrameFunctionalGroupsSequence
        for derivation in group.get("DerivationImageSequence", ())
        for one in derivation.get("SourceImageSequence", ())
        if "ReferencedFrameNumber" in one
    }
    for one in references.values():
        one.ReferencedFrameNumber = frames[int(one.ReferencedFrameNumber) - 1] + 1


def _headers(file: str) -> pydicom.Dataset:
    """Return the elements that a segmentation repeats; patient elements that are missing stay empty."""
    dataset = read_dicom(Path(file), _READ)
    for keyword in _PATIENT:
        if keyword not in dataset:
            setattr(dataset, keyword, "")
    return dataset


def _segmentation(
    sources: Sequence[pydicom.Dataset], mask: Mask, names: Sequence[str], model: str
) -> hd.seg.Segmentation:
    """Build the object; equal slices, masks and weights give equal identifiers."""
    series = str(sources[0].SeriesInstanceUID)
    content = hashlib.sha256(mask.tobytes()).hexdigest()
    try:
        return hd.seg.Segmentation(
            source_images=sources,
            pixel_array=mask,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[_described(number, name) for number, name in enumerate(names, start=1)],
            series_instance_uid=generate_uid(entropy_srcs=[series, model]),
            series_number=1,
            sop_instance_uid=generate_uid(entropy_srcs=[series, model, content]),
            instance_number=1,
            manufacturer="medmim",
            manufacturer_model_name="medmim",
            software_versions=__version__,
            device_serial_number=model[:16],
            content_description="predicted, not reviewed",
            specific_character_set=_UTF8,  # for names, whatever the source's is
        )
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise DataError(
            f"segmentation: the source lacks a required element ({type(error).__name__}); the NIfTI file has "
            "the same labels",
            reason="segmentation_not_possible",
        ) from error


def _described(number: int, name: str) -> hd.seg.SegmentDescription:
    """Describe a segment by its class name; its tissue in a code system is unknown."""
    label = name.replace("\\", "/").strip()  # in DICOM a backslash separates two values
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=label[:64] or f"class {number}",
        segmented_property_category=codes.SCT.Tissue,
        segmented_property_type=codes.SCT.Tissue,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="medmim", family=codes.DCM.ArtificialIntelligence, version=__version__
        ),
    )
