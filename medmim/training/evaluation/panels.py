"""Panels of slices as PNG: images with labels, predictions, boxes, captions and a legend.

Pillow draws them in a small part of the time that matplotlib takes; `predict` writes one for every image.
"""

from __future__ import annotations

import functools
import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import get_data_path
from PIL import Image as Picture
from PIL import ImageColor, ImageDraw, ImageFont
from torch import Tensor

from medmim.data.formats.thumbnails import CLASS_COLOURS

_COLOURS = np.array([ImageColor.getrgb(colour) for colour in CLASS_COLOURS])
_BLANK = ImageColor.getrgb("#3b5b8c")  # hidden pixels
_OVERLAY = 0.55  # opacity of labels
_EDGE, _EDGE_BOXES = 240, 440  # width of a column in pixels; captions of boxes need room
_GAP = 8
_LETTERS = 34  # longest line of a caption; longer ones would be cut off
_LINES = 24  # captions of boxes that fit below each other in a square image
_TITLE, _HEAD, _TEXT = 15, 14, 12  # heights of letters in pixels


@dataclass(frozen=True)
class Rectangle:
    """A box to draw: position in pixels, colour index and caption."""

    left: float
    top: float
    width: float
    height: float
    colour: int
    text: str = ""


@dataclass(frozen=True)
class FigureRow:
    """One row of a panel: 2D slices with a common intensity range.

    Attributes:
        images: (y, x) arrays, one per column; NaN marks hidden pixels.
        labels: integer (y, x) arrays overlaid on the images, or None, one per column.
        boxes: rectangles drawn in the last column.
    """

    images: Sequence[np.ndarray]
    labels: Sequence[np.ndarray | None]
    text: str = ""
    boxes: Sequence[Rectangle] = ()


