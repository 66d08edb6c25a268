"""DICOM labels of a generated series: segmentations by highdicom, structure sets by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from medmim.data.dicom.read_labels import read_labels
from medmim.data.formats.nifti import read_image

STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
LABEL_SHAPE = (6, 8, 10)  # slices, rows and columns of `write_series`


def sorted_slices(folder: Path) -> list[FileDataset]:
    """Return the slices of a folder along their normal."""
    slices = [pydicom.dcmread(path) for path in folder.iterdir()]
    return sorted(slices, key=lambda one: int(one.SOPInstanceUID.rpartition(".")[2]))


def write_segmentation(
    path: Path,
    slices: list[FileDataset],
    mask: np.ndarray,
    *,
    names: tuple[str, ...],
    kind: str = "BINARY",
    **options: Any,
) -> None:
    """Write a segmentation.

    Args:
        path: file to write.
        slices: the slices it refers to.
        mask: slice × row × column with segment numbers, or with one channel per segment as the last axis.
        names: labels of the segments.
        kind: BINARY, FRACTIONAL or LABELMAP.
        options: further arguments of highdicom's class.
    """
    for one in slices:
        one.PatientSex, one.PatientBirthDate, one.AccessionNumber, one.StudyID = "O", "", "", ""
        one.StudyDate, one.StudyTime, one.ReferringPhysicianName = "", "", ""
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Neoplasm,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, name in enumerate(names, start=1)
    ]
    hd.seg.Segmentation(
        source_images=slices,
        pixel_array=mask.astype(np.uint8 if kind != "FRACTIONAL" else np.float32),
        segmentation_type=hd.seg.SegmentationTypeValues(kind),
        segment_descriptions=descriptions,
        series_instance_uid=hd.UID(),
        series_number=9,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="made",
        manufacturer_model_name="made",
        software_versions="1",
        device_serial_number="1",
        **options,
    ).save_as(path)


def write_structures(
    path: Path,
    slices: list[FileDataset],
    rois: dict[str, list[tuple[int, np.ndarray]]],
    *,
    off_mm: float = 0.0,
) -> None:
    """Write a structure set.

    Args:
        path: file to write.
        slices: the slices it refers to.
        rois: contours of each ROI by its name: index of the slice, and points (column, row) in voxels.
        off_mm: shift of all contours along the normal.
    """
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, STRUCTURES
    meta.MediaStorageSOPInstanceUID = "1.2.3.99"
    made = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    made.SOPClassUID, made.SOPInstanceUID, made.Modality = STRUCTURES, "1.2.3.99", "RTSTRUCT"
    made.StudyInstanceUID, made.SeriesInstanceUID = slices[0].StudyInstanceUID, "1.2.3.98"
    made.PatientID, made.PatientName = slices[0].PatientID, "SENTINEL^NAME"
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = slices[0].SeriesInstanceUID
    study.RTReferencedSeriesSequence, frame.RTReferencedStudySequence = [series], [study]
    made.ReferencedFrameOfReferenceSequence = [frame]
    made.StructureSetROISequence, made.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(rois.items(), start=1):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        drawn.ReferencedROINumber = number
        drawn.ContourSequence = [_contour(slices[place], points, off_mm) for place, points in contours]
        made.StructureSetROISequence.append(roi)
        made.ROIContourSequence.append(drawn)
    made.save_as(path, enforce_file_format=True)


def _contour(one: FileDataset, points: np.ndarray, off_mm: float) -> Dataset:
    axes = np.array(one.ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = map(float, one.PixelSpacing)
    places = (
        np.array(one.ImagePositionPatient, float)
        + points[:, :1] * between_columns * axes[0]
        + points[:, 1:] * between_rows * axes[1]
        + off_mm * np.cross(*axes)
    )
    contour = Dataset()
    contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
    contour.ContourData = [f"{value:.6f}" for value in places.ravel()]
    return contour


def read_label(scan: Path, file: str, segments: int = 1, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """Return a label as slice × row × column, in the order of the source, and its facts."""
    folder = scan.parent
    facts = read_labels(
        str(folder / file),
        str(folder / "volume.nii.gz"),
        str(folder / "label.nii.gz"),
        numbers={str(number): number for number in range(1, segments + 1)},
        **options,
    )
    if "reason" in facts:
        return np.zeros(LABEL_SHAPE), facts
    return read_image(folder / "label.nii.gz").array.transpose(2, 1, 0), facts
