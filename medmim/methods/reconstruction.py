"""What all reconstructions share: the choice of a target, and the loss on hidden cells alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from medmim.encoders import Encoder
from medmim.errors import ShapeError
from medmim.masks import hidden_voxels
from medmim.methods.base import HIDDEN_ERROR, Step, relative_error
from medmim.methods.options import Choice, build_choice
from medmim.methods.targets.ema_features import EMAFeatures
from medmim.methods.targets.hog import HOG
from medmim.methods.targets.pixels import NormalisedPixels, RawPixels, Target, to_cells
from medmim.shapes import Features, Hidden, Images, Size, grid_of

TARGETS: dict[str, Callable[..., Target]] = {
    "raw": RawPixels,
    "normalised": NormalisedPixels,
    "hog": HOG,
    "ema": EMAFeatures,
}


def build_target(choice: Choice, *, cell: Size, encoder: Encoder) -> Target:
    """Build a target of the table.

    Args:
        choice: a key of `TARGETS`, alone or with that target's own settings.
        cell: voxels of a cell along each axis; a mask cell holds a whole number of them.
        encoder: that learns, for targets made of its features.

    Raises:
        UsageError: for an unknown name or setting.
        ShapeError: for a cell that the target does not fit.
    """
    target = build_choice("target", choice, TARGETS, cell=cell, encoder=encoder)
    if isinstance(target, NormalisedPixels) and math.prod(cell) * encoder.in_channels < 2:
        raise ShapeError(
            "mask cell of one voxel: expected at least 2 values, since each cell is normalised by its own "
            f"deviation; use --cell {','.join('2' for _ in cell)}"
        )
    return target


def reconstruct(
    prediction: Features,
    target: Target,
    images: Images,
    hidden: Hidden,
    *,
    error: Literal["squared", "absolute"] = "squared",
) -> Step:
    """Return the mean error on hidden cells, and the image with its hidden cells as they are predicted.

    Where a prediction is no picture, its error relative to the target's variance over hidden cells is a part.

    Args:
        prediction: values at the target's stride, (batch, channels, *space / stride).
        target: what they are compared with.
        images: (batch, channels, *space).
        hidden: (batch, *grid); a mask cell holds a whole number of the target's cells.
        error: whose mean over the values of a cell is taken.
    """
    space = tuple(images.shape[2:])
    steps = tuple(n // step for n, step in zip(target.cell, target.stride, strict=True))
    predicted = to_cells(prediction.float(), steps)
    true = target(images)
    difference = predicted - true
    errors = (difference.square() if error == "squared" else difference.abs()).mean(dim=-1)
    chosen = hidden_voxels(hidden, grid_of(space, target.cell))[:, 0].flatten(1)
    picture = target.picture(predicted.detach(), images)
    loss = errors[chosen].mean()
    if picture is None:
        return Step(loss=loss, parts={HIDDEN_ERROR: relative_error(predicted[chosen], true[chosen])})
    return Step(loss=loss, pictures={"reconstruction": _patched(images, picture, hidden)})


def _patched(images: Images, picture: Images, hidden: Hidden) -> Images:
    """Return `picture` where cells are hidden and the image's own voxels elsewhere."""
    return picture.where(hidden_voxels(hidden, tuple(images.shape[2:])), images.float())
