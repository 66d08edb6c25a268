"""Small DICOM series made for tests, sound or with one fault."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

MR, CT = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.2"
OBLIQUE = (0.98, 0.17, 0.1032, -0.19899, 0.888, 0.41459)
Tweak = Callable[[FileDataset, int], None]


def unit(orientation: tuple[float, ...]) -> tuple[float, ...]:
    """Make two directions orthogonal unit vectors."""
    first, second = np.array(orientation[:3]), np.array(orientation[3:])
    first = first / np.linalg.norm(first)
    second = second - first * (first @ second)
    return (*first.tolist(), *(second / np.linalg.norm(second)).tolist())


def make_slice(place: int, **options: Any) -> FileDataset:
    """Make slice `place` of a series with 8 rows and 10 columns, 1.5 × 1.25 mm, 3 mm apart."""
    orientation = unit(options.get("orientation", OBLIQUE))
    normal = np.cross(orientation[:3], orientation[3:])
    series, sop = options.get("series", "1.2.3.4"), options.get("sop", MR)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = sop
    meta.MediaStorageSOPInstanceUID = f"{series}.{place + 1}"
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop, f"{series}.{place + 1}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = options.get("study", "1.2.3"), series
    dataset.FrameOfReferenceUID = "1.2.9"
    dataset.PatientID, dataset.PatientName = options.get("patient", "PAT-7"), "SENTINEL^NAME"
    dataset.Modality = "CT" if sop == CT else "MR"
    dataset.SeriesNumber, dataset.InstanceNumber = 5, 100 - place
    dataset.SeriesDescription, dataset.ImageType = "SENTINEL T1post ax", ["ORIGINAL", "PRIMARY", "OTHER"]
    dataset.EchoTime, dataset.RepetitionTime, dataset.AcquisitionNumber = 10, 500, 1
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 8, 10, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.PixelSpacing, dataset.SliceThickness = [1.5, 1.25], 3
    dataset.ImageOrientationPatient = [round(value, 9) for value in orientation]
    origin = np.array([-20.0, 30.0, 5.0]) + 3.0 * place * normal
    dataset.ImagePositionPatient = [round(value, 6) for value in origin.tolist()]
    pixels = np.random.default_rng(place).integers(-50, 900, (8, 10)).astype(np.int16)
    dataset.PixelData = pixels.tobytes()
    return dataset


def write_series(folder: Path, *, count: int = 6, tweak: Tweak | None = None, **options: Any) -> list[Path]:
    """Write a series under names that say nothing; `tweak` changes a slice before it is written."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for place in range(count):
        dataset = make_slice(place, **options)
        if tweak is not None:
            tweak(dataset, place)
        path = folder / f"im{(place * 7) % 997:03d}{generate_uid(entropy_srcs=[str(folder)])[-4:]}"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def pixels_of(path: Path) -> np.ndarray:
    """Return the stored values of a file."""
    return pydicom.dcmread(path).pixel_array
