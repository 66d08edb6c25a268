"""DICOM series of synthetic heads, with labels and with the faults of real folders.

    dicom/…                                     one nested folder per patient, files without extension
    labels/<SeriesInstanceUID>.nii.gz           classes on the grid of that series

Names, dates and places in the headers are fictitious; text that contains PHANTOM must not occur in the output
of `medmim ingest`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int16
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from scipy.spatial.transform import Rotation

from medmim import files
from medmim.data.formats.nifti import Image
from medmim.data.formats.write_volume import encode_image
from medmim.data.synthetic.anatomy import Head, draw_head
from medmim.errors import ShapeError

FIELD_OF_VIEW_MM = (76.8, 76.8, 60.0)  # a small head, so that resampling it to 1 mm is cheap
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_VISIT = {
    "PatientBirthDate": "19010203", "PatientSex": "O", "InstitutionName": "PHANTOM HOSPITAL",
    "ReferringPhysicianName": "PHANTOM^REFERRER", "StudyDate": "19500607", "SeriesDate": "19500607",
    "AcquisitionDate": "19500607", "StudyTime": "101112", "SeriesTime": "101512", "AcquisitionTime": "101513",
    "StudyID": "1", "StudyDescription": "PHANTOM BRAIN TUMOUR FOLLOW-UP",
}  # fmt: skip
_PULSES = {
    "Modality": "MR", "Manufacturer": "medmim phantom", "ManufacturerModelName": "ellipsoids",
    "MagneticFieldStrength": "1.5", "MRAcquisitionType": "2D", "ScanningSequence": "SE",
    "SequenceVariant": "SK", "ScanOptions": "", "RepetitionTime": "500", "EchoTime": "12",
    "EchoTrainLength": "1", "FlipAngle": "90", "BodyPartExamined": "HEAD", "PatientPosition": "HFS",
    "ProtocolName": "PHANTOM PROTOCOL T1", "ImageType": ["ORIGINAL", "PRIMARY", "M", "SE"],
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class PhantomTruth:
    """The expected result of `medmim ingest` for the folder.

    Attributes:
        affines: of each correct series, (column, row, slice) to RAS mm, slices along the normal.
        shapes: of each correct series: columns, rows and slices.
        fates: number of files below `dicom/` by expected fate: accepted, quarantined, skipped.
        labels: number of files below `labels/`, all accepted.
    """

    affines: dict[str, Float64[np.ndarray, "4 4"]]
    shapes: dict[str, tuple[int, int, int]]
    fates: dict[str, int]
    labels: int


@dataclass(frozen=True, eq=False)
class _Series:
    """One series: patient, number, description and grid in LPS mm."""

    seed: int
    patient: int
    number: int
    description: str
    affine: Float64[np.ndarray, "4 4"] = field(repr=False)

    @property
    def uid(self) -> str:
        """SeriesInstanceUID."""
        return self.make_uid("series", self.number)

    def make_uid(self, *parts: object) -> str:
        """Return a UID that depends only on the seed, the patient and `parts`."""
        return str(generate_uid(entropy_srcs=[str(part) for part in (self.seed, self.patient, *parts)]))


def write_phantom(
    folder: Path, *, seed: int, patients: int = 8, size: int = 64, slices: int = 24, faults: bool = True
) -> PhantomTruth:
    """Write the phantom; equal arguments give equal bytes.

    Args:
        folder: parent of the folders `dicom` and `labels`.
        patients: number of correct series, one per patient, each with labels.
        size: rows and columns; the field of view is constant.
        slices: number of slices of each series.
        faults: also write a series with a missing slice, one with a truncated file, and a text file.

    Raises:
        ShapeError: below 32 rows or 8 slices, where lesions do not fit into the head.
    """
    if size < 32 or not 8 <= slices <= 1000:
        raise ShapeError(f"phantom: expected 32 or more rows and 8 to 1000 slices, got {size} and {slices}")
    shape = (size, size, slices)
    affines = {}
    for patient in range(patients):
        head, series = _draw(seed, patient, shape=shape)
        pieces = _encode(series, head.image)
        _write_series(folder / "dicom" / f"PHANTOM_P{patient:02d}" / "study" / f"s{series.number}", pieces)
        affines[series.uid] = _LPS_TO_RAS @ series.affine
        label = Image(head.label, affines[series.uid])
        files.write_bytes(folder / "labels" / f"{series.uid}.nii.gz", encode_image(label))
    fates = {"accepted": patients * slices, "quarantined": 0, "skipped": 0}
    if faults:
        fates |= _write_faults(folder / "dicom", seed=seed, patient=patients, shape=shape)
    return PhantomTruth(affines, dict.fromkeys(affines, shape), fates, patients)


def _write_faults(folder: Path, *, seed: int, patient: int, shape: tuple[int, int, int]) -> dict[str, int]:
    """Write two series that must be quarantined, and a file that is not DICOM."""
    middle = shape[2] // 2
    head, gap = _draw(seed, patient, shape=shape, number=7, description="T1 AX POST GAP")
    pieces = _encode(gap, head.image)
    _write_series(folder / "faults" / "gap", pieces[:middle] + pieces[middle + 1 :])
    head, cut = _draw(seed, patient + 1, shape=shape, number=8, description="T1 AX POST CUT")
    pieces = _encode(cut, head.image)
    pieces[middle] = pieces[middle][: len(pieces[middle]) // 2]
    _write_series(folder / "faults" / "cut", pieces)
    files.write_text(folder / "faults" / "README.txt", "Notes of PHANTOM HOSPITAL, no scan.\n")
    return {"quarantined": 2 * shape[2] - 1, "skipped": 1}


def _draw(
    seed: int, patient: int, *, shape: tuple[int, int, int], number: int = 5, description: str = "T1 AX POST"
) -> tuple[Head, _Series]:
    rng = np.random.default_rng([seed, patient])
    affine = _oblique_affine(shape, rng)
    return draw_head(shape, rng=rng), _Series(seed, patient, number, description, affine)


def _oblique_affine(shape: tuple[int, int, int], rng: np.random.Generator) -> Float64[np.ndarray, "4 4"]:
    """Return the grid in LPS mm, oblique like a real axial scan and rounded like decimal strings."""
    spacing = [round(length / count, 4) for length, count in zip(FIELD_OF_VIEW_MM, shape, strict=True)]
    turn = Rotation.from_rotvec(rng.uniform(-0.25, 0.25, 3)).as_matrix()
    directions = np.round(turn[:, :2], 8)
    normal = np.cross(directions[:, 0], directions[:, 1])
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([directions, normal]) * spacing
    centre = rng.uniform(-15, 15, 3) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    affine[:3, 3] = np.round(centre, 6)
    return affine


def _encode(series: _Series, image: Int16[np.ndarray, "x y z"]) -> list[bytes]:
    """Return one DICOM file per slice in order of position, with instance numbers in another order."""
    common = _headers(series, image.shape)
    rng = np.random.default_rng([series.seed, series.patient, series.number])
    instances = rng.permutation(image.shape[2]) + 1
    return [
        _encode_slice(series, common, pixels=image[:, :, index], index=index, instance=int(instance))
        for index, instance in enumerate(instances)
    ]


def _headers(series: _Series, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the elements that all slices share: fictitious, and complete enough for strict readers."""
    spacing = [round(length / count, 4) for length, count in zip(FIELD_OF_VIEW_MM, shape, strict=True)]
    row, column = series.affine[:3, 0] / spacing[0], series.affine[:3, 1] / spacing[1]
    return {
        **_VISIT,
        **_PULSES,
        "PatientName": f"PHANTOM^P{series.patient:02d}",
        "PatientID": f"PHANTOM-ID-P{series.patient:02d}",
        "AccessionNumber": f"PHANTOM{series.patient:04d}",
        "SeriesDescription": series.description,
        "SeriesNumber": series.number,
        "SOPClassUID": MRImageStorage,
        "StudyInstanceUID": series.make_uid("study"),
        "SeriesInstanceUID": series.uid,
        "FrameOfReferenceUID": series.make_uid("frame"),
        "ImageOrientationPatient": [f"{value:.8f}" for value in (*row, *column)],
        "PixelSpacing": [f"{spacing[1]:g}", f"{spacing[0]:g}"],
        "SliceThickness": f"{spacing[2]:g}",
        "SpacingBetweenSlices": f"{spacing[2]:g}",
    }


def _encode_slice(
    series: _Series, common: dict[str, Any], *, pixels: Int16[np.ndarray, "x y"], index: int, instance: int
) -> bytes:
    dataset = Dataset()
    for keyword, value in common.items():
        setattr(dataset, keyword, value)
    position = series.affine[:3, :3] @ [0, 0, index] + series.affine[:3, 3]
    dataset.SOPInstanceUID = series.make_uid("series", series.number, "instance", index)
    dataset.InstanceNumber = instance
    dataset.ImagePositionPatient = [f"{value:.8f}" for value in position]
    dataset.Columns, dataset.Rows = pixels.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 1
    dataset.WindowCenter, dataset.WindowWidth = "400", "800"
    dataset.PixelData = np.ascontiguousarray(pixels.T, "<i2").tobytes()
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    stream = DicomBytesIO()
    file = FileDataset(stream, dataset, file_meta=meta, preamble=bytes(128))
    file.save_as(stream, enforce_file_format=True)
    return bytes(stream.getvalue())


def _write_series(folder: Path, pieces: list[bytes]) -> None:
    """Write slices to files whose names are in another order."""
    for number, content in enumerate(pieces):
        files.write_bytes(folder / f"IM{number * 3701 % 10007:05d}", content)
