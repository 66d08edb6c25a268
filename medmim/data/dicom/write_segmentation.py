"""A label volume as DICOM-SEG, for the archive that the scan came from: it refers to the scan's own slices.

This is the only place where identifiers of a scan are written: they go back to where they are known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
from jaxtyping import UInt8
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
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])

Drawn = UInt8[np.ndarray, "slices rows columns"]


def write_segmentation(
    label: str, target: str, *, slices: Sequence[Mapping[str, Any]], names: Mapping[str, str], model: str
) -> dict[str, Any]:
    """Write a label volume as a segmentation of the slices that it was predicted from; meant for a sandbox.

    Args:
        label: NIfTI file with a class for each voxel, on the grid of the stored volume.
        target: file to write.
        slices: in the order of the volume's third axis, each with `file`, `frame` (its place in the file, or
            None where a file is a slice), `place` (as `own_place` gives it) and `size` (rows, columns).
        names: of the classes, by number.
        model: SHA-256 of the weights.

    Returns:
        `frames`: number of frames in the segmentation, and `voxels`: marked in all of them.

    Raises:
        DataError: with reason segmentation_not_possible, if the source lacks what a segmentation must tell.
    """
    image = read_image(Path(label))
    drawn = np.stack([_on_slice(image, one["place"], one["size"]) for one in slices])
    numbers = sorted(map(int, names))
    mask: Drawn = np.zeros(drawn.shape, np.uint8)
    for segment, number in enumerate(numbers, start=1):  # segments count from 1 without a gap
        mask[drawn == number] = segment
    sources, mask = _sources(slices, mask)
    with quiet_pydicom():
        made = _segmentation(sources, mask, [names[str(number)] for number in numbers], model)
        stream = DicomBytesIO()
        made.save_as(stream)
    files.write_bytes(Path(target), stream.getvalue(), mode=_OWNER_ONLY)
    return {"frames": int(made.NumberOfFrames), "voxels": int(np.count_nonzero(mask))}


def _on_slice(image: Image, place: Sequence[float], size: Sequence[int]) -> UInt8[np.ndarray, "rows columns"]:
    """Return the label at the pixels of a slice, where its own header places them: the nearest voxel's."""
    origin, across, down = np.reshape(np.asarray(place, np.float64), (3, 3)) * _LPS_TO_RAS
    back = np.linalg.inv(image.affine)
    start, across, down = back[:3, :3] @ origin + back[:3, 3], back[:3, :3] @ across, back[:3, :3] @ down
    rows, columns = np.arange(size[0])[:, None, None], np.arange(size[1])[None, :, None]
    voxels = np.rint(start + columns * across + rows * down).astype(int)
    inside = ((voxels >= 0) & (voxels < image.array.shape)).all(axis=2)
    found: UInt8[np.ndarray, "rows columns"] = np.zeros(tuple(size), np.uint8)
    found[inside] = image.array[tuple(voxels[inside].T)]
    return found


def _sources(slices: Sequence[Mapping[str, Any]], mask: Drawn) -> tuple[list[pydicom.Dataset], Drawn]:
    """Return the files that are referred to, and the mask with a plane for each slice or frame of them."""
    if slices[0]["frame"] is None:
        sources = [_headers(one["file"]) for one in slices]
        for one in sources:  # ingestion held them against one grid; their last digits may differ
            one.ImageOrientationPatient = sources[0].ImageOrientationPatient
            one.PixelSpacing = sources[0].PixelSpacing
        return sources, mask
    source = _headers(slices[0]["file"])
    whole: Drawn = np.zeros((int(source.NumberOfFrames), *mask.shape[1:]), np.uint8)
    whole[[one["frame"] for one in slices]] = mask
    return [source], whole


def _headers(file: str) -> pydicom.Dataset:
    """Return what a segmentation repeats of its source; what is missing there is left empty here too."""
    dataset = read_dicom(Path(file), _READ)
    for keyword in _PATIENT:
        if keyword not in dataset:
            setattr(dataset, keyword, "")
    return dataset


def _segmentation(
    sources: Sequence[pydicom.Dataset], mask: Drawn, names: Sequence[str], model: str
) -> hd.seg.Segmentation:
    """Build the object; equal slices, masks and weights give it equal identifiers."""
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
            specific_character_set=_UTF8,  # of names, whatever the source's was
        )
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise DataError(
            f"segmentation: the source lacks what it must tell ({type(error).__name__}); the NIfTI file has "
            "the same labels",
            reason="segmentation_not_possible",
        ) from error


def _described(number: int, name: str) -> hd.seg.SegmentDescription:
    """Describe a segment by the class's name; which tissue it is in a code system, nobody told."""
    label = name.replace("\\", "/").strip()  # in DICOM a backslash parts two values
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
