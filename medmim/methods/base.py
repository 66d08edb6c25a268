"""What every method is: a module that turns images and a mask into a loss, deterministically."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medmim.encoders import Encoder
from medmim.errors import ShapeError
from medmim.shapes import Hidden, Images, Scalar, Size, grid_of

Values = Float[Tensor, "places values"]

HIDDEN_ERROR = "hidden_error"


@dataclass(frozen=True)
class Step:
    """What one forward gives.

    Attributes:
        loss: what is minimised.
        parts: detached terms worth a curve each, without the loss itself; `HIDDEN_ERROR` where hidden cells
            are predicted and no picture shows them.
        pictures: detached images in the input's frame, such as `reconstruction`, (batch, channels, *space).
    """

    loss: Scalar
    parts: dict[str, Tensor] = field(default_factory=dict)
    pictures: dict[str, Tensor] = field(default_factory=dict)


class Method(nn.Module, ABC):
    """A pretraining objective around an encoder.

    Attributes:
        encoder: the network that is kept after pretraining.
        axes: the survey's taxonomy (arXiv 2408.06687): target, architecture, objective; tags of the run.
        views: views of each image in a batch, each under a mask of its own: the first of all images, then the
            second of all images.
        sees_hidden: whether hidden content reaches the prediction by design; then a low loss is no leak.
        rebuilds: whether hidden cells are predicted; else there is no error of them, and no alarm of leaks.
        learns_from: what labels the method is given as a third argument: target (class of each image), label
            (class of each voxel), or None.
    """

    encoder: Encoder
    axes: dict[str, str]
    views: int = 1
    sees_hidden: bool = False
    rebuilds: bool = True
    learns_from: Literal["target", "label"] | None = None

    @abstractmethod
    def forward(self, images: Images, hidden: Hidden) -> Step:
        """Compute the loss of one batch.

        Args:
            images: (batch, channels, *space).
            hidden: (batch, *grid), True = hidden from the encoder.
        """

    def after_step(self, progress: float) -> None:
        """Do what follows an optimiser step, such as moving a teacher.

        Args:
            progress: share of the training's budget used so far, 0 to 1.
        """

    def forget(self) -> None:
        """Drop what forwards noted for `after_step`: the step that they belong to is not taken."""


@torch.no_grad()
def relative_error(prediction: Values, truth: Values) -> Scalar:
    """Return the squared error relative to the variance of each value over the places; 1: only means.

    Where nothing varies there is nothing to be known beyond means: 1 too.

    Args:
        prediction: of hidden places, of all images.
        truth: what it is compared with.
    """
    spread = (truth - truth.mean(dim=0)).square().sum()
    return ((prediction - truth).square().sum() / spread).where(spread > 0, 1.0)


def require_grid(images: Images, hidden: Hidden, cell: Size) -> None:
    """Refuse a mask that is not of the image's cells.

    Raises:
        ShapeError: for another grid, or an image that cells do not divide.
    """
    grid = grid_of(tuple(images.shape[2:]), cell)
    if tuple(hidden.shape[1:]) != grid:
        raise ShapeError(
            f"mask grid of {'×'.join(map(str, hidden.shape[1:]))} cells: expected "
            f"{'×'.join(map(str, grid))}, the image divided by the mask cell"
        )


def require_whole_cells(cell: Size, step: Size, *, of: str) -> None:
    """Refuse mask cells that are no multiple of what the encoder looks at as one.

    Args:
        cell: mask cell in voxels.
        step: what it must be a multiple of.
        of: what that is, for the message.

    Raises:
        ShapeError: with the nearest cell that fits.
    """
    if any(size % stride for size, stride in zip(cell, step, strict=True)):
        nearest = tuple(-(-size // stride) * stride for size, stride in zip(cell, step, strict=True))
        raise ShapeError(
            f"mask cell of {'×'.join(map(str, cell))} voxels: expected a multiple of {of} "
            f"{'×'.join(map(str, step))}; use --cell {','.join(map(str, nearest))}"
        )
