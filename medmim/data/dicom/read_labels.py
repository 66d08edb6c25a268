"""Labels in DICOM's own forms, segmentations and structure sets, brought to the grid of their image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import skimage
from jaxtyping import Bool, Float64, UInt16
from pydicom.sr.codedict import codes

from medmim.data.formats import geometry
from medmim.data.formats.case import fit_and_store
from medmim.data.formats.labels import MAX_OFFSET_VOXELS
from medmim.data.formats.nifti import Image, read_image
from medmim.data.formats.safe_open import read_dicom
from medmim.errors import DataError

_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
_MAX_OFF = 0.25  # slices between a contour and its slice; at a half nobody knows which slice was meant
_MAX_POINTS = 20_000_000
_MAX_BYTES = 2 << 30


class _OffsetError(DataError):
    """Contours that lie beside the slices of their image."""

    def __init__(self, voxels: float, distance_mm: float) -> None:
        super().__init__(
            f"structure set: contour {voxels:.2f} slices ({distance_mm:.2f} mm) beside its slice or outside "
            f"of the image, expected at most {_MAX_OFF:g}; check that both come from the same series",
            reason="label_offset",
        )
        self.measured = {"offset_voxels": voxels, "offset_mm": distance_mm}


def look_at_labels(path: str) -> dict[str, Any]:
    """Return the series that a label object speaks of, and its segments; meant for a sandbox.

    Each segment is a number, the source's own name (not for writing), and the name of its code in DICOM's
    dictionary, or "".
    """
    dataset = read_dicom(Path(path))
    if dataset.SOPClassUID == _SEGMENTATION:
        series = [str(one.SeriesInstanceUID) for one in dataset.get("ReferencedSeriesSequence", ())]
        segments = [
            [int(one.SegmentNumber), str(one.get("SegmentLabel", "")), _coded(one)]
            for one in dataset.SegmentSequence
        ]
        return {"series": series, "segments": segments}
    series = [
        str(one.SeriesInstanceUID)
        for frame in dataset.get("ReferencedFrameOfReferenceSequence", ())
        for study in frame.get("RTReferencedStudySequence", ())
        for one in study.get("RTReferencedSeriesSequence", ())
    ]
    segments = [
        [int(one.ROINumber), str(one.get("ROIName", "")), ""] for one in dataset.StructureSetROISequence
    ]
    return {"series": series, "segments": segments}


def read_labels(
    label: str, image: str, target: str, *, numbers: Mapping[str, int], resample: bool = False
) -> dict[str, Any]:
    """Write a label object on the grid of an image stored before; meant for a sandbox.

    Args:
        label: the DICOM file.
        image: the stored image.
        target: where to write the label.
        numbers: class number of each segment, by the segment's own number as text.
        resample: bring a segmentation on another grid to the image's.

    Returns:
        The facts of the label, or the reason and numbers of its refusal.
    """
    dataset, stored = read_dicom(Path(label)), read_image(Path(image))
    try:
        if dataset.SOPClassUID == _SEGMENTATION:
            drawn, overlap = _segmentation(dataset, numbers)
        else:
            drawn, overlap = _structures(dataset, stored, numbers)
    except DataError as error:
        return {"reason": error.reason, "measured": getattr(error, "measured", {})}
    facts = fit_and_store(_on_grid(drawn, stored), stored, Path(target), resample=resample)
    return {**facts, "measured": {**facts["measured"], "overlap_voxels": float(overlap)}}


def _coded(segment: pydicom.Dataset) -> str:
    """Return what pydicom's dictionary of codes calls a segment: words of a standard, not of a person."""
    for one in segment.get("SegmentedPropertyTypeCodeSequence", ()):
        scheme, value = str(one.get("CodingSchemeDesignator", "")), str(one.get("CodeValue", ""))
        known = getattr(codes, scheme, None)
        for keyword in known.dir() if known else ():
            if getattr(known, keyword).value == value:
                return str(getattr(known, keyword).meaning).lower()
    return ""


