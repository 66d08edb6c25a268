"""Mosaics of Siemens and United Imaging: images whose tiles are the slices of a volume."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import pydicom
from pydicom.tag import Tag

from medmim.data.dicom.header import Header, header_of, numbers, values
from medmim.data.dicom.vendor_elements import GRID_COUNT, GRID_FRAMES, private_text
from medmim.data.formats import geometry

with warnings.catch_warnings():  # nibabel calls its DICOM readers experimental; only the CSA parser is used
    warnings.simplefilter("ignore")
    from nibabel.nicom import csareader

CSAError: type[Exception] = csareader.CSAError
_CSA_OWNER, _CSA = Tag(0x0029, 0x0010), Tag(0x0029, 0x1010)
_COUNT_OWNER, _COUNT = Tag(0x0019, 0x0010), Tag(0x0019, 0x100A)
_MAX_TILES = 1024


def _has_image_type(dataset: pydicom.Dataset, word: str) -> bool:
    return word in (str(value).upper() for value in values(dataset, "ImageType"))


def is_siemens_mosaic(dataset: pydicom.Dataset) -> bool:
    """Return whether the image is a Siemens mosaic."""
    return _has_image_type(dataset, "MOSAIC")


def is_united_imaging_grid(dataset: pydicom.Dataset) -> bool:
    """Return whether the image contains several slices in United Imaging's form."""
    return _has_image_type(dataset, "VFRAME") or private_text(dataset, GRID_COUNT) not in ("", "0", "1")


def siemens_headers(dataset: pydicom.Dataset) -> list[Header]:
    """Return the header of each tile of a Siemens mosaic, which is as many tiles high as wide.

    The header's own position is that of a slice as large as the whole mosaic around the same centre.

    Raises:
        ValueError: if the header lacks the number of tiles, their distance or their direction.
    """
    whole = header_of(dataset, "tile")
    count, normal = _count_and_normal(dataset)
    step = whole.slice_step
    if not (count and step and whole.spacing and whole.orientation and whole.position):
        raise ValueError("mosaic without the position of its tiles")
    across = math.isqrt(count - 1) + 1
    rows, columns = _tile_size(whole, count, across, across)
    axes = np.asarray(whole.orientation, np.float64).reshape(2, 3)
    up = geometry.slice_normal(whole.orientation)
    sign = 1.0 if normal is None or normal @ up >= 0 else -1.0
    half = np.array([whole.columns - columns, whole.rows - rows]) / 2.0
    first = np.asarray(whole.position) + (half * whole.spacing[::-1]) @ axes
    positions = [(first + tile * step * sign * up).tolist() for tile in range(count)]
    return _tile_headers(whole, (rows, columns), positions)


def united_imaging_headers(dataset: pydicom.Dataset) -> list[Header]:
    """Return the header of each tile of a United Imaging grid, which has no empty row of tiles.

    Each item of a private sequence contains the position of one tile; without it, tiles follow the header's
    own position, one slice spacing apart.

    Raises:
        ValueError: if the header lacks the number or position of the tiles.
    """
    whole = header_of(dataset, "tile")
    count = int(float(private_text(dataset, GRID_COUNT) or 0))
    across = math.isqrt(max(count - 1, 0)) + 1
    rows, columns = _tile_size(whole, count, -(-count // across), across)
    items = dataset[GRID_FRAMES].value if GRID_FRAMES in dataset else ()
    found = [numbers(one, "ImagePositionPatient", 3) for one in items if isinstance(one, pydicom.Dataset)]
    positions = [list(one) for one in found if one]
    if not positions and whole.position and whole.orientation and whole.slice_step:
        step = whole.slice_step * geometry.slice_normal(whole.orientation)
        positions = [(np.asarray(whole.position) + tile * step).tolist() for tile in range(count)]
    if len(positions) != count:
        raise ValueError("grid without the position of its tiles")
    return _tile_headers(whole, (rows, columns), positions)


def _tile_size(whole: Header, count: int, down: int, across: int) -> tuple[int, int]:
    """Return rows and columns of a tile.

    Raises:
        ValueError: if the image does not divide into the tiles.
    """
    if not 1 <= count <= _MAX_TILES or whole.rows % down or whole.columns % across:
        raise ValueError("image does not divide into tiles")
    return whole.rows // down, whole.columns // across


def _tile_headers(whole: Header, size: tuple[int, int], positions: Sequence[Sequence[float]]) -> list[Header]:
    shape = {"rows": size[0], "columns": size[1]}
    return [
        whole.model_copy(update={**shape, "frame": tile, "position": tuple(position)})
        for tile, position in enumerate(positions)
    ]


def _count_and_normal(dataset: pydicom.Dataset) -> tuple[int, geometry.Vector | None]:
    """Return the number of tiles of a Siemens mosaic, 0 if unknown, and the direction of stacking."""
    is_csa = _CSA in dataset and private_text(dataset, _CSA_OWNER) == "SIEMENS CSA HEADER"
    csa = csareader.read(dataset[_CSA].value) if is_csa else None
    count = csareader.get_n_mosaic(csa) if csa else None
    if count is None and _COUNT in dataset and "SIEMENS" in private_text(dataset, _COUNT_OWNER):
        count = int(dataset[_COUNT].value)
    normal = csareader.get_slice_normal(csa) if csa else None
    return int(count or 0), None if normal is None else np.asarray(normal, np.float64)
