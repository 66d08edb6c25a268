"""DICOM labels (segmentations and structure sets) on the grid of the image that they refer to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
from jaxtyping import Bool, Float64, UInt16

from medmim.data.dicom.segment_names import public_name
from medmim.data.dicom.structure_sets import MAX_OFF, Mask, Region, fill_structures
from medmim.data.formats import geometry
from medmim.data.formats.case import fit_and_store
from medmim.data.formats.labels import MAX_OFFSET_VOXELS
from medmim.data.formats.nifti import Image, read_image
from medmim.data.formats.overlapping_classes import draw_classes, encode_regions
from medmim.data.formats.safe_open import damage_named, read_dicom
from medmim.errors import DataError

_SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_MAX_BYTES = 2 << 30


def read_segments(path: str) -> dict[str, Any]:
    """Return the series that a DICOM label refers to, and its segments; runs in a sandbox.

    `instances` are the images that its frames or contours refer to, if it does not name a series.
    Each segment is a number, the source's own name (which must not be written), and a name that may be
    written, or "".

    Raises:
        DataError: if the file is damaged.
    """
    with damage_named():
        return _segments_of(read_dicom(Path(path)))


def _segments_of(dataset: pydicom.Dataset) -> dict[str, Any]:
    if dataset.SOPClassUID in _SEGMENTATIONS:
        series = [str(one.SeriesInstanceUID) for one in dataset.get("ReferencedSeriesSequence", ())]
        segments = [
            [int(one.SegmentNumber), str(one.get("SegmentLabel", "")), public_name(dataset, one)]
            for one in dataset.SegmentSequence
            if int(one.SegmentNumber) > 0  # 0 is the background of label maps
        ]
        return {"series": series, "segments": segments, "instances": [] if series else _instances(dataset)}
    series = [
        str(one.SeriesInstanceUID)
        for frame in dataset.get("ReferencedFrameOfReferenceSequence", ())
        for study in frame.get("RTReferencedStudySequence", ())
        for one in study.get("RTReferencedSeriesSequence", ())
    ]
    segments = [
        [int(one.ROINumber), str(one.get("ROIName", "")), public_name(dataset, one)]
        for one in dataset.StructureSetROISequence
    ]
    return {"series": series, "segments": segments, "instances": [] if series else _instances(dataset)}


def _instances(dataset: pydicom.Dataset) -> list[str]:
    """Return the images that frames or contours refer to."""
    found: set[str] = set()
    for name in ("PerFrameFunctionalGroupsSequence", "ROIContourSequence"):
        for one in dataset.get(name, ()):
            found |= {
                str(element.value)
                for element in one.iterall()
                if element.keyword == "ReferencedSOPInstanceUID"
            }
    return sorted(found)


def read_labels(
    label: str,
    image: str,
    target: str,
    *,
    numbers: Mapping[str, int],
    resample: bool = False,
    keep_overlap: bool = False,
) -> dict[str, Any]:
    """Write a DICOM label on the grid of a stored image; runs in a sandbox.

    Where segments overlap, the smaller one is kept; `measured` counts overlapping voxels, and segments that
    are hidden completely.

    Args:
        numbers: class number of each segment, by the segment's own number as text.
        resample: resample a segmentation on another grid, and move contours to the nearest slice.
        keep_overlap: write the codes of `encode_regions`; the result contains their `combinations`.

    Returns:
        The facts of the label, or the reason and numbers of its refusal.
    """
    stored = read_image(Path(image))
    try:
        with damage_named():
            dataset = read_dicom(Path(label))
            if dataset.SOPClassUID in _SEGMENTATIONS:
                regions, affine, measured = _segmentation(dataset, stored, numbers)
            else:
                regions, measured = fill_structures(dataset, stored, numbers, resample=resample)
                affine = stored.affine
        drawn, noted, overlaps = _draw(regions, stored.array.shape, keep_overlap=keep_overlap)
    except DataError as error:
        return {"reason": error.reason, "measured": getattr(error, "measured", {})}
    facts = fit_and_store(Image(drawn, affine), stored, Path(target), resample=resample) | noted
    moved = {"resampled": True} if measured.get("offset_voxels", 0.0) > MAX_OFF else {}
    return {**facts, **moved, "measured": {**facts["measured"], **measured, **overlaps}}


def _draw(
    regions: Sequence[Region], shape: tuple[int, ...], *, keep_overlap: bool
) -> tuple[UInt16[np.ndarray, "x y z"], dict[str, Any], dict[str, float]]:
    """Draw regions into one label: with codes for overlaps, or the smaller over the larger ones.

    Returns:
        The label, its `combinations` if it has codes for overlaps, and counts.
    """
    if keep_overlap and regions:
        codes, found = encode_regions({one.number: one.mask for one in regions})
        several = [code for code, classes in enumerate(found, start=1) if len(classes) > 1]
        return codes, {"combinations": found}, {"overlap_voxels": float(np.isin(codes, several).sum())}
    masks = [(one.mask, one.number) for one in regions]
    drawn, overlap = draw_classes(masks, regions[0].mask.shape if regions else shape)
    visible = set(np.unique(drawn).tolist())
    hidden = {one.number for one in regions if one.mask.any()} - visible
    counts = {"overlap_voxels": float(overlap)}
    return drawn, {}, counts | ({"hidden_segments": float(len(hidden))} if hidden else {})


class _Frame(NamedTuple):
    """One frame of a segmentation: its segment (None in a label map), pixels, and (column, row, 0) to mm."""

    segment: int | None
    pixels: np.ndarray
    affine: Float64[np.ndarray, "4 4"]


def _segmentation(
    dataset: pydicom.Dataset, image: Image, numbers: Mapping[str, int]
) -> tuple[list[Region], geometry.Affine, dict[str, float]]:
    """Place the frames of a segmentation on the image's grid or, if they do not lie on it, on their own."""
    frames = _frames(dataset)
    placed = [_voxels(frame, image) for frame in frames]
    if None in placed:
        affine, places, count = _own_grid(dataset, [frame.affine for frame in frames], image)
        shape = (*frames[0].pixels.shape[::-1], count)
        masks = _masks(frames, numbers, shape)
        for frame, place in zip(frames, places, strict=True):
            for number, inside in _marked(frame, numbers):
                masks[number][:, :, place] |= inside.T
        return [Region(number, mask) for number, mask in masks.items()], affine, {}
    masks = _masks(frames, numbers, image.array.shape)
    outside, offset = 0, 0.0
    limits = np.array(image.array.shape)
    for frame, found in zip(frames, placed, strict=True):
        assert found is not None
        voxels, off = found
        offset = max(offset, off)
        for number, inside in _marked(frame, numbers):
            marked = voxels[inside]
            within = ((marked >= 0) & (marked < limits)).all(axis=1)
            outside += int(np.count_nonzero(~within))
            masks[number][tuple(marked[within].T)] = True
    measured = {"offset_mm": offset} | ({"outside_voxels": float(outside)} if outside else {})
    return [Region(number, mask) for number, mask in masks.items()], image.affine, measured