def _segmentation(dataset: pydicom.Dataset, numbers: Mapping[str, int]) -> tuple[Image, int]:
    """Stack the frames of a segmentation along their normal; slices without a frame are empty."""
    size = int(dataset.NumberOfFrames) * int(dataset.Rows) * int(dataset.Columns)
    if size > _MAX_BYTES:
        raise DataError("segmentation of more than 2 GiB: expected less; crop it", reason="too_large")
    frames = np.atleast_3d(dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns))
    if str(dataset.get("SegmentationType", "BINARY")) == "FRACTIONAL":
        frames = frames >= 0.5 * float(dataset.get("MaximumFractionalValue", 255))
    planes = [_plane(dataset, one) for one in dataset.PerFrameFunctionalGroupsSequence]
    affine, places = _stack(planes)
    drawn: UInt16[np.ndarray, "x y z"] = np.zeros((*frames.shape[:0:-1], int(places.max()) + 1), np.uint16)
    overlap = 0
    for frame, place, (segment, _) in zip(frames, places, planes, strict=True):
        inside = frame.T > 0
        number = numbers[str(segment)]
        before = drawn[:, :, place]
        overlap += int(np.count_nonzero(inside & (before > 0) & (before != number)))
        before[inside] = number
    return Image(drawn, affine), overlap


def _plane(dataset: pydicom.Dataset, frame: pydicom.Dataset) -> tuple[int, Float64[np.ndarray, "4 4"]]:
    """Return the segment of a frame, and its affine: (column, row, 0) to mm in RAS."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    found = {
        name: (frame if name in frame else shared)[name][0]
        for name in ("PixelMeasuresSequence", "PlaneOrientationSequence", "PlanePositionSequence")
    }
    affine = geometry.slice_affine(
        [float(one) for one in found["PlaneOrientationSequence"].ImageOrientationPatient],
        [float(one) for one in found["PixelMeasuresSequence"].PixelSpacing],
        [float(one) for one in found["PlanePositionSequence"].ImagePositionPatient],
    )
    segments = (frame if "SegmentIdentificationSequence" in frame else shared).SegmentIdentificationSequence
    return int(segments[0].ReferencedSegmentNumber), affine


def _stack(
    planes: Sequence[tuple[int, Float64[np.ndarray, "4 4"]]],
) -> tuple[Float64[np.ndarray, "4 4"], np.ndarray]:
    """Return the affine of the stack and the place of each frame in it.

    Raises:
        DataError: with reason label_uneven if the frames are no evenly spaced, parallel stack.
    """
    first = planes[0][1]
    normal = first[:3, 2]
    offsets = np.array([float((affine[:3, 3] - first[:3, 3]) @ normal) for _, affine in planes])
    heights = np.unique(np.round(offsets, 3))
    steps = np.diff(heights)
    step = float(steps.min()) if len(steps) else 1.0
    places = (offsets - heights[0]) / step
    moved = [
        affine[:3, 3] - (offset * normal + first[:3, 3])
        for (_, affine), offset in zip(planes, offsets, strict=True)
    ]
    turned = max(float(np.abs(affine[:3, :3] - first[:3, :3]).max()) for _, affine in planes)
    uneven = float(np.abs(places - np.rint(places)).max()) > 0.1
    if uneven or turned > 1e-3 or float(np.abs(moved).max()) > 0.1:
        raise DataError(
            "segmentation: expected frames in one evenly spaced, parallel stack; export it again",
            reason="label_uneven",
        )
    affine = first.copy()
    affine[:3, 2] = normal * step
    affine[:3, 3] = first[:3, 3] + heights[0] * normal
    return affine, np.rint(places).astype(int)


def _on_grid(label: Image, image: Image) -> Image:
    """Pad a label that covers part of its image's grid to all of it; others are returned as they are.

    Segmentations leave out empty slices at both ends, so equal shapes cannot be asked of them.
    """
    turned = _along(label, image)
    if turned is None:
        return label
    start = np.linalg.inv(image.affine) @ turned.affine
    first = np.rint(start[:3, 3]).astype(int)
    last = first + np.array(turned.array.shape)
    step_fits = np.abs(start[:3, :3] - np.eye(3)).max() * max(turned.array.shape) <= MAX_OFFSET_VOXELS
    inside = (first >= 0).all() and (last <= np.array(image.array.shape)).all()
    near = np.abs(start[:3, 3] - first).max() <= MAX_OFFSET_VOXELS
    if not (step_fits and inside and near):
        return label
    whole = np.zeros(image.array.shape, turned.array.dtype)
    whole[tuple(slice(a, b) for a, b in zip(first, last, strict=True))] = turned.array
    move = np.eye(4)
    move[:3, 3] = -first
    return Image(whole, np.asarray(turned.affine @ move, np.float64))


def _along(label: Image, image: Image) -> Image | None:
    """Turn a label's axes to the image's; a single slice gets the image's slice step, as it has none."""
    if label.array.shape[2] == 1:
        normal = label.affine[:3, 2] / np.linalg.norm(label.affine[:3, 2])
        across = int(np.abs(normal @ (image.affine[:3, :3] / image.spacing_mm)).argmax())
        affine = label.affine.copy()
        affine[:3, 2] = normal * image.spacing_mm[across]
        label = Image(label.array, affine)
    between = np.linalg.inv(label.affine[:3, :3]) @ image.affine[:3, :3]
    if not np.allclose(np.sort(np.abs(between).ravel())[-3:], 1.0, atol=0.1):
        return None
    return geometry.align_axes(label, image.affine)


