"""Thumbnails of a volume: mid-slices in three planes as JPEG, and an intensity histogram."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped
from PIL import Image as Picture
from PIL import ImageColor

from medmim.data.formats.geometry import nearest_ras
from medmim.data.formats.nifti import Image, read_image

BINS = 24
CLASS_COLOURS = ("#e4572e", "#17bebb", "#ffc914", "#76b041", "#a77bca", "#f28482")  # in their order
_SAMPLE_SIZE = 200_000  # voxels for the quantiles
_LOW, _HIGH = 0.5, 99.5  # percentiles shown as black and white


def thumbnail(
    path: str,
    label: str | None,
    codes: Sequence[int],
    edge: int,
    quality: int,
    boxes: Sequence[tuple[int, Sequence[float]]] = (),
) -> dict[str, Any]:
    """Return pictures and statistics of one volume; run in a sandbox.

    Args:
        label: its label.
        codes: classes of the label, each outlined in its colour; others have the first of `CLASS_COLOURS`.
        edge: height and width of each plane's picture in pixels; 0 for no pictures.
        quality: JPEG quality, up to 95.
        boxes: code and corners of each box, outlined where there is no label.

    Returns:
        `jpeg`: sagittal, coronal and axial slice side by side (one slice of a picture), as base64; `low`,
        `median`, `high`: quantiles of the intensity; `bins`: histogram counts between low and high.
    """
    stored = read_image(Path(path))
    image = nearest_ras(stored)
    outline = _filled(stored, boxes) if label is None else read_image(Path(label))
    outline = outline and nearest_ras(outline)
    flat = image.array.reshape(-1)
    values = flat[:: max(1, flat.size // _SAMPLE_SIZE)].astype(np.float32)
    low, median, high = (float(value) for value in np.percentile(values, (_LOW, 50.0, _HIGH)))
    counts = np.histogram(values, bins=BINS, range=(low, high if high > low else low + 1))[0]
    return {
        "jpeg": _draw_strip(image, outline, codes, (low, high), edge=edge, quality=quality) if edge else "",
        "low": round(low, 4),
        "median": round(median, 4),
        "high": round(high, 4),
        "bins": [int(count) for count in counts],
    }


def _filled(image: Image, boxes: Sequence[tuple[int, Sequence[float]]]) -> Image | None:
    """Return a label with the boxes filled, larger ones first; None without boxes."""
    marks = np.zeros(image.array.shape, np.uint16)
    for code, box in sorted(boxes, key=lambda one: -_volume(one[1])):
        first, last = np.floor(box[: len(box) // 2]), np.ceil(box[len(box) // 2 :])
        marks[tuple(slice(max(0, int(a)), int(b)) for a, b in zip(first, last, strict=True))] = code
    return Image(marks, image.affine) if boxes else None


def _volume(box: Sequence[float]) -> float:
    return float(np.prod(np.subtract(box[len(box) // 2 :], box[: len(box) // 2])))


def _draw_strip(
    image: Image,
    marks: Image | None,
    codes: Sequence[int],
    window: tuple[float, float],
    *,
    edge: int,
    quality: int,
) -> str:
    """Draw the mid-slice, or the slice with the largest label, across each axis; a picture has one plane."""
    fits = marks is not None and marks.array.shape == image.array.shape
    axes = [axis for axis in range(3) if image.array.shape[axis] == 1 or 1 not in image.array.shape]
    strip = Picture.new("RGB", (len(axes) * edge, edge))
    for number, axis in enumerate(axes):
        place = image.array.shape[axis] // 2
        if fits and marks is not None:
            place = _fullest(marks.array, axis, place)
        steps = np.delete(np.asarray(image.spacing_mm), axis)
        plane = _fit(_grey(image.array.take(place, axis), window), steps, edge, Picture.Resampling.BILINEAR)
        colours = np.repeat(plane[..., None], 3, axis=2)
        if fits and marks is not None:
            label = marks.array.take(place, axis).astype(np.int32)
            _outline_classes(colours, _fit(label, steps, edge, Picture.Resampling.NEAREST), codes)
        strip.paste(Picture.fromarray(colours), (number * edge, 0))
    written = io.BytesIO()
    strip.save(written, "JPEG", quality=quality, optimize=True, subsampling=0)
    return base64.b64encode(written.getvalue()).decode("ascii")


def _fullest(marks: Shaped[np.ndarray, "x y z"], axis: int, middle: int) -> int:
    """Return the slice with the largest label area; the middle slice if the label is empty."""
    others = tuple(other for other in range(3) if other != axis)
    area = np.count_nonzero(marks, axis=others)
    return int(area.argmax()) if area.any() else middle


def _grey(plane: Shaped[np.ndarray, "a b"], window: tuple[float, float]) -> Shaped[np.ndarray, "a b"]:
    low, high = window
    scaled: Float32[np.ndarray, "a b"] = (plane.astype(np.float32) - low) / max(high - low, 1e-12)
    return np.asarray(np.clip(scaled, 0, 1) * 255, np.uint8)


def _outline_classes(
    colours: Shaped[np.ndarray, "a b 3"], label: Shaped[np.ndarray, "a b"], codes: Sequence[int]
) -> None:
    """Draw the boundary of the foreground and of each class."""
    colours[_outline(label > 0)] = ImageColor.getrgb(CLASS_COLOURS[0])
    for number, code in enumerate(codes):
        colours[_outline(label == code)] = ImageColor.getrgb(CLASS_COLOURS[number % len(CLASS_COLOURS)])


def _outline(inside: Shaped[np.ndarray, "a b"]) -> Shaped[np.ndarray, "a b"]:
    """Return the boundary pixels of a region."""
    padded = np.pad(inside, 1)
    kept = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.asarray(inside & ~kept, bool)


def _fit(
    plane: Shaped[np.ndarray, "a b"],
    steps: Shaped[np.ndarray, "2"],
    edge: int,
    resampling: Picture.Resampling,
) -> Shaped[np.ndarray, "edge edge"]:
    """Rotate a plane to radiological convention and scale it to square pixels within `edge`."""
    upright = np.ascontiguousarray(np.flip(plane.swapaxes(0, 1), (0, 1)))
    width, height = upright.shape[1] * steps[0], upright.shape[0] * steps[1]
    scale = edge / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(Picture.fromarray(upright).resize(size, resampling))
    top, left = (edge - size[1]) // 2, (edge - size[0]) // 2
    return np.pad(small, ((top, edge - size[1] - top), (left, edge - size[0] - left)))
