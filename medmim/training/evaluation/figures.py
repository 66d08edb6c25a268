"""Pictures of a run: what was hidden and rebuilt, what was segmented. Pure functions to PNG bytes."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle as Patch
from torch import Tensor

_COLOURS = ListedColormap(["#e4572e", "#17bebb", "#ffc914", "#76b041", "#a77bca", "#f28482"])
_LETTERS = 34  # of a line below an image: longer ones would be cut at the picture's edge


@dataclass(frozen=True)
class Rectangle:
    """A box to draw: its place in pixels, the number of its colour, and a word beside it."""

    left: float
    top: float
    width: float
    height: float
    colour: int
    text: str = ""


@dataclass(frozen=True)
class FigureRow:
    """One row of a panel: 2D slices with the range that they share.

    Attributes:
        images: (y, x) arrays, one a column; NaN is drawn as hidden.
        labels: integer (y, x) arrays drawn over the images, or None, one a column.
        text: one line below the first image.
        boxes: rectangles of the last column: left, top, width and height in pixels, colour and a word.
    """

    images: Sequence[np.ndarray]
    labels: Sequence[np.ndarray | None]
    text: str = ""
    boxes: Sequence[Rectangle] = ()


def panel(
    rows: Sequence[FigureRow], columns: Sequence[str], *, title: str, names: Sequence[str] = ()
) -> bytes:
    """Draw rows of slices under column titles and return a PNG.

    Args:
        rows: what to draw.
        columns: titles of the columns.
        title: one line above.
        names: of the labels 1, 2, …, for the legend.
    """
    heights = [row.images[0].shape[0] / row.images[0].shape[1] for row in rows]
    width = 2.2 * len(columns)
    figure = Figure(figsize=(width, 2.2 * sum(heights) + 0.9), dpi=110, layout="constrained")
    axes = figure.subplots(len(rows), len(columns), squeeze=False, height_ratios=heights)
    for line, row in zip(axes, rows, strict=True):
        low, high = np.nanpercentile(row.images[0], [0.5, 99.5])
        for place, image, label in zip(line, row.images, row.labels, strict=True):
            place.set_facecolor("#3b5b8c")
            place.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
            if label is not None:
                shown = np.ma.masked_equal(label, 0)
                place.imshow(
                    shown - 1, cmap=_COLOURS, vmin=0, vmax=_COLOURS.N - 1, alpha=0.55, interpolation="nearest"
                )
            place.set_xticks([])
            place.set_yticks([])
        line[0].set_xlabel(plain(textwrap.fill(row.text, _LETTERS)), fontsize=8)
        for box in row.boxes:
            _draw(line[-1], box)
    for place, name in zip(axes[0], columns, strict=True):
        place.set_title(plain(name), fontsize=9)
    for value, name in enumerate(names):
        axes[-1][0].plot([], [], "s", color=_COLOURS(value), label=plain(name))
    if names:
        figure.legend(loc="outside lower center", ncols=min(len(names), 4), fontsize=8, frameon=False)
    figure.suptitle(plain(title), fontsize=10)
    return to_png(figure)


def _draw(place: Axes, box: Rectangle) -> None:
    colour = _COLOURS(box.colour % _COLOURS.N)
    corner = (box.left - 0.5, box.top - 0.5)  # a picture's first pixel spans from -1/2 to 1/2
    place.add_patch(Patch(corner, box.width, box.height, fill=False, edgecolor=colour, linewidth=1.2))
    place.text(*corner, plain(box.text), fontsize=6, color=colour, verticalalignment="bottom")


def plain(text: str) -> str:
    """Return text that matplotlib draws as it is: dollars begin no formula."""
    return text.replace("$", r"\$")


def to_png(figure: Figure) -> bytes:
    """Return a figure as PNG bytes, without the drawing program's metadata."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def upright(volume: Tensor, *, axis: int | None, index: int | None = None) -> np.ndarray:
    """Return one slice of a (x, y[, z]) tensor in RAS order as radiologists see it.

    The front or the head is up; the patient's right, in a sagittal slice the front, is on the left.

    Args:
        volume: 2D or 3D.
        axis: axis across which a 3D volume is cut; ignored in 2D.
        index: slice number; the middle one without it.
    """
    flat = volume
    if volume.dim() == 3:
        chosen = 2 if axis is None else axis
        flat = volume.select(chosen, volume.shape[chosen] // 2 if index is None else index)
    return np.flip(flat.cpu().numpy().T)


def reconstruction_rows(images: Tensor, hidden: Tensor, reconstruction: Tensor | None) -> list[FigureRow]:
    """Return rows of original, what the encoder saw and, where the method rebuilds pixels, reconstruction.

    Args:
        images: (batch, channels, *space); the first channel is drawn.
        hidden: boolean, (batch, 1, *space).
        reconstruction: as images, or None.
    """
    seen = images.float().masked_fill(hidden, float("nan"))
    columns = [images, seen] if reconstruction is None else [images, seen, reconstruction]
    return [
        FigureRow(
            [upright(column[number, 0].float(), axis=None) for column in columns], [None] * len(columns)
        )
        for number in range(len(images))
    ]


def segmentation_row(image: Tensor, label: Tensor, prediction: Tensor, *, axis: int) -> FigureRow:
    """Return a row of image, label and prediction at the slice that holds most of the label.

    Args:
        image: (x, y, z).
        label: (x, y, z).
        prediction: (x, y, z).
        axis: across which the volume is cut.
    """
    others = [other for other in range(3) if other != axis]
    index = int((label > 0).sum(dim=others).argmax())
    plain, truth, guess = (upright(value, axis=axis, index=index) for value in (image, label, prediction))
    return FigureRow([plain, plain, plain], [None, truth, guess])


def caption_row(image: Tensor, *, axis: int, text: str) -> FigureRow:
    """Return a row of one middle slice of (x, y, z) and a line below it."""
    return FigureRow([upright(image, axis=axis)], [None], text)


def boxed_row(
    image: Tensor, *, axis: int, index: int, boxes: Sequence[tuple[np.ndarray, int, str]], text: str
) -> FigureRow:
    """Return a row of one slice of a volume with boxes.

    Args:
        image: (x, y, z) in RAS order.
        axis: across which the volume is cut.
        index: slice number.
        boxes: each with its xyzxyz in voxels of `image`, the number of its colour, and a word.
        text: one line below.
    """
    slice_ = upright(image, axis=axis, index=index)
    rectangles = []
    for box, colour, word in boxes:
        right, bottom, left, top = np.delete(box, [axis, axis + 3]).tolist()
        height, width = slice_.shape
        rectangles.append(Rectangle(width - left, height - top, left - right, top - bottom, colour, word))
    return FigureRow([slice_], [None], text, rectangles)
