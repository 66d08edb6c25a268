"""Figures of a run as PNG: images, labels, predictions and boxes, and plots of a classification test."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle as Patch
from matplotlib.patheffects import withStroke
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor

from medmim.data.formats.thumbnails import CLASS_COLOURS
from medmim.training.evaluation.classification_metrics import (
    UNSEEN,
    Numbers,
    Probabilities,
    Row,
    arrays,
    calibration_curve,
    calibration_error,
    confusion,
)

_COLOURS = ListedColormap(CLASS_COLOURS)
_LETTERS = 34  # longest line of a caption; longer ones would be cut off
_LINES = 24  # captions of boxes that fit below each other in a square image


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
    heights = [row.images[0].shape[0] / row.images[0].shape[1] for row in rows]
    edge = 4.0 if any(row.boxes for row in rows) else 2.2  # captions of boxes need room
    width = edge * len(columns)
    figure = Figure(figsize=(width, edge * sum(heights) + 0.9), dpi=110, layout="constrained")
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
        taken: list[tuple[float, float]] = []
        for box in row.boxes:
            taken.append(_draw(line[-1], box, taken, width_px=row.images[-1].shape[1]))
    for place, name in zip(axes[0], columns, strict=True):
        place.set_title(plain(name), fontsize=9)
    for value, name in enumerate(names):
        axes[-1][0].plot([], [], "s", color=_COLOURS(value), label=plain(name))
    if names:
        figure.legend(loc="outside lower center", ncols=min(len(names), 4), fontsize=8, frameon=False)
    figure.suptitle(plain(title), fontsize=10)
    return to_png(figure)


def _draw(
    place: Axes, box: Rectangle, taken: Sequence[tuple[float, float]], *, width_px: int
) -> tuple[float, float]:
    """Draw a box with its caption above it or below captions at `taken` places; return where it is."""
    colour = _COLOURS(box.colour % _COLOURS.N)
    left, top = box.left - 0.5, box.top - 0.5  # the first pixel spans -1/2 to 1/2
    place.add_patch(Patch((left, top), box.width, box.height, fill=False, edgecolor=colour, linewidth=1.2))
    line = width_px / _LINES
    top = max(top, line)  # captions above the image would be cut off
    while any(abs(left - other) < 10 * line and abs(top - height) < line for other, height in taken):
        top += line
    words = place.text(left, top, plain(box.text), fontsize=8, color=colour, va="bottom", clip_on=True)
    words.set_path_effects([withStroke(linewidth=2, foreground="black")])
    return (left, top) if box.text else (-math.inf, -math.inf)


def plain(text: str) -> str:
    """Escape dollar signs, which matplotlib would read as the start of a formula."""
    return text.replace("$", r"\$")


def scores_figure(
    rows: Sequence[tuple[str, Sequence[float], float | None, tuple[float, float] | None]], label: str
) -> bytes:
    """Draw name, patients, score and confidence interval of each row, and return a PNG."""
    figure = Figure(figsize=(9, 1.2 + 0.45 * max(len(rows), 2)), dpi=110, layout="constrained")
    axes = figure.subplots()
    for height, (_, patients, score, interval) in enumerate(rows):
        axes.plot(patients, [height] * len(patients), "|", color="#9aa5b1", markersize=12)
        if score is not None:
            low, high = interval or (score, score)
            bars = [[max(score - low, 0.0)], [max(high - score, 0.0)]]
            axes.errorbar(score, height, xerr=bars, fmt="o", color="#2a9d8f", capsize=4)
    axes.set_yticks(range(len(rows)), [plain(name) for name, *_ in rows])
    axes.tick_params(axis="y", labelsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(label)
    return to_png(figure)


def to_png(figure: Figure) -> bytes:
    """Return a figure as PNG bytes without software metadata."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def upright(volume: Tensor, *, axis: int | None, index: int | None = None) -> np.ndarray:
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
            [upright(column[number, 0].float(), axis=None) for column in columns], [None] * len(columns)
        )
        for number in range(len(images))
    ]


def segmentation_row(image: Tensor, label: Tensor, prediction: Tensor, *, axis: int) -> FigureRow:
    """Return a row of image, label and prediction, (x, y, z), at the slice with most of the label."""
    others = [other for other in range(3) if other != axis]
    index = int((label > 0).sum(dim=others).argmax())
    plain, truth, guess = (upright(value, axis=axis, index=index) for value in (image, label, prediction))
    return FigureRow([plain, plain, plain], [None, truth, guess])