def _structures(dataset: pydicom.Dataset, image: Image, numbers: Mapping[str, int]) -> tuple[Image, int]:
    """Fill the contours of a structure set slice by slice; a contour inside another is a hole.

    Raises:
        DataError: with reason label_offset if contours do not lie in the image's slices.
    """
    drawn: UInt16[np.ndarray, "x y z"] = np.zeros(image.array.shape, np.uint16)
    overlap = 0
    for number, contours in _contours(dataset, numbers):
        filled: Bool[np.ndarray, "x y z"] = np.zeros(image.array.shape, bool)
        for points in contours:
            _fill(filled, points, image)
        overlap += int(np.count_nonzero(filled & (drawn > 0) & (drawn != number)))
        drawn[filled] = number
    return Image(drawn, image.affine), overlap


def _contours(
    dataset: pydicom.Dataset, numbers: Mapping[str, int]
) -> Iterator[tuple[int, list[Float64[np.ndarray, "points 3"]]]]:
    """Yield the class number and the closed contours of each structure, in mm (RAS)."""
    seen = 0
    for roi in dataset.get("ROIContourSequence", ()):
        contours = []
        for one in roi.get("ContourSequence", ()):
            if str(one.get("ContourGeometricType", "")).upper() != "CLOSED_PLANAR":
                continue
            points = np.array([float(value) for value in one.ContourData], np.float64).reshape(-1, 3)
            seen += len(points)
            if seen > _MAX_POINTS:
                raise DataError("structure set of too many points: expected fewer", reason="too_large")
            contours.append(points * _LPS_TO_RAS)
        yield numbers[str(int(roi.ReferencedROINumber))], contours


def _fill(filled: Bool[np.ndarray, "x y z"], points: Float64[np.ndarray, "points 3"], image: Image) -> None:
    """Fill one contour in place; what was filled before becomes a hole."""
    back = np.linalg.inv(image.affine)
    voxels = points @ back[:3, :3].T + back[:3, 3]
    spread = np.ptp(voxels, axis=0)
    across = int(spread.argmin())
    place = int(np.rint(voxels[:, across].mean()))
    off = float(np.abs(voxels[:, across] - place).max())
    if off > _MAX_OFF or not 0 <= place < image.array.shape[across]:
        raise _OffsetError(off, off * image.spacing_mm[across])
    others = [axis for axis in range(3) if axis != across]
    shape = tuple(image.array.shape[axis] for axis in others)
    mask = skimage.draw.polygon2mask(shape, voxels[:, others])
    plane = filled.take(place, axis=across)
    index: list[Any] = [slice(None)] * 3
    index[across] = place
    filled[tuple(index)] = plane ^ mask
