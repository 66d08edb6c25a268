"""Figures of a run as PNG: plots of scores and of a classification test."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score, roc_curve

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
