"""The common part of reconstruction methods: choice of target, prediction layer, loss on hidden cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from inspect import signature
from math import prod
from typing import Any, Literal, TypeVar

from einops import rearrange
from jaxtyping import Float
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from medmim.encoders import Encoder
from medmim.errors import ShapeError, UsageError, refuse_unknown_options, size_text, unknown_name
from medmim.masks import hidden_voxels
from medmim.methods.base import HIDDEN_ERROR, Step, relative_error
from medmim.methods.targets import HOG, Cells, EMAFeatures, NormalisedPixels, RawPixels, Target, to_cells
from medmim.shapes import Features, Hidden, Images, Size, grid_of

Choice = str | Mapping[str, Mapping[str, Any]]
Made = TypeVar("Made")


def build_choice(what: str, choice: Choice, table: Mapping[str, Callable[..., Made]], **given: Any) -> Made:
    """Build one entry of a table.

    Args:
        what: the option's name, such as `target`, for messages.
        choice: a key of the table, or a mapping from one to its options.
        **given: further arguments; each builder gets those that it accepts.
    """
    named = {choice: {}} if isinstance(choice, str) else choice
    if len(named) != 1:
        raise UsageError(
            f"method option {what}: expected one name, alone or with its options as in "
            f"{{{next(iter(table))}: {{…}}}}, got {len(named)}"
        )
    [(name, options)] = named.items()
    if name not in table:
        raise unknown_name(what, name, table)
    taken = signature(table[name]).parameters.keys()
    refuse_unknown_options(f"{what} '{name}'", options, taken - given.keys())
    return table[name](**{key: value for key, value in given.items() if key in taken}, **options)


class PredictionHead(nn.Module):
    """One linear layer: 1×1 convolution and pixel shuffle to finer strides, strided convolution to coarser.

    Raises:
        ShapeError: if neither stride is a multiple of the other.
    """

    def __init__(self, in_channels: int, stride: Size, *, out_channels: int, out_stride: Size) -> None:
        super().__init__()
        conv = Conv[Conv.CONV, len(stride)]
        self.finer = _ratio(stride, out_stride)
        coarser = _ratio(out_stride, stride)
        if self.finer is not None:
            self.linear = conv(in_channels, out_channels * prod(self.finer), kernel_size=1)
        elif coarser is not None:
            self.linear = conv(in_channels, out_channels, kernel_size=coarser, stride=coarser)
        else:
            raise ShapeError(
                f"features of stride {size_text(stride)} cannot predict values of stride "
                f"{size_text(out_stride)}: expected one to be a multiple of the other"
            )

    @classmethod
    def of_target(cls, in_channels: int, stride: Size, target: Target, encoder: Encoder) -> PredictionHead:
        """Return the layer that predicts a target of the images of an encoder."""
        out_channels = target.channels(encoder.in_channels)
        return cls(in_channels, stride, out_channels=out_channels, out_stride=target.stride)

    def forward(self, features: Features) -> Features:
        """Return the predicted values, (batch, out_channels, *space / out_stride)."""
        values: Tensor = self.linear(features)
        return values if self.finer is None else _unfold(values, self.finer)


def _ratio(coarse: Size, fine: Size) -> Size | None:
    """Return coarse / fine along each axis; None where it is not an integer."""
    if any(c % f for c, f in zip(coarse, fine, strict=True)):
        return None
    return tuple(c // f for c, f in zip(coarse, fine, strict=True))


def _unfold(x: Features, stride: Size) -> Features:
    """Rearrange channels to voxels (pixel shuffle, with any strides)."""
    if len(stride) == 2:
        return rearrange(x, "b (c sy sx) y x -> b c (y sy) (x sx)", sy=stride[0], sx=stride[1])
    return rearrange(
        x, "b (c sz sy sx) z y x -> b c (z sz) (y sy) (x sx)", sz=stride[0], sy=stride[1], sx=stride[2]
    )


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


def reconstruction_step(
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