def _masks(frames: Sequence[_Frame], numbers: Mapping[str, int], shape: tuple[int, ...]) -> dict[int, Mask]:
    """Return an empty mask for each class that the frames can mark."""
    if any(frame.segment is None for frame in frames):
        classes = set(numbers.values())
    else:
        classes = {numbers[str(frame.segment)] for frame in frames}
    return {number: np.zeros(shape, bool) for number in sorted(classes)}


def _marked(frame: _Frame, numbers: Mapping[str, int]) -> Iterator[tuple[int, Bool[np.ndarray, "r c"]]]:
    """Yield the class number and the marked pixels of each segment in a frame."""
    if frame.segment is not None:
        yield numbers[str(frame.segment)], frame.pixels > 0
        return
    for value in np.unique(frame.pixels):
        if str(int(value)) in numbers:
            yield numbers[str(int(value))], frame.pixels == value


def _frames(dataset: pydicom.Dataset) -> list[_Frame]:
    size = int(dataset.NumberOfFrames) * int(dataset.Rows) * int(dataset.Columns)
    if size > _MAX_BYTES:
        raise DataError("segmentation: expected at most 2 GiB, got more; crop it", reason="too_large")
    pixels = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    kind = str(dataset.get("SegmentationType", "BINARY"))
    if kind == "FRACTIONAL":
        pixels = pixels >= 0.5 * float(dataset.get("MaximumFractionalValue", 255))
    shared = dataset.SharedFunctionalGroupsSequence[0]
    return [
        _frame(own, shared, one, label_map=kind == "LABELMAP")
        for own, one in zip(dataset.PerFrameFunctionalGroupsSequence, pixels, strict=True)
    ]


