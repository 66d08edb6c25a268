"""Datasets with one mask file for each class: the masks of an image are merged to one label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medmim.data.formats.labels import load_label
from medmim.data.formats.nifti import Image
from medmim.data.formats.write_volume import encode_image
from medmim.data.ingest.cases import LayoutCase
from medmim.data.ingest.context import READ_LIMITS, IngestContext
from medmim.errors import DataError

Masks = tuple[tuple[Path, int], ...]


@dataclass(frozen=True)
class MaskLabel:
    """The label of a case with one mask file for each class, or the reason why there is none."""

    file: Path
    reason: str | None
    measured: Mapping[str, float]


def merge_masks(context: IngestContext, cases: Sequence[LayoutCase]) -> dict[Masks, MaskLabel]:
    """Merge the masks of cases with one label file for each class, and number single masks."""
    several = list(
        dict.fromkeys(case.labels for case in cases if len(case.labels) > 1 or any(n for _, n in case.labels))
    )
    files = [context.staged(f"masks-{number}.nii.gz") for number, _ in enumerate(several)]
    tasks = [
        {"masks": [[str(context.file(path)), number or 1] for path, number in masks], "target": str(file)}
        for masks, file in zip(several, files, strict=True)
    ]
    answers = context.each("labels", merge_class_masks, tasks, limits=READ_LIMITS)
    return {
        masks: MaskLabel(file, None if answer.value else answer.reason or "unusable", answer.value or {})
        for masks, file, answer in zip(several, files, answers, strict=True)
    }


def merge_class_masks(masks: Sequence[tuple[str, int]], target: str) -> dict[str, float]:
    """Write one label in which every mask has its class number; meant for a sandbox.

    Where masks overlap, the smaller one stays visible, so that a core inside a whole tumour is kept.

    Args:
        masks: file and class number of each mask.
        target: file to write, on the grid of the first mask.

    Returns:
        The number of masks, and of voxels that several masks mark.

    Raises:
        DataError: if a mask cannot be read, or is not on the grid of the first one.
    """
    read = [(load_label(Path(path), spacing_mm=1.0).image, number) for path, number in masks]
    first = read[0][0]
    for image, _ in read:
        if image.array.shape != first.array.shape or not np.allclose(image.affine, first.affine, atol=1e-3):
            raise DataError("masks of one image have different grids; resample them", reason="label_shape")
    marked = sorted(((image.array > 0, number) for image, number in read), key=lambda one: -int(one[0].sum()))
    merged = np.zeros(first.array.shape, np.uint16)
    count = np.zeros(first.array.shape, np.uint16)
    for mask, number in marked:
        merged[mask] = number
        count += mask
    Path(target).write_bytes(encode_image(Image(merged, first.affine)))
    return {"merged_labels": float(len(masks)), "overlap_voxels": float((count > 1).sum())}
