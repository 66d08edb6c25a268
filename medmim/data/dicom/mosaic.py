"""Siemens mosaics: one picture whose tiles are the slices of a volume, and where each tile lies."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import pydicom
from pydicom.tag import Tag

from medmim.data.dicom.header import VENDOR_GRID, Header, header_of, words
from medmim.data.formats import geometry

with warnings.catch_warnings():  # nibabel calls its DICOM readers experimental; only the CSA parser is used
    warnings.simplefilter("ignore")
    from nibabel.nicom import csareader

CSAError: type[Exception] = csareader.CSAError
_CSA_OWNER, _CSA = Tag(0x0029, 0x0010), Tag(0x0029, 0x1010)
_COUNT_OWNER, _COUNT = Tag(0x0019, 0x0010), Tag(0x0019, 0x100A)
_MAX_TILES = 1024


@dataclass(frozen=True)
class MosaicGrid:
    """Tiles of a mosaic: `across` in each direction, the first `count` of them in use."""

    across: int
    rows: int
    columns: int

    def corner(self, tile: int) -> tuple[int, int]:
        """Return the row and column of a tile's first pixel in the picture."""
        return tile // self.across * self.rows, tile % self.across * self.columns


def is_mosaic(dataset: pydicom.Dataset) -> bool:
    """Say whether the picture is a mosaic."""
    return "MOSAIC" in (str(word).upper() for word in words(dataset, "ImageType"))


def is_vendor_grid(dataset: pydicom.Dataset) -> bool:
    """Say whether the picture holds several slices in a vendor's own order, which is not known here."""
    said = str(dataset[VENDOR_GRID].value).strip() if VENDOR_GRID in dataset else ""
    return "VFRAME" in (str(word).upper() for word in words(dataset, "ImageType")) or said not in (
        "",
        "0",
        "1",
    )


def mosaic_grid(count: int, rows: int, columns: int) -> MosaicGrid:
    """Return the tiles of a picture with `count` slices: the smallest square that holds them.

    Raises:
        ValueError: if the picture does not divide into it.
    """
    across = math.isqrt(count - 1) + 1
    if not 1 <= count <= _MAX_TILES or rows % across or columns % across:
        raise ValueError("a picture that does not divide into tiles")
    return MosaicGrid(across, rows // across, columns // across)


def tile_headers(dataset: pydicom.Dataset) -> list[Header]:
    """Return the facts of each tile.

    The picture's own position is that of a slice as large as the whole mosaic around the same centre.

    Raises:
        ValueError: if the header does not say how many tiles there are, how far apart, or in which direction.
    """
    whole = header_of(dataset, "tile")
    count, normal = _count_and_normal(dataset)
    step = whole.slice_step
    if not (count and step and whole.spacing and whole.orientation and whole.position):
        raise ValueError("a mosaic without the place of its tiles")
    grid = mosaic_grid(count, whole.rows, whole.columns)
    axes = np.asarray(whole.orientation, np.float64).reshape(2, 3)
    across = geometry.slice_normal(whole.orientation)
    upwards = 1.0 if normal is None or normal @ across >= 0 else -1.0
    half = np.array([whole.columns - grid.columns, whole.rows - grid.rows]) / 2.0
    first = np.asarray(whole.position) + (half * whole.spacing[::-1]) @ axes
    places = [first + tile * step * upwards * across for tile in range(count)]
    return [
        whole.model_copy(
            update={
                "frame": tile,
                "rows": grid.rows,
                "columns": grid.columns,
                "position": tuple(place.tolist()),
            }
        )
        for tile, place in enumerate(places)
    ]


def _count_and_normal(dataset: pydicom.Dataset) -> tuple[int, geometry.Vector | None]:
    """Return the number of tiles, 0 if unknown, and the direction in which they are stacked."""
    csa = None
    if _CSA in dataset and str(
        dataset.get(_CSA_OWNER, pydicom.DataElement(_CSA_OWNER, "LO", "")).value
    ).strip() == ("SIEMENS CSA HEADER"):
        csa = csareader.read(dataset[_CSA].value)
    count = csareader.get_n_mosaic(csa) if csa else None
    if count is None and _COUNT in dataset and "SIEMENS" in str(dataset[_COUNT_OWNER].value):
        count = int(dataset[_COUNT].value)
    normal = csareader.get_slice_normal(csa) if csa else None
    return int(count or 0), None if normal is None else np.asarray(normal, np.float64)