def _frame(own: pydicom.Dataset, shared: pydicom.Dataset, pixels: np.ndarray, *, label_map: bool) -> _Frame:
    def item(name: str) -> pydicom.Dataset:
        return (own if name in own else shared)[name][0]

    affine = geometry.slice_affine(
        [float(value) for value in item("PlaneOrientationSequence").ImageOrientationPatient],
        [float(value) for value in item("PixelMeasuresSequence").PixelSpacing],
        [float(value) for value in item("PlanePositionSequence").ImagePositionPatient],
    )
    segment = None if label_map else int(item("SegmentIdentificationSequence").ReferencedSegmentNumber)
    return _Frame(segment, pixels, affine)


def _voxels(frame: _Frame, image: Image) -> tuple[np.ndarray, float] | None:
    """Return the image voxel of each pixel and the largest offset in mm; None for a frame off the grid."""
    rows, columns = frame.pixels.shape
    to_voxels = np.linalg.inv(image.affine) @ frame.affine
    steps = np.rint(to_voxels[:3, :2])
    if not np.array_equal(np.abs(steps).sum(axis=0), [1, 1]) or np.abs(steps).sum(axis=1).max() > 1:
        return None
    exact = to_voxels.copy()
    exact[:3, :2], exact[:3, 3] = steps, np.rint(to_voxels[:3, 3])
    corners = np.array([[column, row, 0, 1] for column in (0, columns - 1) for row in (0, rows - 1)]).T
    off = ((to_voxels - exact) @ corners)[:3]
    if np.abs(off).max() > MAX_OFFSET_VOXELS:
        return None
    grid = np.indices((rows, columns))
    voxels = exact[:3, 3] + grid[1][..., None] * steps[:, 0] + grid[0][..., None] * steps[:, 1]
    return voxels.astype(int), float(np.linalg.norm(image.affine[:3, :3] @ off, axis=0).max())


def _own_grid(
    dataset: pydicom.Dataset, planes: Sequence[geometry.Affine], image: Image
) -> tuple[geometry.Affine, list[int], int]:
    """Return the grid of frames that do not lie on the image's: affine, place of each frame, and slices.

    Raises:
        DataError: with reason label_uneven if the frames are no evenly spaced, parallel stack.
    """
    first = planes[0]
    normal = first[:3, 2]
    offsets = np.array([float((affine[:3, 3] - first[:3, 3]) @ normal) for affine in planes])
    heights = np.unique(np.round(offsets, 3))
    step = _step(dataset, heights, normal, image)
    places = (offsets - heights[0]) / step
    moved = [
        affine[:3, 3] - (offset * normal + first[:3, 3])
        for affine, offset in zip(planes, offsets, strict=True)
    ]
    turned = max(float(np.abs(affine[:3, :3] - first[:3, :3]).max()) for affine in planes)
    uneven = float(np.abs(places - np.rint(places)).max()) > 0.1
    if uneven or turned > 1e-3 or float(np.abs(moved).max()) > 0.1:
        raise DataError(
            "segmentation: expected frames in one evenly spaced, parallel stack; export it again",
            reason="label_uneven",
        )
    affine = first.copy()
    affine[:3, 2] = normal * step
    affine[:3, 3] = first[:3, 3] + heights[0] * normal
    places = np.rint(places).astype(int)
    return affine, places.tolist(), int(places.max()) + 1


def _step(
    dataset: pydicom.Dataset,
    heights: Float64[np.ndarray, "heights"],
    normal: Float64[np.ndarray, "3"],
    image: Image,
) -> float:
    """Return the spacing of a segmentation's slices, in mm: empty slices are left out of its frames.

    The first that fits all frames: the image's spacing, the segmentation's own, the smallest distance.
    """
    across = int(np.abs(normal @ (image.affine[:3, :3] / image.spacing_mm)).argmax())
    measures = dataset.SharedFunctionalGroupsSequence[0].get("PixelMeasuresSequence") or [pydicom.Dataset()]
    own = [measures[0].get(name) for name in ("SpacingBetweenSlices", "SliceThickness")]
    for step in (image.spacing_mm[across], *(float(value) for value in own if value)):
        places = (heights - heights[0]) / step
        if step > 0 and np.abs(places - np.rint(places)).max() <= 0.1:
            return step
    return float(np.diff(heights).min())
