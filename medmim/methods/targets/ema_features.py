"""Features of the encoder's moving average as a target, after data2vec (Baevski et al., arXiv 2202.03555)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from medmim.encoders import Encoder
from medmim.methods.ema_teacher import EMATeacher
from medmim.methods.targets.pixels import Cells, Target, to_cells
from medmim.shapes import Images, Size, require_whole_cells


class EMAFeatures(Target):
    """The coarsest map of an EMA teacher of the whole image, normalised over the channels of each position.

    Args:
        momentum: EMA momentum at the first step.
        last_momentum: EMA momentum at the last step.

    Raises:
        ShapeError: if a cell is finer than the encoder's coarsest map.
    """

    name = "EMA features"

    def __init__(
        self, cell: Size, *, encoder: Encoder, momentum: float = 0.99, last_momentum: float = 1.0
    ) -> None:
        super().__init__()
        require_whole_cells(cell, encoder.total_stride, of="the encoder's total stride")
        self.cell = cell
        self.stride = encoder.total_stride
        self.width = encoder.channels[-1]
        self.teacher = EMATeacher(encoder, momentum=momentum, last_momentum=last_momentum)

    def channels(self, in_channels: int) -> int:
        """Return the channels of the encoder's coarsest map."""
        return self.width

    def forward(self, images: Images) -> Cells:
        """Return the target, float32."""
        features: Tensor = self.teacher(images)[-1].float()
        normed = F.layer_norm(features.movedim(1, -1), (self.width,)).movedim(-1, 1)
        steps = tuple(n // step for n, step in zip(self.cell, self.stride, strict=True))
        return to_cells(normed, steps)

    def update_ema(self, student: nn.Module, *, progress: float) -> None:
        """Update the teacher."""
        self.teacher.update(student, progress=progress)
