"""Classification and regression heads: the pooled coarsest feature map and one linear layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medmim.encoders import Encoder
from medmim.shapes import Images


class Classifier(nn.Module):
    """An encoder, mean and max pooling of its coarsest map, and a linear layer.

    Max pooling keeps the response to a small finding that averaging over a whole image would dilute.

    Args:
        dropout: share of pooled features that are dropped in training.
    """

    def __init__(self, *, encoder: Encoder, spatial_dims: int, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.axes = tuple(range(2, 2 + spatial_dims))
        self.norm = nn.LayerNorm(2 * encoder.channels[-1])
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Linear(2 * encoder.channels[-1], classes)

    def forward(self, images: Images) -> Tensor:
        """Return class logits, (batch, classes)."""
        last = self.encoder(images)[-1]
        pooled = torch.cat([last.mean(dim=self.axes), last.amax(dim=self.axes)], dim=1)
        logits: Tensor = self.score(self.dropout(self.norm(pooled)))
        return logits


class Regressor(Classifier):
    """A `Classifier` whose outputs are numbers with the mean and spread of the training data.

    Args:
        classes: number of numbers.
        dropout: share of pooled features that are dropped in training.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        spatial_dims: int,
        classes: int,
        dropout: float = 0.0,
        mean: float = 0.0,
        sd: float = 1.0,
    ) -> None:
        super().__init__(encoder=encoder, spatial_dims=spatial_dims, classes=classes, dropout=dropout)
        self.mean = mean
        self.sd = sd

    def forward(self, images: Images) -> Tensor:
        """Return numbers, (batch, classes)."""
        numbers: Tensor = self.mean + self.sd * super().forward(images).float()
        return numbers
