"""2D pictures (PNG, JPEG, TIFF, BMP, GIF, WebP, PPM) read as greyscale volumes of one slice."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import PIL.Image
import scipy  # loads its submodules on first use
from jaxtyping import Bool, Float64, Shaped

from medmim.data.formats.file_types import open_regular
from medmim.data.formats.nifti import Image
from medmim.errors import DataError

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm", ".pgm")
MAX_PIXELS = 100_000_000
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM")
_EXIF_ORIENTATION = 274
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
_WHITE_IS_ZERO, _UNSIGNED = 0, 1
COLOUR = "colour_of_"  # measurement of a label picture: colour of a palette index or of a grey value
OF_GREY = f"{COLOUR}grey_"
_MAX_COLOURS = 32
_MASK_NOISE = 24  # grey values by which black and white vary in a compressed mask
_MASK_VALUES, _MASK_SHARE = 4, 0.9  # more values than this, but nearly all black or white: a noisy mask
_DAMAGE = (
    OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, AttributeError, OverflowError,
    struct.error, PIL.Image.DecompressionBombError,
)  # fmt: skip
_COLOUR_NOISE = 24  # JPEG subsamples colours: channels of a grey picture differ by up to this much
_GREY = {"1": np.uint8, "L": np.uint8, "I;16": np.uint16, "I;16B": np.uint16, "I;16L": np.uint16}
_WIDE = {"I": np.int32, "F": np.float32}


def read_picture(
    path: Path, spacing_mm: float = 1.0, *, max_pixels: int = MAX_PIXELS, label: bool = False
) -> tuple[Image, tuple[str, ...]]:
    """Read a picture from an untrusted source.

    The orientation of a picture is unknown. Columns are taken to run to the patient's left and rows to the
    back, as in an axial slice, so that viewers show the picture upright.

    Args:
        max_pixels: limit that protects against decompression bombs.
        label: return the indices of a palette; of other colours, the greys that stand for them.

    Returns:
        The image of shape (columns, rows, 1), and the repairs: `colour_to_grey` or nothing.

    Raises:
        DataError: with reason unreadable, damaged_picture, too_large, several_pictures, turned_picture,
            transparent_picture, inverted_picture or colour_label (of a label in which two colours have one
            grey).
    """
    with open_regular(path) as stream:
        try:
            picture = PIL.Image.open(stream, formats=_FORMATS)
            _check_header(picture, max_pixels)
            picture.load()
        except _DAMAGE as error:
            raise DataError(
                f"picture cannot be decoded ({type(error).__name__}): expected a complete PNG, JPEG, TIFF or "
                "BMP file; copy it again",
                reason="damaged_picture",
            ) from error
        indexed = label and picture.mode == "P" and picture.format != "GIF"
        pixels, repairs = (np.asarray(picture), ()) if indexed else _grey(picture)
        if label and repairs:
            _check_colours(picture, pixels)
    return Image(np.ascontiguousarray(pixels.T)[..., None], picture_affine(spacing_mm)), repairs


def picture_affine(spacing_mm: float) -> Float64[np.ndarray, "4 4"]:
    """Return the affine of a picture: columns to the left, rows to the back, in RAS mm."""
    return np.diag([-spacing_mm, -spacing_mm, spacing_mm, 1.0])


def is_picture(path: Path) -> bool:
    """Return whether the name of a file ends as pictures do."""
    return path.name.lower().endswith(PICTURE_SUFFIXES)


def as_mask(
    array: Shaped[np.ndarray, "..."], *, lossy: bool, white_ignored: bool = False
) -> tuple[Shaped[np.ndarray, "..."], bool]:
    """Return the classes of a picture that is a label: black and white becomes 0 and 1.

    Compression and smoothing leave greys between black and white; if 90 % of the pixels are nearly black or
    white, and no area is grey, the threshold is 128. A grey area is a class of its own.

    Args:
        array: grey values of the picture.
        lossy: whether the picture is a JPEG file, whose values are not exact.
        white_ignored: whether 255 marks pixels that nobody annotated; it is then not class 1.

    Returns:
        The classes, and whether greys were changed.

    Raises:
        DataError: with reason lossy_label for a lossy picture that is not black and white.
    """
    values = np.unique(array)
    if set(values.tolist()) <= {0, 255}:
        return (array if white_ignored else array // 255), False
    white, black = array >= 255 - _MASK_NOISE, array <= _MASK_NOISE
    smoothed = len(values) > _MASK_VALUES and not white_ignored and (white | black).mean() >= _MASK_SHARE
    if smoothed and white.any() and black.any() and not _has_area(array, ~(white | black)):
        return (array >= 128).astype(np.uint8), True
    if lossy and len(values) > 2:
        raise DataError(
            f"label is a JPEG file with {len(values)} grey values: expected black and white, because lossy "
            "compression changes class numbers; save it as PNG",
            reason="lossy_label",
        )
    return array, False


def _has_area(array: Shaped[np.ndarray, "..."], grey: Bool[np.ndarray, "..."]) -> bool:
    """Return whether some square of 3 × 3 grey pixels is nearly uniform, unlike the slope of an edge."""
    size = [3 if length > 1 else 1 for length in array.shape]
    inner = scipy.ndimage.binary_erosion(grey, np.ones(size))
    filters = (scipy.ndimage.maximum_filter, scipy.ndimage.minimum_filter)
    high, low = (one(array, size)[inner].astype(np.int64) for one in filters)
    return bool((high - low <= _MASK_NOISE).any())


def _check_colours(picture: PIL.Image.Image, pixels: Shaped[np.ndarray, "rows columns"]) -> None:
    """Refuse a label whose classes are colours that have the same grey value."""
    colours = len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0))
    if colours > len(np.unique(pixels)):
        raise DataError(
            f"label of {colours} colours with only {len(np.unique(pixels))} greys: expected class numbers; "
            "save it with a grey or palette index for each class",
            reason="colour_label",
        )


def label_colours(path: Path) -> dict[str, float]:
    """Return the colours of the classes of a label picture, as measurements; nothing for greys.

    Returns:
        Colour as 0xRRGGBB, by `colour_of_index_1` for index 1 of a palette, or `colour_of_grey_76` for the
        grey value 76, which stands for the colour.
    """
    with open_regular(path) as stream:
        picture = PIL.Image.open(stream, formats=_FORMATS)
        if picture.mode in _WIDE or picture.mode in _GREY:
            return {}
        indexed = picture.mode == "P" and picture.format != "GIF"
        codes = np.asarray(picture if indexed else picture.convert("RGB").convert("L")).astype(np.int64)
        colours = np.asarray(picture.convert("RGB")).astype(np.int64) @ (1 << 16, 1 << 8, 1)
    pairs = np.unique(np.stack([codes, colours], axis=-1).reshape(-1, 2), axis=0).tolist()
    if all(colour == code * 0x010101 for code, colour in pairs):
        return {}
    key = f"{COLOUR}index_" if indexed else OF_GREY
    return {f"{key}{code}": float(colour) for code, colour in pairs[:_MAX_COLOURS] if code}


def is_lossy(path: Path) -> bool:
    """Return whether the name of a file ends as those of pictures do whose values are not exact."""
    return path.name.lower().endswith((".jpg", ".jpeg", ".webp"))


def _check_header(picture: PIL.Image.Image, max_pixels: int) -> None:
    """Reject ambiguous pictures before any pixel is decoded."""
    columns, rows = picture.size
    if columns * rows > max_pixels:
        raise DataError(
            f"picture of {columns}×{rows} pixels: expected up to {max_pixels:g} in total; crop it",
            reason="too_large",
        )
    if getattr(picture, "n_frames", 1) != 1:
        raise DataError(
            "file contains several pictures, expected one; save each separately", reason="several_pictures"
        )
    if picture.getexif().get(_EXIF_ORIENTATION, 1) != 1:
        raise DataError(
            "picture is stored rotated (EXIF orientation), so its annotations are ambiguous; save it upright",
            reason="turned_picture",
        )


def _grey(picture: PIL.Image.Image) -> tuple[Shaped[np.ndarray, "rows columns"], tuple[str, ...]]:
    if picture.mode in _WIDE or picture.mode in _GREY:
        values = np.asarray(picture).astype(_WIDE.get(picture.mode) or _GREY[picture.mode])
        return _as_shown(picture, values), ()
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


def _as_shown(
    picture: PIL.Image.Image, values: Shaped[np.ndarray, "rows columns"]
) -> Shaped[np.ndarray, "rows columns"]:
    """Return the greys of a TIFF file as viewers show them: PIL inverts 8 bits only, and has no unsigned 32.

    Raises:
        DataError: with reason inverted_picture where white is 0 and black unknown.
    """
    tags = getattr(picture, "tag_v2", {})
    bits = int(np.atleast_1d(tags.get(_BITS, 1))[0])
    if values.dtype == np.int32 and bits > 16 and _UNSIGNED in np.atleast_1d(tags.get(_SAMPLE_FORMAT, 1)):
        values = values.view(np.uint32)
    if tags.get(_PHOTOMETRIC) != _WHITE_IS_ZERO or values.dtype == np.uint8:
        return values
    if values.dtype.kind != "u":
        raise DataError(
            "values of this TIFF file are inverted (white is 0), and its black has no known value; save it "
            "with black as 0",
            reason="inverted_picture",
        )
    inverted: np.ndarray = (2**bits - 1 - values.astype(np.int64)).astype(values.dtype)
    return inverted