def panel(
    rows: Sequence[FigureRow], columns: Sequence[str], *, title: str, names: Sequence[str] = ()
) -> bytes:
    """Draw rows of slices under column titles and return a PNG; `names` of labels 1, 2, … are its legend."""
    edge = _EDGE_BOXES if any(row.boxes for row in rows) else _EDGE
    width = edge * len(columns)
    parts = [_line([title], _TITLE, width)]
    if any(columns):
        parts.append(_line(columns, _HEAD, edge))
    for row in rows:
        parts.append(_strip(row, edge))
        if row.text:
            parts.append(_caption(row.text, width, edge))
    parts.append(_legend(names, width))
    whole = Picture.new("RGB", (width, sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height
    stream = io.BytesIO()
    whole.save(stream, format="png")
    return stream.getvalue()


def _strip(row: FigureRow, edge: int) -> Picture.Image:
    """Return the images of a row side by side, in columns of `edge` pixels, with the boxes in the last."""
    low, high = np.nanpercentile(row.images[0], [0.5, 99.5])
    cells = []
    for image, label in zip(row.images, row.labels, strict=True):
        height, width = image.shape
        size = edge - _GAP, max(1, round((edge - _GAP) * height / width))
        coloured = _coloured(image, label, low=float(low), high=float(high))
        cells.append(Picture.fromarray(coloured).resize(size, Picture.Resampling.NEAREST))
    _draw_boxes(cells[-1], row.boxes, scale=cells[-1].width / row.images[-1].shape[1])
    strip = Picture.new("RGB", (edge * len(cells), max(cell.height for cell in cells) + _GAP), "white")
    for number, cell in enumerate(cells):
        strip.paste(cell, (edge * number + _GAP // 2, _GAP // 2))
    return strip


def _coloured(image: np.ndarray, label: np.ndarray | None, *, low: float, high: float) -> np.ndarray:
    """Return (y, x, 3) bytes: grey between low and high, blue where not finite, and the label over it."""
    seen = np.isfinite(image)
    share = np.where(seen, (np.where(seen, image, low) - low) / max(high - low, 1e-6), 0.0)
    colours = np.repeat(255 * np.clip(share, 0.0, 1.0)[..., None], 3, axis=-1)
    colours[~seen] = _BLANK
    if label is not None:
        over = label != 0
        kinds = np.clip(label[over].astype(int) - 1, 0, len(_COLOURS) - 1)
        colours[over] = (1 - _OVERLAY) * colours[over] + _OVERLAY * _COLOURS[kinds]
    return colours.round().astype(np.uint8)


def _draw_boxes(cell: Picture.Image, boxes: Sequence[Rectangle], *, scale: float) -> None:
    """Draw boxes with their captions above them, or below earlier captions at the same place."""
    draw, line = ImageDraw.Draw(cell), cell.width / _LINES
    taken: list[tuple[float, float]] = []
    for box in boxes:
        colour = tuple(_COLOURS[box.colour % len(_COLOURS)].tolist())
        left, top = box.left * scale, box.top * scale
        corners = left, top, left + max(box.width * scale - 1, 1), top + max(box.height * scale - 1, 1)
        draw.rectangle(corners, outline=colour, width=2)
        if not box.text:
            continue
        top = max(top, line)  # captions above the image would be cut off
        while any(abs(left - other) < 10 * line and abs(top - height) < line for other, height in taken):
            top += line
        draw.text(
            (left, top), box.text, colour, _font(_TEXT), anchor="ld", stroke_width=1, stroke_fill="black"
        )
        taken.append((left, top))


def _line(words: Sequence[str], letters: int, edge: int) -> Picture.Image:
    """Return words, each in the middle of its column and shrunk to the width of the column."""
    picture = Picture.new("RGB", (edge * len(words), 2 * letters), "white")
    draw = ImageDraw.Draw(picture)
    for number, word in enumerate(words):
        width = max(_font(letters).getlength(word), 1)
        font = _font(max(1, int(letters * min(1, (edge - _GAP) / width))))
        draw.text((edge * (number + 0.5), letters), word, "black", font, anchor="mm")
    return picture


def _caption(text: str, width: int, edge: int) -> Picture.Image:
    """Return a text in the middle of the first column."""
    lines = textwrap.wrap(text, _LETTERS)
    picture = Picture.new("RGB", (width, 2 * _TEXT + round(1.3 * _TEXT * len(lines))), "white")
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        draw.text((edge / 2, 1.3 * _TEXT * number), line, "black", _font(_TEXT), anchor="ma")
    return picture


def _legend(names: Sequence[str], width: int) -> Picture.Image:
    """Return a square and the name of each label that has one, in as many lines as they need."""
    left, top, places = _TEXT, _TEXT // 2, []
    for number, name in enumerate(names):
        if not name:
            continue
        needs = round(_font(_TEXT).getlength(name)) + 3 * _TEXT
        if left + needs > width and left > _TEXT:
            left, top = _TEXT, top + 2 * _TEXT
        places.append((left, top, name, tuple(_COLOURS[min(number, len(_COLOURS) - 1)].tolist())))
        left += needs
    picture = Picture.new("RGB", (width, top + 2 * _TEXT if places else _GAP), "white")
    draw = ImageDraw.Draw(picture)
    for left, top, name, colour in places:
        draw.rectangle((left, top, left + _TEXT - 2, top + _TEXT - 2), fill=colour)
        draw.text((left + 1.5 * _TEXT, top + _TEXT / 2), name, "black", _font(_TEXT), anchor="lm")
    return picture


@functools.lru_cache(maxsize=64)
def _font(letters: int) -> ImageFont.FreeTypeFont:
    """Return matplotlib's font, which is on every machine; letters are so many pixels high."""
    return ImageFont.truetype(Path(get_data_path()) / "fonts/ttf/DejaVuSans.ttf", letters)


def radiological_slice(volume: Tensor, *, axis: int | None, index: int | None = None) -> np.ndarray:
    """Return one slice of a (x, y[, z]) tensor in RAS order in radiological view.

    Anterior or superior is up; the patient's right (anterior in sagittal slices) is on the left.
    """
    flat = volume
    if volume.dim() == 3:
        chosen = 2 if axis is None else axis
        flat = volume.select(chosen, volume.shape[chosen] // 2 if index is None else index)
    return np.flip(flat.cpu().numpy().T)


def reconstruction_rows(images: Tensor, hidden: Tensor, reconstruction: Tensor | None) -> list[FigureRow]:
    """Return rows of original, masked and, for methods that reconstruct pixels, reconstructed images.

    The first channel of images (batch, channels, *space) is drawn; `hidden` is (batch, 1, *space).
    """
    seen = images.float().masked_fill(hidden, float("nan"))
    columns = [images, seen] if reconstruction is None else [images, seen, reconstruction]
    return [
        FigureRow(
            [radiological_slice(column[number, 0].float(), axis=None) for column in columns],
            [None] * len(columns),
        )
        for number in range(len(images))
    ]


def segmentation_row(image: Tensor, label: Tensor, prediction: Tensor, *, axis: int) -> FigureRow:
    """Return a row of image, label and prediction, (x, y, z), at the slice with most of the label."""
    others = [other for other in range(3) if other != axis]
    index = int((label > 0).sum(dim=others).argmax())
    plain, truth, predicted = (
        radiological_slice(value, axis=axis, index=index) for value in (image, label, prediction)
    )
    return FigureRow([plain, plain, plain], [None, truth, predicted])


def caption_row(image: Tensor, *, axis: int, text: str) -> FigureRow:
    """Return a row with the middle slice of (x, y, z) and a caption."""
    return FigureRow([radiological_slice(image, axis=axis)], [None], text)


def boxed_row(
    image: Tensor, *, axis: int, index: int, boxes: Sequence[tuple[np.ndarray, int, str]]
) -> FigureRow:
    """Return a row with one slice of (x, y, z) and its boxes: xyzxyz in voxels, colour index and caption."""
    slice_ = radiological_slice(image, axis=axis, index=index)
    rectangles = []
    for box, colour, word in boxes:
        right, bottom, left, top = np.delete(box, [axis, axis + 3]).tolist()
        height, width = slice_.shape
        rectangles.append(Rectangle(width - left, height - top, left - right, top - bottom, colour, word))
    return FigureRow([slice_], [None], boxes=rectangles)
