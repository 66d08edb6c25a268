"""Small DICOM series for tests, correct or with one fault, and the steps from files to a conversion task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medmim.data.dicom.conversion_task import ConversionTask
from medmim.data.dicom.series import group_slices
from medmim.data.dicom.slices import Slice, SliceGroup, SliceStack, position_and_steps
from medmim.data.ingest.scan import scan_file

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
    """Return slice `place` of a series with 8 rows and 10 columns of 1.5 × 1.25 mm, 3 mm apart."""
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


def move(dataset: FileDataset, by: np.ndarray) -> None:
    """Move a slice by a vector in mm (LPS)."""
    position = np.array([float(value) for value in dataset.ImagePositionPatient]) + by
    dataset.ImagePositionPatient = [round(value, 6) for value in position.tolist()]


def write_series(folder: Path, *, count: int = 6, tweak: Tweak | None = None, **options: Any) -> list[Path]:
    """Write a series to files named in another order; `tweak` changes a slice before it is written."""
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


def save_all(folder: Path, datasets: Sequence[FileDataset]) -> list[Path]:
    """Write datasets to files that are named by their index."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number}.dcm" for number in range(len(datasets))]
    for path, dataset in zip(paths, datasets, strict=True):
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(path, enforce_file_format=True)
    return paths


def scan_slices(paths: Sequence[Path]) -> list[Slice]:
    """Scan files and return their slices; a slice's number is the index of its file."""
    return [
        Slice(number, path, header) for number, path in enumerate(paths) for header in scan_file(path).headers
    ]


def groups_of(paths: Sequence[Path], **options: Any) -> list[SliceGroup]:
    """Scan files and group their slices."""
    return group_slices(scan_slices(paths), {}, **options)


def stack_of(paths: Sequence[Path], **options: Any) -> SliceStack:
    """Scan files that form one stack and return it."""
    (stack,) = groups_of(paths, **options)
    assert isinstance(stack, SliceStack), stack
    return stack


def task_of(group: SliceGroup, folder: Path, **update: Any) -> ConversionTask:
    """Return the conversion task of a stack or single image, with changes."""
    headers = [one.header for one in group.slices]
    values = {
        "files": [str(one.path) for one in group.slices],
        "frames": [header.frame for header in headers],
        "kind": headers[0].kind,
        "size": (headers[0].rows, headers[0].columns),
        "affine": group.affine.tolist(),  # type: ignore[union-attr]
        "scales": [(header.slope, header.intercept) for header in headers],
        "padding": [header.padding for header in headers] if any(one.padding for one in headers) else [],
        "places": [position_and_steps(header) for header in headers] if isinstance(group, SliceStack) else [],
        "raw": [header.raw for header in headers if header.raw],
        "heights_mm": group.heights_mm if isinstance(group, SliceStack) else (),
        "reversed_rows": any(header.reversed_rows for header in headers),
        "staging": str(folder / "work"),
        "target": str(folder / "volume.nii.gz"),
    }
    return ConversionTask.model_validate(values | update)


def pixels_of(path: Path) -> np.ndarray:
    """Return the stored values of a file."""
    return pydicom.dcmread(path).pixel_array