def caption_row(image: Tensor, *, axis: int, text: str) -> FigureRow:
    """Return a row with the middle slice of (x, y, z) and a caption."""
    return FigureRow([upright(image, axis=axis)], [None], text)


def boxed_row(
    image: Tensor, *, axis: int, index: int, boxes: Sequence[tuple[np.ndarray, int, str]], text: str
) -> FigureRow:
    """Return a row with one slice of (x, y, z) and its boxes: xyzxyz in voxels, colour index and caption."""
    slice_ = upright(image, axis=axis, index=index)
    rectangles = []
    for box, colour, word in boxes:
        right, bottom, left, top = np.delete(box, [axis, axis + 3]).tolist()
        height, width = slice_.shape
        rectangles.append(Rectangle(width - left, height - top, left - right, top - bottom, colour, word))
    return FigureRow([slice_], [None], text, rectangles)


_INK, _MUTED = "#1f5fa8", "#999999"
_COUNTED = 8  # classes with counts in the cells and curves with names


def classification_figure(rows: Sequence[Row], names: Sequence[str], *, title: str) -> bytes:
    """Draw the three plots over the rows of a test, at least one, and return a PNG."""
    truth, shares = arrays(rows, names)
    figure = Figure(figsize=(11, 4.4), dpi=110, layout="constrained")
    places = figure.subplots(1, 3)
    _confusion(places[0], truth, shares, names)
    _roc(places[1], truth, shares, names)
    _calibration(places[2], truth, shares)
    figure.suptitle(plain(title), fontsize=10)
    return to_png(figure)


def _confusion(place: Axes, truth: Numbers, shares: Probabilities, names: Sequence[str]) -> None:
    counts = confusion(truth, shares.argmax(axis=1), len(names))
    words = [plain(name) for name in names]
    rows = [*words, UNSEEN] if counts[-1].any() else words
    counts = counts[: len(rows)]
    rates = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    place.imshow(rates, cmap="Blues", vmin=0, vmax=1)
    if len(names) <= _COUNTED:
        for row, column in np.ndindex(counts.shape):
            colour = "white" if rates[row, column] > 0.6 else "black"
            place.text(column, row, f"{counts[row, column]:g}", ha="center", va="center", color=colour)
    place.set_xticks(range(len(names)), words, rotation=30, ha="right", fontsize=8)
    place.set_yticks(range(len(rows)), rows, fontsize=8)
    place.set(xlabel="predicted", ylabel="true")
    place.set_title("images; colour: share of the true class", fontsize=9)


def _roc(place: Axes, truth: Numbers, shares: Probabilities, names: Sequence[str]) -> None:
    """Draw one curve per class against the others, or the second class of two."""
    place.plot([0, 1], [0, 1], ":", color=_MUTED)
    for number in [1] if len(names) == 2 else range(len(names)):
        positive = truth == number
        if not 0 < positive.sum() < len(truth):
            continue  # undefined without images of the class, or of the others
        false, true, _ = roc_curve(positive, shares[:, number])
        area = roc_auc_score(positive, shares[:, number])
        label = f"{plain(names[number])}, {area:.3f}" if len(names) <= _COUNTED else None
        place.plot(false, true, label=label, linewidth=1.5)
    if place.get_legend_handles_labels()[1]:
        place.legend(fontsize=8, loc="lower right", title="class, AUROC", title_fontsize=8)
    place.set(xlabel="1 - specificity", ylabel="sensitivity", aspect="equal")
    place.set_title("ROC, each class against the others", fontsize=9)


def _calibration(place: Axes, truth: Numbers, shares: Probabilities) -> None:
    points = calibration_curve(truth, shares)
    x, y = ([float(point[key]) for point in points] for key in ("confidence", "accuracy"))
    place.plot([0, 1], [0, 1], ":", color=_MUTED)
    place.plot(x, y, "o-", color=_INK, linewidth=1)
    place.set(xlim=(0, 1), ylim=(-0.03, 1.03), aspect="equal")
    place.set(xlabel="probability of the predicted class", ylabel="accuracy")
    place.set_title(
        f"calibration in bins of equal size, ECE {calibration_error(truth, shares):.3f}", fontsize=9
    )
