"""Datasets with one mask file for each class: the masks of an image are merged to one label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medmim.data.formats.labels import load_label
from medmim.data.formats.nifti import Image
from medmim.data.formats.overlapping_classes import draw_classes, encode_regions
from medmim.data.formats.write_volume import encode_image
from medmim.data.ingest.context import READ_LIMITS, IngestContext
from medmim.data.ingest.label_regions import RegionLabel, recode_labels
from medmim.errors import DataError

Masks = tuple[tuple[Path, int], ...]


@dataclass(frozen=True)
class MaskLabel:
    """The label of a case with one mask file for each class, or the reason why there is none."""

    file: Path
    reason: str | None
    measured: Mapping[str, float]
    regions: RegionLabel | None = None


def merge_masks(
    context: IngestContext, labels: Sequence[Masks], names: Mapping[int, str], *, prefix: str = "masks"
) -> dict[Masks, MaskLabel]:
    """Merge the masks of images with one label file for each class, and number single masks.

    Args:
        labels: label files of each image, with the number of the class that a file marks, or 0.
        names: known names of classes.
        prefix: beginning of the names of staged files.
    """
    several = list(dict.fromkeys(one for one in labels if len(one) > 1 or any(number for _, number in one)))
    files = [context.staged(f"{prefix}-{number}.nii.gz") for number, _ in enumerate(several)]
    keep = {"keep_overlap": context.options.overlap == "regions"}
    tasks = [
        {"masks": [[str(context.file(path)), number or 1] for path, number in masks], "target": str(file)}
        | keep
        for masks, file in zip(several, files, strict=True)
    ]
    answers = context.each("labels", merge_class_masks, tasks, limits=READ_LIMITS)
    values = {file: answer.value for file, answer in zip(files, answers, strict=True) if answer.value}
    found = {file: value["combinations"] for file, value in values.items() if "combinations" in value}
    regions = recode_labels(context, found, names)
    pairs = zip(files, answers, strict=True)
    reasons = {file: one.reason or "unusable" for file, one in pairs if not one.value}
    reasons |= {file: one.facts["reason"] for file, one in regions.items() if "reason" in one.facts}
    return {
        masks: MaskLabel(file, reasons.get(file), values.get(file, {}).get("measured", {}), regions.get(file))
        for masks, file in zip(several, files, strict=True)
    }


def merge_class_masks(
    masks: Sequence[tuple[str, int]], target: str, *, keep_overlap: bool = False
) -> dict[str, Any]:
    """Write one label in which every mask has its class number; meant for a sandbox.

    Where masks overlap, the smaller one stays visible, so that a core inside a whole tumour is kept.

    Args:
        masks: file and class number of each mask.
        target: file to write, on the grid of the first mask.
        keep_overlap: write the codes of `encode_regions` instead.

    Returns:
        `measured`: the number of masks, and of voxels that several classes mark; `combinations` of the codes.

    Raises:
        DataError: if a mask cannot be read, or is not on the grid of the first one.
    """
    read = [(load_label(Path(path), spacing_mm=1.0).image, number) for path, number in masks]
    first = read[0][0]
    for image, _ in read:
        if image.array.shape != first.array.shape or not np.allclose(image.affine, first.affine, atol=1e-3):
            raise DataError("masks of one image have different grids; resample them", reason="label_shape")
    marked = [(image.array > 0, number) for image, number in read]
    merged, overlap = draw_classes(marked, first.array.shape)
    result: dict[str, Any] = {}
    if keep_overlap:
        classes = {number: np.zeros(first.array.shape, bool) for _, number in marked}
        for mask, number in marked:
            classes[number] |= mask
        merged, result["combinations"] = encode_regions(classes)
    Path(target).write_bytes(encode_image(Image(merged, first.affine)))
    measured = {"merged_labels": float(len(masks)), "overlap_voxels": float(overlap)}
    return {**result, "measured": measured}
