"""Volumes and labels that passed their checks, written to a staging place; all of it runs in sandboxes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from medmim import files
from medmim.data import geometry
from medmim.data.labels import fit_label
from medmim.data.nifti import Image, check_image, encode_image, read_image
from medmim.errors import DataError

_MAX_VALUES = 256


def read_case(image: str, label: str | None, target: str, label_target: str) -> dict[str, Any]:
    """Read an image and, where there is one, its label; write both.

    Returns:
        `image`: its facts; `label`: the facts of the label, or the reason and numbers of its refusal.

    Raises:
        DataError: if the image cannot be used.
    """
    volume = read_image(Path(image))
    check_image(volume)
    found: dict[str, Any] = {"image": store(volume, Path(target)), "label": None}
    if label is not None:
        found["label"] = _label_of(Path(label), volume, Path(label_target))
    return found


def read_label(label: str, image: str, target: str) -> dict[str, Any]:
    """Read a label for an image stored before; write it, or return the reason and numbers of its refusal."""
    return _label_of(Path(label), read_image(Path(image)), Path(target))


def store(image: Image, target: Path) -> dict[str, Any]:
    """Write a volume with a header of our own and return its facts for the manifest."""
    content = encode_image(image)
    files.write_bytes(target, content)
    return {
        "shape": list(image.array.shape),
        "spacing_mm": [round(length, 6) for length in image.spacing_mm],
        "orientation": image.orientation,
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def _label_of(path: Path, image: Image, target: Path) -> dict[str, Any]:
    measured: dict[str, float] = {}
    try:
        label = read_image(path)
        measured = _difference(label, image)
        fitted = fit_label(label, image)
    except DataError as error:
        return {"reason": error.reason, "measured": measured}
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
