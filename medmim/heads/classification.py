"""Classification: the encoder's coarsest map, pooled, through one linear layer to class scores."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medmim.encoders import Encoder
from medmim.shapes import Images


class Classifier(nn.Module):
    """An encoder, mean and maximum over its coarsest map, and a linear layer.

    The maximum sees a small finding that the mean over a whole image would drown.

    Args:
        encoder: any encoder.
        spatial_dims: 2 or 3.
        classes: of images.
        dropout: share of pooled features that are dropped while training.
    """

    def __init__(self, *, encoder: Encoder, spatial_dims: int, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.axes = tuple(range(2, 2 + spatial_dims))
        self.norm = nn.LayerNorm(2 * encoder.channels[-1])
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Linear(2 * encoder.channels[-1], classes)

    def forward(self, images: Images) -> Tensor:
        """Return class scores, (batch, classes)."""
        last = self.encoder(images)[-1]
        pooled = torch.cat([last.mean(dim=self.axes), last.amax(dim=self.axes)], dim=1)
        scores: Tensor = self.score(self.dropout(self.norm(pooled)))
        return scores
