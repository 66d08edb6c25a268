"""Pictures (PNG, JPEG, TIFF, BMP) as volumes of one slice: grey values, column by row by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
from jaxtyping import Float64, Shaped

from medmim.data.formats.nifti import Image, open_regular
from medmim.errors import DataError

PICTURE_NAMES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
MAX_PIXELS = 100_000_000
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
_TURNED = 274  # the tag by which cameras say that the picture lies on its side
_COLOUR_NOISE = 24  # JPEG packs colours coarsely: grey pictures come back with channels this far apart
_GREY = {"1": np.uint8, "L": np.uint8, "I;16": np.uint16, "I;16B": np.uint16, "I;16L": np.uint16}
_WIDE = {"I": np.int32, "F": np.float32}


def read_picture(path: Path, spacing_mm: float = 1.0) -> tuple[Image, tuple[str, ...]]:
    """Read a picture that anybody may have written.

    Columns run to the patient's left and rows to the back, as in an axial slice shown the usual way: a
    picture does not say, and this shows it upright.

    Args:
        path: the file.
        spacing_mm: distance of neighbouring pixels, in mm.

    Returns:
        The picture of (columns, rows, 1), and what was done to it: `colour_to_grey` or nothing.

    Raises:
        DataError: with reason unreadable, damaged_picture, too_large, several_pictures, turned_picture or
            transparent_picture.
    """
    with open_regular(path) as stream:
        try:
            picture = PIL.Image.open(stream, formats=_FORMATS)
            _check_kind(picture)
            picture.load()
        except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
            raise DataError(
                f"picture cannot be decoded ({type(error).__name__}): expected a whole PNG, JPEG, TIFF or "
                "BMP file; copy it again",
                reason="damaged_picture",
            ) from error
        pixels, repairs = _grey(picture)
    return Image(np.ascontiguousarray(pixels.T)[..., None], picture_affine(spacing_mm)), repairs


def picture_affine(spacing_mm: float) -> Float64[np.ndarray, "4 4"]:
    """Return the place of a picture: column to the left, row to the back, in RAS mm."""
    return np.diag([-spacing_mm, -spacing_mm, spacing_mm, 1.0])


def is_picture(path: Path) -> bool:
    """Tell by its name whether a file is a picture."""
    return path.name.lower().endswith(PICTURE_NAMES)


def _check_kind(picture: PIL.Image.Image) -> None:
    """Refuse what would need a guess, before any pixel is unpacked."""
    columns, rows = picture.size
    if columns * rows > MAX_PIXELS:
        raise DataError(
            f"picture of {columns}×{rows} pixels: expected up to {MAX_PIXELS:g} in all; crop it",
            reason="too_large",
        )
    if getattr(picture, "n_frames", 1) != 1:
        raise DataError(
            "file holds several pictures, expected one; save each by itself", reason="several_pictures"
        )
    if picture.getexif().get(_TURNED, 1) != 1:
        raise DataError(
            "picture is stored turned (EXIF orientation), so nobody can tell which way its annotations "
            "count: save it upright",
            reason="turned_picture",
        )


def _grey(picture: PIL.Image.Image) -> tuple[Shaped[np.ndarray, "rows columns"], tuple[str, ...]]:
    if picture.mode in _WIDE or picture.mode in _GREY:
        kind = _WIDE.get(picture.mode) or _GREY[picture.mode]
        return np.asarray(picture).astype(kind), ()
    if picture.has_transparency_data:
        alpha = np.asarray(picture.convert("RGBA"))[..., 3]
        if alpha.min() < 255:
            raise DataError(
                "picture is partly transparent, expected opaque pixels; save it without an alpha channel",
                reason="transparent_picture",
            )
    colours = np.asarray(picture.convert("RGB")).astype(np.int16)
    coloured = int((colours.max(axis=2) - colours.min(axis=2)).max()) > _COLOUR_NOISE
    return np.asarray(picture.convert("RGB").convert("L")), ("colour_to_grey",) if coloured else ()
