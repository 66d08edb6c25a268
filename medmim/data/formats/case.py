"""Images and labels read, checked and written to the staging folder; every function runs in a sandbox."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from medmim.data.formats import geometry
from medmim.data.formats.annotations import Annotation, boxes_from_label, place_annotations
from medmim.data.formats.images import COLOUR
from medmim.data.formats.labels import (
    fit_label,
    load_label,
    mark_not_annotated,
    other_values,
    resample_label,
    store_label,
    values_at_edges,
)
from medmim.data.formats.nifti import Image, check_image, read_image
from medmim.data.formats.plain_arrays import has_own_label
from medmim.data.formats.volumes import fill_background, load_volume
from medmim.data.formats.write_volume import write_volume
from medmim.errors import DataError

NO_BACKGROUND = "no_background"  # measurement of a label without any 0
AT_EDGES = "values_at_edges"  # measurement of a label: number of values as interpolation leaves them


class CaseOptions(BaseModel):
    """How to read one image and its label.

    Attributes:
        resample: resample a label on a different grid to the image's.
        spacing_mm: pixel spacing of pictures, if known.
        frame: index along the fourth axis of the image file.
        boxed: classes (number, name) of the label whose components each get a box.
        ignore_label: value of voxels that nobody annotated; a negative one is stored as `NOT_ANNOTATED`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    resample: bool = False
    spacing_mm: float | None = None
    frame: int | None = None
    boxed: tuple[tuple[int, str], ...] = ()
    ignore_label: int | None = None


