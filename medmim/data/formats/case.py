"""Volumes and labels that passed their checks, written to a staging place; all of it runs in sandboxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medmim.data.formats import geometry
from medmim.data.formats.annotations import Annotation, boxes_around, place_annotations
from medmim.data.formats.images import is_picture
from medmim.data.formats.labels import fit_label, resample_label
from medmim.data.formats.nifti import Image, check_image, read_image
from medmim.data.formats.volumes import read_volume
from medmim.data.formats.write_volume import store
from medmim.errors import DataError

_MAX_VALUES = 256


def read_case(
    image: str,
    label: str | None,
    target: str,
    label_target: str,
    *,
    resample: bool = False,
    spacing_mm: float | None = None,
    noted: Mapping[str, Any] | None = None,
    boxed: Sequence[tuple[int, str]] | None = None,
) -> dict[str, Any]:
    """Read an image and, where there are any, its label and marks; write both.

    Args:
        image: file of the image.
        label: file of its label.
        target: where to write the image.
        label_target: where to write the label.
        resample: bring a label that lies on another grid to the image's.
        spacing_mm: of pictures, if it is known.
        noted: what people noted of it: `marks` in JSON form, `numbers` of the classes in labels, and `empty`
            if it is known that there is nothing to find.
        boxed: classes of the label, number and name, whose parts get a box each.

    Returns:
        `image`: its facts; `label`: the facts of the label, or the reason and numbers of its refusal; `boxes`
        and `measured`: of the marks; `repairs`: what was done to the image.

    Raises:
        DataError: if the image cannot be used.
    """
    volume, repairs = read_volume(Path(image), spacing_mm=spacing_mm or 1.0)
    check_image(volume, picture=is_picture(Path(image)))
    found: dict[str, Any] = {"image": store(volume, Path(target)), "label": None}
    found |= {"repairs": list(repairs), "boxes": [], "measured": {}}
    drawn = None
    if noted is not None:
        placed = place_annotations(
            [Annotation.model_validate(mark) for mark in noted["marks"]], volume, noted["numbers"]
        )
        found["boxes"], found["measured"] = [[name, list(box)] for name, box in placed.boxes], placed.measured
        empty = Image(np.zeros(volume.array.shape, np.uint8), volume.affine)
        drawn = placed.label or (empty if noted["empty"] else None)
    if label is not None:
        found["label"] = _label_of(Path(label), volume, Path(label_target), resample=resample)
        if boxed and "reason" not in found["label"]:
            found["boxes"] = boxes_around(read_image(Path(label_target)), {int(n): name for n, name in boxed})
    elif drawn is not None:
        found["label"] = _stored_label(fit_label(drawn, volume), Path(label_target))
    return found


def read_label(label: str, image: str, target: str, *, resample: bool = False) -> dict[str, Any]:
    """Read a label for an image stored before; write it, or return the reason and numbers of its refusal."""
    return _label_of(Path(label), read_image(Path(image)), Path(target), resample=resample)


def merge_labels(labels: Sequence[str], target: str) -> dict[str, Any]:
    """Write stored labels of one image as one; return its facts, or the reason and numbers of a refusal.

    Copies of one label count once. Where two others mark the same voxel, nobody knows which to believe.
    """
    first = read_image(Path(labels[0]))
    parts = [first.array]
    for path in labels[1:]:
        array = read_image(Path(path)).array
        if any(np.array_equal(array, part) for part in parts):
            continue
        overlap = sum(int(np.count_nonzero((array > 0) & (part > 0))) for part in parts)
        if overlap:
            return {"reason": "label_overlap", "measured": {"overlap_voxels": float(overlap)}}
        parts.append(array)
    merged = Image(np.asarray(np.sum(parts, axis=0, dtype=np.int64)), first.affine)
    measured = {"merged_labels": float(len(labels))}
    return {**_stored_label(fit_label(merged, first), Path(target)), "measured": measured}


def place_marks(image: str, marks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Bring marks to the voxels of an image stored before; return `boxes` and what was `measured`."""
    placed = place_annotations(
        [Annotation.model_validate(mark) for mark in marks], read_image(Path(image)), {}
    )
    return {"boxes": [[name, list(box)] for name, box in placed.boxes], "measured": placed.measured}


def fit_and_store(label: Image, image: Image, target: Path, *, resample: bool) -> dict[str, Any]:
    """Write a label on its image's grid and return its facts, or the reason and numbers of its refusal."""
    measured = _difference(label, image)
    try:
        fitted = fit_label(label, image)
    except DataError as error:
        if not resample or error.reason not in ("label_shape", "label_offset"):
            return {"reason": error.reason, "measured": measured}
        try:
            fitted = resample_label(label, image)
        except DataError as other:
            return {"reason": other.reason, "measured": measured}
        return {**_stored_label(fitted, target), "resampled": True, "measured": measured}
    return {**_stored_label(fitted, target), "measured": measured}


def _label_of(path: Path, image: Image, target: Path, *, resample: bool) -> dict[str, Any]:
    try:
        label, _ = read_volume(path, spacing_mm=image.spacing_mm[0])
    except DataError as error:
        return {"reason": error.reason, "measured": {}}
    if is_picture(path) and set(np.unique(label.array).tolist()) <= {0, 255}:
        label = Image(label.array // 255, label.affine)  # how pictures show a mask
    return fit_and_store(label, image, target, resample=resample)


def _stored_label(fitted: Image, target: Path) -> dict[str, Any]:
    values = np.unique(fitted.array)
    return {**store(fitted, target), "values": [int(value) for value in values[:_MAX_VALUES] if value]}


def _difference(label: Image, image: Image) -> dict[str, float]:
    """Return both shapes and, for equal ones, how far their corners are apart in mm."""
    turned = geometry.along(label, image.affine) or label
    pairs = {"image": image.array.shape, "label": turned.array.shape}
    measured = {f"{what}_{axis}": float(n) for what, shape in pairs.items() for axis, n in enumerate(shape)}
    if turned.array.shape == image.array.shape:
        measured["offset_mm"] = geometry.corner_distance(image.array.shape, turned.affine, image.affine)
    return measured
