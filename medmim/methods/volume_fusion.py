"""Volume Fusion: segment the coefficients that mix two crops (Wang et al., 2023, arXiv 2306.16925).

A foreground crop is mixed into a background crop of the same volume, x = α·foreground + (1 − α)·background,
in 10 to 40 random boxes that may overlap, each side 6.25 to 62.5 % of the image. α is 0 outside all boxes and
one of 1/K … 1 in each box; the U-Net classifies every voxel into these K + 1 coefficients (Dice and cross
entropy). The step's mask hides nothing; it seeds the boxes. The decoder is that of the segmentation task.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medmim.encoders import Encoder
from medmim.errors import UsageError
from medmim.heads.segmentation import UNetDecoder
from medmim.methods.base import Method, Step, generators_of, require_grid
from medmim.methods.dice_loss import batch_dice
from medmim.methods.reconstruction import PredictionHead
from medmim.shapes import Hidden, Images, Size

_BOXES = (10, 40)
_SIDES = (0.0625, 0.625)  # shares of the image


class VolumeFusion(Method):
    """The method from its parts."""

    views = 2
    sees_hidden_content = True
    reconstructs = False

    def __init__(
        self, encoder: Encoder, decoder: UNetDecoder, predict: nn.Module, *, coefficients: int, cell: Size
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.predict = predict
        self.loss = batch_dice("dice_ce")
        self.coefficients = coefficients
        self.cell = cell
        self.axes = {
            "target": "fusion coefficients",
            "architecture": "dense U-Net",
            "objective": "pseudo-segmentation",
        }

    def forward(self, images: Images, hidden: Hidden) -> Step:
        """Compute the loss of one batch of pairs: the foreground crops, then the background crops.

        `hidden` seeds the boxes; nothing is hidden.
        """
        require_grid(images, hidden, self.cell)
        foreground, background = images.chunk(2)
        space = tuple(images.shape[2:])
        generators = generators_of(hidden)[: len(foreground)]
        classes = torch.stack([fusion_classes(space, self.coefficients, one) for one in generators])
        classes = classes.unsqueeze(1).to(images.device)
        share = classes / self.coefficients
        mixed = share * foreground + (1 - share) * background
        logits = self.predict(self.decoder.features(self.encoder(mixed.to(images.dtype)))).float()
        accuracy = (logits.argmax(dim=1, keepdim=True) == classes).float().mean()
        return Step(loss=self.loss(logits, classes), parts={"accuracy": accuracy})


def fusion_classes(space: Size, coefficients: int, generator: torch.Generator) -> Tensor:
    """Return the class of every voxel, 0 to `coefficients`, of one image of `space` voxels."""
    classes = torch.zeros(space, dtype=torch.long)
    for _ in range(int(torch.randint(*_BOXES, (), generator=generator))):
        where = []
        for length in space:
            small, large = (max(round(share * length), 1) for share in _SIDES)
            side = int(torch.randint(small, large + 1, (), generator=generator))
            start = int(torch.randint(0, length - side + 1, (), generator=generator))
            where.append(slice(start, start + side))
        classes[tuple(where)] = torch.randint(1, coefficients + 1, (), generator=generator)
    return classes


def build_volume_fusion(
    *, encoder: Encoder, spatial_dims: int, cell: Size, coefficients: int = 4
) -> VolumeFusion:
    """Build Volume Fusion around an encoder.

    Args:
        coefficients: number K of coefficients above 0.
    """
    if coefficients < 1:
        raise UsageError(f"method_options: expected coefficients of at least 1, got {coefficients}")
    decoder = UNetDecoder(encoder=encoder, spatial_dims=spatial_dims)
    voxel = (1,) * spatial_dims
    predict = PredictionHead(decoder.channels, voxel, out_channels=coefficients + 1, out_stride=voxel)
    return VolumeFusion(encoder, decoder, predict, coefficients=coefficients, cell=cell)