def read_case(
    image: str,
    label: str | None,
    target: str,
    label_target: str,
    *,
    noted: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Read an image with its label and annotations, and write image and label.

    Args:
        noted: annotations of the image: `marks` in JSON form, `numbers` of the classes in labels, and `empty`
            if the image is known to have no findings.

    Returns:
        `image`: its manifest entries; `label`: those of the label, or the reason and measurements of its
        rejection; `boxes` and `measured` of the annotations; `repairs` of image and label.

    Raises:
        DataError: if the image cannot be used.
    """
    chosen = CaseOptions(**options)
    loaded = load_volume(Path(image), spacing_mm=chosen.spacing_mm or 1.0, frame=chosen.frame)
    loaded = fill_background(loaded)
    volume = loaded.image
    check_image(volume, picture=volume.array.shape[2] == 1)
    result: dict[str, Any] = {"image": write_volume(volume, Path(target)), "label": None}
    result |= {"repairs": list(loaded.repairs), "boxes": [], "measured": loaded.measured}
    drawn = None
    if noted is not None:
        placed = place_annotations(_annotations(noted["marks"]), volume, noted["numbers"])
        result["boxes"] = _as_json(placed.boxes)
        result["measured"] = {**loaded.measured, **placed.measured}
        empty = Image(np.zeros(volume.array.shape, np.uint8), volume.affine)
        drawn = placed.label or (empty if noted["empty"] else None)
    if label is None and has_own_label(Path(image)):
        label = image
    if label is not None:
        result["label"] = _fit_label_file(Path(label), volume, Path(label_target), chosen)
        if "reason" not in result["label"]:
            result["repairs"] += result["label"]["repairs"]
            if chosen.boxed:
                result["boxes"] = boxes_from_label(read_image(Path(label_target)), dict(chosen.boxed))
    elif drawn is not None:
        result["label"] = store_label(fit_label(drawn, volume), Path(label_target))
    return result


def read_label(label: str, image: str, target: str, **options: Any) -> dict[str, Any]:
    """Read and write the label of a stored image, or return the reason and measurements of its rejection."""
    return _fit_label_file(Path(label), read_image(Path(image)), Path(target), CaseOptions(**options))


def merge_labels(labels: Sequence[str], target: str) -> dict[str, Any]:
    """Merge stored labels of one image into one; return its entries, or the reason of the rejection.

    Identical labels count once. A label that lies inside another one completely is drawn over it; labels that
    overlap in part are rejected.
    """
    images = [read_image(Path(path)) for path in labels]
    arrays = sorted((one.array for one in images), key=np.count_nonzero, reverse=True)
    merged = arrays[0].astype(np.uint16)
    overlap = 0
    for place, array in enumerate(arrays[1:], start=1):
        marked = array > 0
        for larger in arrays[:place]:
            shared, own = (int(np.count_nonzero(one)) for one in (marked & (larger > 0), marked))
            same = shared == np.count_nonzero(larger) and not np.array_equal(array, larger)
            if 0 < shared < own or (shared and same):
                return {"reason": "label_overlap", "measured": {"overlap_voxels": float(shared)}}
        overlap += int(np.count_nonzero(marked & (merged > 0) & (merged != array)))
        merged[marked] = array[marked]
    measured = {"merged_labels": float(len(labels)), "overlap_voxels": float(overlap)}
    fitted = fit_label(Image(merged, images[0].affine), images[0])
    return {**store_label(fitted, Path(target)), "measured": measured}


def place_marks(image: str, marks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Convert annotations to voxels of a stored image; return `boxes` and `measured`."""
    placed = place_annotations(_annotations(marks), read_image(Path(image)), {})
    return {"boxes": _as_json(placed.boxes), "measured": placed.measured}


def fit_and_store(label: Image, image: Image, target: Path, *, resample: bool) -> dict[str, Any]:
    """Write a label on its image's grid; return its entries, or the reason of the rejection."""
    measured, resampled = _grid_difference(label, image), {}
    try:
        fitted = fit_label(label, image)
    except DataError as error:
        if error.reason == "label_not_integral":
            found = filter(math.isfinite, other_values(label.array))
            measured |= {f"value_{number}": value for number, value in enumerate(found)}
        if not resample or error.reason not in ("label_shape", "label_offset"):
            return {"reason": error.reason, "measured": measured}
        try:
            fitted, resampled = resample_label(label, image), {"resampled": True}
        except DataError as other:
            return {"reason": other.reason, "measured": measured}
    if fitted.array.all():
        measured[NO_BACKGROUND] = 1.0
    if edges := values_at_edges(fitted.array):
        measured[AT_EDGES] = float(len(edges))
    return {**store_label(fitted, target), **resampled, "measured": measured}


def _fit_label_file(path: Path, image: Image, target: Path, options: CaseOptions) -> dict[str, Any]:
    try:
        loaded = load_label(path, spacing_mm=image.spacing_mm[0], ignore_label=options.ignore_label)
        label = loaded.image
        if options.ignore_label is not None:
            label = mark_not_annotated(label, options.ignore_label)
    except DataError as error:
        return {"reason": error.reason, "measured": {}}
    facts = fit_and_store(label, image, target, resample=options.resample)
    facts["measured"] |= {key: value for key, value in loaded.measured.items() if key.startswith(COLOUR)}
    return {**facts, "repairs": [one for one in loaded.repairs if one.startswith("label_")]}


def _grid_difference(label: Image, image: Image) -> dict[str, float]:
    """Return both shapes and, if they are equal, the largest corner distance in mm."""
    aligned = geometry.align_axes(label, image.affine) or label
    pairs = {"image": image.array.shape, "label": aligned.array.shape}
    measured = {f"{what}_{axis}": float(n) for what, shape in pairs.items() for axis, n in enumerate(shape)}
    if aligned.array.shape == image.array.shape:
        measured["offset_mm"] = geometry.corner_distance(image.array.shape, aligned.affine, image.affine)
    return measured


def _annotations(marks: Sequence[Mapping[str, Any]]) -> list[Annotation]:
    return [Annotation.model_validate(mark) for mark in marks]


def _as_json(boxes: Sequence[tuple[str, tuple[float, ...]]]) -> list[list[Any]]:
    return [[name, list(box)] for name, box in boxes]
