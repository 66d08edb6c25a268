"""Properties of a volume or picture that distinguish images from labels: grid and values."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from medmim.data.formats.images import as_mask, is_lossy, is_picture
from medmim.data.formats.labels import few_values
from medmim.data.formats.volumes import read_volume
from medmim.errors import DataError


class VolumeFacts(BaseModel):
    """Grid of a volume, and its values if they are few whole numbers.

    Attributes:
        shape: voxels along the array axes.
        affine: rounded affine, row by row; empty for pictures.
        classes: the distinct values, without 0, if the volume can be a label; None otherwise.
        background: whether 0 is one of the values.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: tuple[int, ...]
    affine: tuple[float, ...] = ()
    classes: tuple[int, ...] | None = None
    background: bool = True

    @property
    def label_like(self) -> bool:
        """Whether the values are background and a few classes."""
        return bool(self.classes) and self.background

    def same_grid(self, other: VolumeFacts) -> bool:
        """Return whether both have as many voxels in the same field of view, whatever their axis order."""
        if sorted(self.shape) != sorted(other.shape):
            return False
        if not (self.affine and other.affine):
            return True
        mine, theirs = (np.abs(np.reshape(one.affine, (3, 4))[:, :3]).sum(axis=1) for one in (self, other))
        return bool(np.allclose(mine, theirs, rtol=0.05))


def examine_volume(path: str) -> dict[str, Any]:
    """Read a volume or picture and return the JSON form of its `VolumeFacts`; meant for a sandbox.

    Raises:
        DataError: if it cannot be read.
    """
    image, _ = read_volume(Path(path))
    affine = () if is_picture(Path(path)) else tuple(round(float(one), 4) for one in image.affine[:3].ravel())
    array = np.asarray(image.array)
    if is_picture(Path(path)):
        with contextlib.suppress(DataError):  # a picture in JPEG that is no label
            array, _ = as_mask(array, lossy=is_lossy(Path(path)))
    values = few_values(array)
    facts = VolumeFacts(
        shape=image.array.shape,
        affine=affine,
        classes=None if values is None else tuple(one for one in values if one),
        background=not (values and values[0]),
    )
    return facts.model_dump(mode="json")
