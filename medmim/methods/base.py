"""The base class of all methods: modules that compute a loss from images and a mask, deterministically."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal
from zlib import crc32

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medmim.encoders import Encoder
from medmim.errors import ShapeError, size_text
from medmim.methods.targets import Target
from medmim.shapes import Hidden, Images, Scalar, Size, grid_of, require_tensors

Values = Float[Tensor, "places values"]

HIDDEN_ERROR = "hidden_error"


@dataclass(frozen=True)
class Step:
    """The result of one forward.

    Attributes:
        parts: detached terms to log, without the loss; includes `HIDDEN_ERROR` where hidden cells are
            predicted in another form than images.
        pictures: detached images, such as `reconstruction`, (batch, channels, *space).
    """

    loss: Scalar
    parts: dict[str, Tensor] = field(default_factory=dict)
    pictures: dict[str, Tensor] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return the loss and the parts as numbers, and the shapes of the pictures."""
        numbers = {"loss": self.loss, **self.parts}
        words = [f"{name}={value.item():.4g}" for name, value in numbers.items() if value.numel() == 1]
        words += [f"{name}: {size_text(one.shape)}" for name, one in self.pictures.items()]
        return f"Step({', '.join(words)})"


class Method(nn.Module, ABC):
    """A pretraining objective around an encoder.

    Attributes:
        encoder: the network that is kept after pretraining.
        axes: target, architecture and objective in the survey's taxonomy (arXiv 2408.06687); tags of the run.
        views: views of each image in a batch, each with its own mask, ordered view by view.
        sees_hidden_content: whether hidden content reaches the prediction by design, so that a low error is
            not a leak.
        reconstructs: whether hidden cells are predicted; otherwise leaks cannot be detected by their error.
        undecayed: further parameters without weight decay.
        label_kind: labels passed as a third argument: target (class of each image), label (class of each
            voxel), or None.
    """

    encoder: Encoder
    axes: dict[str, str]
    views: int = 1
    sees_hidden_content: bool = False
    reconstructs: bool = True
    undecayed: tuple[Tensor, ...] = ()
    label_kind: Literal["target", "label"] | None = None

    @abstractmethod
    def forward(self, images: Images, hidden: Hidden) -> Step:
        """Compute the loss of one batch."""

    def on_step_end(self, progress: float) -> None:
        """Update what follows a step, such as a teacher, by the share of the budget used so far.

        Here, it is a target made of averaged features.
        """
        target = getattr(self, "target", None)
        if isinstance(target, Target):
            target.update_ema(self.encoder, progress=progress)

    def discard_pending(self) -> None:
        """Discard what forwards stored for `on_step_end`, because their step is skipped."""


@torch.no_grad()
def relative_error(prediction: Values, truth: Values) -> Scalar:
    """Return the squared error of hidden places relative to their variance; 1 for predicting the mean."""
    spread = (truth - truth.mean(dim=0)).square().sum()
    return ((prediction - truth).square().sum() / spread).where(spread > 0, 1.0)


def generators_of(hidden: Hidden) -> list[torch.Generator]:
    """Return one random generator per sample, seeded by its mask.

    Methods draw from these, so that a resumed training repeats its draws and a sample's do not depend on
    the rest of the batch.
    """
    return [torch.Generator().manual_seed(crc32(sample.cpu().numpy().tobytes())) for sample in hidden]


def require_grid(images: Images, hidden: Hidden, cell: Size) -> None:
    """Check that the mask has the grid of the image.

    Raises:
        ShapeError: for another grid, or an image that does not divide into cells.
        TypeError: see `require_tensors`.
    """
    require_tensors(images, hidden)
    grid = grid_of(tuple(images.shape[2:]), cell)
    if tuple(hidden.shape[1:]) != grid:
        raise ShapeError(
            f"mask grid of {size_text(hidden.shape[1:])} cells: expected "
            f"{size_text(grid)}, the image size divided by the mask cell"
        )
