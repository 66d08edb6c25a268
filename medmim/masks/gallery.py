"""A figure of masks × ratios, on a neutral grid or over an image in one or three planes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

_HIDDEN, _SEEN = "#24476b", "#f6f1e4"
_COVER = 0.88  # opacity of hidden voxels over an image
_NOTE_POINTS = 7
_PANEL = {2: 0.95, 3: 1.15}  # inches
_SHADES = (0.72, 0.86, 1.0)  # of the cube's faces across the first, second, third axis
_TILT = np.array([[np.sqrt(0.75), -0.5], [-np.sqrt(0.75), -0.5], [0.0, 1.0]])  # isometric, seen from above


@dataclass(frozen=True, eq=False)
class GalleryBackground:
    """The image under the masks.

    Attributes:
        image: voxels in RAS order, 2D or 3D.
        centre: the voxel through which the three planes are drawn.
    """

    image: Float[np.ndarray, "*space"]
    spacing_mm: tuple[float, ...]
    centre: tuple[int, ...]


def gallery(
    masks: Sequence[tuple[str, Sequence[Bool[np.ndarray, "*grid"]]]],
    columns: Sequence[str],
    *,
    note: str,
    backdrop: GalleryBackground | None = None,
) -> Figure:
    """Draw one row per mask and one column per ratio; a mask has cells, or voxels on a backdrop.

    Without a backdrop, masks in 3D are cubes with one corner removed.
    """
    dims = masks[0][1][0].ndim
    height, width = _shape(masks[0][1][0], backdrop)
    scale = _PANEL[dims] * (1.3 if backdrop is not None and dims == 3 else 1.0) / max(height, width)
    size = (scale * width * 1.06 * len(columns) + 0.75, scale * height * 1.06 * len(masks) + 0.55)
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    figure = Figure(figsize=size, dpi=200, layout=layout)
    axes = figure.subplots(len(masks), len(columns), squeeze=False)
    for line, (name, hidden) in zip(axes, masks, strict=True):
        for place, where in zip(line, hidden, strict=True):
            _panel(place, where, backdrop)
        line[0].set_ylabel(name, fontsize=9)
    for place, title in zip(axes[0], columns, strict=True):
        place.set_title(title, fontsize=9, pad=3)
    letters = int(72 * size[0] / (0.6 * _NOTE_POINTS))  # wrap the note in narrow figures
    figure.supxlabel("\n".join(textwrap.wrap(note, letters)), fontsize=_NOTE_POINTS, color="#555555")
    return figure


def _shape(hidden: np.ndarray, backdrop: GalleryBackground | None) -> tuple[float, float]:
    """Return height and width of a panel, in any unit."""
    if backdrop is not None:
        return _extent(backdrop)
    if hidden.ndim == 3:
        corners = _project(np.stack(np.meshgrid(*[(0, n) for n in hidden.shape], indexing="ij"), axis=-1))
        spans = np.ptp(corners.reshape(-1, 2), axis=0)
        return float(spans[1]), float(spans[0])
    return float(hidden.shape[1]), float(hidden.shape[0])


def _panel(place: Axes, hidden: np.ndarray, backdrop: GalleryBackground | None) -> None:
    place.set_xticks([])
    place.set_yticks([])
    place.set_aspect("equal")
    if backdrop is not None:
        _over_image(place, hidden, backdrop)
    elif hidden.ndim == 3:
        _cube(place, hidden)
    else:
        colours = ListedColormap([_SEEN, _HIDDEN])
        place.pcolormesh(hidden.T, cmap=colours, vmin=0, vmax=1, edgecolors="white", linewidth=0.25)
        place.spines[:].set_visible(False)


def _cube(place: Axes, hidden: np.ndarray) -> None:
    """Draw the three visible faces, and the inner walls where the nearest corner is removed."""
    place.spines[:].set_visible(False)
    middle = [length // 2 for length in hidden.shape]
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        beyond = [np.arange(hidden.shape[other]) >= middle[other] for other in others]
        cut = np.logical_and.outer(*beyond)
        last = hidden.shape[axis]
        _face(place, hidden.take(last - 1, axis), axis, last, keep=~cut)
        _face(place, hidden.take(max(middle[axis] - 1, 0), axis), axis, middle[axis], keep=cut)


def _face(place: Axes, cells: np.ndarray, axis: int, at: int, *, keep: np.ndarray) -> None:
    """Draw the cells of one plane across `axis`, at distance `at` from the origin, where `keep` is True."""
    first, second = np.nonzero(keep)
    corners = [(first + right, second + up) for right, up in ((0, 0), (1, 0), (1, 1), (0, 1))]
    points = np.insert(np.array(corners).transpose(2, 0, 1).astype(float), axis, at, axis=-1)
    colours = np.array([to_rgb(_SEEN), to_rgb(_HIDDEN)]) * _SHADES[axis]
    quads = PolyCollection(
        list(_project(points)),
        facecolors=colours[cells[keep].astype(int)],
        edgecolors="white",
        linewidths=0.1,
    )
    place.add_collection(quads)
    place.autoscale_view()


def _project(points: np.ndarray) -> np.ndarray:
    return np.asarray(points @ _TILT)


def _over_image(place: Axes, hidden: np.ndarray, backdrop: GalleryBackground) -> None:
    """Draw the image with hidden voxels covered: one plane in 2D, axial, coronal and sagittal in 3D."""
    height, width = _extent(backdrop)
    low, high = np.percentile(backdrop.image, [0.5, 99.5])
    grey = np.clip((backdrop.image - low) / max(high - low, 1e-9), 0, 1)[..., None].repeat(3, axis=-1)
    painted = np.where(hidden[..., None], (1 - _COVER) * grey + _COVER * np.array(to_rgb(_HIDDEN)), grey)
    for plane, corner in _planes(backdrop):
        picture = painted if painted.ndim == 3 else painted.take(backdrop.centre[plane[2]], axis=plane[2])
        size = [picture.shape[n] * backdrop.spacing_mm[plane[n]] for n in range(2)]
        extent = (corner[0], corner[0] + size[0], corner[1], corner[1] + size[1])
        place.imshow(picture.transpose(1, 0, 2), extent=extent, origin="lower", interpolation="nearest")
    place.set_xlim(0, width)
    place.set_ylim(0, height)


def _planes(backdrop: GalleryBackground) -> Sequence[tuple[tuple[int, ...], tuple[float, float]]]:
    """Return planes as (axis to the right, axis upwards, axis across) with their lower left corner in mm.

    The sagittal plane is next to the coronal one, or below it for scans with few slices.
    """
    if backdrop.image.ndim == 2:
        return [((0, 1), (0.0, 0.0))]
    right, _, up = lengths = _lengths(backdrop)
    gap = 0.03 * max(lengths)
    axial, coronal, sagittal = (0, 1, 2), (0, 2, 1), (1, 2, 0)
    if 2 * lengths[2] < lengths[1]:
        return [(axial, (0.0, 2 * (up + gap))), (coronal, (0.0, up + gap)), (sagittal, (0.0, 0.0))]
    return [(axial, (0.0, up + gap)), (coronal, (0.0, 0.0)), (sagittal, (right + gap, 0.0))]


def _extent(backdrop: GalleryBackground) -> tuple[float, float]:
    """Return height and width of all planes, in mm."""
    lengths = _lengths(backdrop)
    corners = [
        (corner[1] + lengths[plane[1]], corner[0] + lengths[plane[0]]) for plane, corner in _planes(backdrop)
    ]
    return max(top for top, _ in corners), max(side for _, side in corners)


def _lengths(backdrop: GalleryBackground) -> list[float]:
    return [n * step for n, step in zip(backdrop.image.shape, backdrop.spacing_mm, strict=True)]
