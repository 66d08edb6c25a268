"""The common part of all reconstruction methods: the choice of a target, and the loss on hidden cells."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from medmim.encoders import Encoder
from medmim.errors import ShapeError
from medmim.masks import hidden_voxels
from medmim.methods.base import HIDDEN_ERROR, Step, relative_error
from medmim.methods.options import Choice, build_choice
from medmim.methods.targets.ema_features import EMAFeatures
from medmim.methods.targets.hog import HOG
from medmim.methods.targets.pixels import Cells, NormalisedPixels, RawPixels, Target, to_cells
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
        choice: a key of `TARGETS`, alone or with that target's options.
        cell: cell of the target in voxels; mask cells are multiples of it.
        encoder: the student, for targets made of its averaged features.
    """
    target = build_choice("target", choice, TARGETS, cell=cell, encoder=encoder)
    if isinstance(target, NormalisedPixels) and math.prod(cell) * encoder.in_channels < 2:
        raise ShapeError(
            "mask cell of one voxel: expected at least 2 values, since each cell is divided by its standard "
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
    """Return the mean error on hidden cells, and the image with its hidden cells reconstructed.

    For targets other than images, `HIDDEN_ERROR` is returned instead of the reconstruction. The prediction
    has the target's stride. The squared or absolute error is averaged over the values of a cell.
    """
    space = tuple(images.shape[2:])
    predicted, true = _in_cells(prediction, target), target(images)
    difference = predicted - true
    errors = (difference.square() if error == "squared" else difference.abs()).mean(dim=-1)
    chosen = hidden_voxels(hidden, grid_of(space, target.cell))[:, 0].flatten(1)
    picture = target.picture(predicted.detach(), images)
    loss = errors[chosen].mean()
    if picture is None:
        return Step(loss=loss, parts={HIDDEN_ERROR: relative_error(predicted[chosen], true[chosen])})
    reconstruction = picture.where(hidden_voxels(hidden, space), images.float())
    return Step(loss=loss, pictures={"reconstruction": reconstruction})


def squared_errors(
    prediction: Features, target: Target, images: Images, grid: Size
) -> Float[Tensor, "batch *grid"]:
    """Return the mean squared error of each mask cell, hidden or not."""
    errors = (_in_cells(prediction, target) - target(images)).square().mean(dim=-1)
    fine = grid_of(tuple(images.shape[2:]), target.cell)
    per_cell = tuple(n // cells for n, cells in zip(fine, grid, strict=True))
    return to_cells(errors.view(len(errors), 1, *fine), per_cell).mean(dim=-1).view(len(errors), *grid)


def _in_cells(prediction: Features, target: Target) -> Cells:
    """Return a prediction as the target's cells, float32."""
    steps = tuple(n // step for n, step in zip(target.cell, target.stride, strict=True))
    return to_cells(prediction.float(), steps)
