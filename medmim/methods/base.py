"""What every method is: a module that turns images and a mask into a loss, deterministically."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from torch import Tensor, nn

from medmim.encoders import Encoder
from medmim.shapes import Hidden, Images, Scalar


@dataclass(frozen=True)
class Step:
    """What one forward gives.

    Attributes:
        loss: what is minimised.
        parts: detached terms worth a curve each, without the loss itself.
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
    """

    encoder: Encoder
    axes: dict[str, str]

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
