"""Overlapping classes in one label volume: smaller ones cover larger ones, or each combination has a code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt16

from medmim.data.formats.labels import store_label
from medmim.data.formats.nifti import Image, read_image
from medmim.errors import DataError

MAX_CLASSES = 63
Combinations = list[list[int]]


def draw_classes(
    masks: Sequence[tuple[Bool[np.ndarray, "x y z"], int]], shape: Sequence[int]
) -> tuple[UInt16[np.ndarray, "x y z"], int]:
    """Return a label in which smaller masks cover larger ones, and how many voxels several classes mark.

    A core inside a whole tumour thus stays visible.

    Args:
        masks: voxels and class number of each mask; a class may have several.
        shape: of the label.
    """
    label, overlap = np.zeros(tuple(shape), np.uint16), np.zeros(tuple(shape), bool)
    for mask, number in sorted(masks, key=lambda one: -int(one[0].sum())):
        overlap |= mask & (label > 0) & (label != number)
        label[mask] = number
    return label, int(overlap.sum())


def encode_regions(
    masks: Mapping[int, Bool[np.ndarray, "x y z"]],
) -> tuple[UInt16[np.ndarray, "x y z"], Combinations]:
    """Return a volume of the codes 1, 2, … and the classes of each code.

    Args:
        masks: voxels of each class, by its number; at least one.

    Raises:
        DataError: with reason too_many_classes.
    """
    numbers = sorted(masks)
    if len(numbers) > MAX_CLASSES:
        raise DataError(
            f"{len(numbers)} overlapping classes: expected up to {MAX_CLASSES}; omit --overlap regions",
            reason="too_many_classes",
        )
    marked = np.zeros(masks[numbers[0]].shape, np.int64)
    for place, number in enumerate(numbers):
        marked |= masks[number].astype(np.int64) << place
    found, codes = np.unique(marked, return_inverse=True)
    codes = codes.reshape(marked.shape) + int(found[0] > 0)  # without background, codes begin at 0
    combinations = [
        [number for place, number in enumerate(numbers) if value >> place & 1]
        for value in found.tolist()
        if value
    ]
    return codes.astype(np.uint16), combinations


def merge_regions(labels: Sequence[str], combinations: Sequence[Combinations], target: str) -> dict[str, Any]:
    """Merge the stored labels of one image and write the result; runs in a sandbox.

    Args:
        labels: files of labels by `encode_regions`.
        combinations: classes of each code of each label.

    Returns:
        The entries of the label, and its `combinations`.
    """
    images = [read_image(Path(path)) for path in labels]
    masks: dict[int, Bool[np.ndarray, "x y z"]] = {}
    for image, own in zip(images, combinations, strict=True):
        for number in sorted({number for classes in own for number in classes}):
            codes = [code for code, classes in enumerate(own, start=1) if number in classes]
            mask = np.isin(image.array, codes)
            masks[number] = masks[number] | mask if number in masks else mask
    merged, found = encode_regions(masks)
    several = [code for code, classes in enumerate(found, start=1) if len(classes) > 1]
    measured = {"merged_labels": float(len(labels)), "overlap_voxels": float(np.isin(merged, several).sum())}
    stored = store_label(Image(merged, images[0].affine), Path(target))
    return {**stored, "combinations": found, "measured": measured}


def recode_label(label: str, codes: Sequence[int]) -> dict[str, Any]:
    """Replace the codes 1, 2, … of a stored label by other codes; runs in a sandbox."""
    image = read_image(Path(label))
    table = np.array([0, *codes], np.uint16)
    return store_label(Image(table[image.array.astype(np.int64)], image.affine), Path(label))
