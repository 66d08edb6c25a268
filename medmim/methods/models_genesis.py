"""Models Genesis: restore an image from a distorted copy (Zhou et al., MICCAI 2019, arXiv 1908.06912).

A U-Net sees the image with its intensities mapped by a random monotonic Bézier curve (probability 0.9), the
voxels of small windows shuffled (0.5), and cells painted over with one random value. It restores the whole
image; the loss is the mean squared error over all voxels. The painted cells are the hidden cells of the mask:
the paper's in-painting at low ratios, its out-painting at high ones. The decoder is that of the segmentation
task.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn

from medmim.encoders import Encoder
from medmim.errors import UsageError
from medmim.heads.segmentation import UNetDecoder
from medmim.masks import hidden_voxels
from medmim.methods.base import Method, Step, generators_of, require_grid
from medmim.methods.reconstruction import PredictionHead
from medmim.methods.targets import RawPixels, from_cells
from medmim.shapes import Hidden, Images, Size, require_whole_cells

_WINDOWS = 100  # windows of which the voxels are shuffled, per image
_LARGEST_WINDOW = 10  # each side is at most this share of the image: 1/10
_CURVE_POINTS = 1000


class ModelsGenesis(Method):
    """The method from its parts."""

    def __init__(
        self,
        encoder: Encoder,
        decoder: UNetDecoder,
        predict: nn.Module,
        target: RawPixels,
        *,
        curve: float,
        shuffle: float,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.predict = predict
        self.target = target
        self.curve = curve
        self.shuffle = shuffle
        self.axes = {
            "target": target.name,
            "architecture": "dense U-Net",
            "objective": "restoration of distorted images",
        }

    def forward(self, images: Images, hidden: Hidden) -> Step:
        """Compute the loss over all voxels and the restored image."""
        require_grid(images, hidden, self.target.cell)
        space = tuple(images.shape[2:])
        distorted = self._distorted(images, hidden_voxels(hidden, space), generators_of(hidden))
        restored = self.predict(self.decoder.features(self.encoder(distorted))).float()
        true = from_cells(self.target(images), space, self.target.cell)
        return Step(loss=(restored - true).square().mean(), pictures={"reconstruction": restored.detach()})

    def _distorted(self, images: Images, covered: Tensor, generators: list[torch.Generator]) -> Images:
        """Return distorted copies; nothing of a hidden voxel enters them."""
        copies = []
        for image, hide, generator in zip(images, covered, generators, strict=True):
            draw = torch.rand(2, generator=generator)
            seen = image[(~hide).expand_as(image)]
            low, high = (seen.min(), seen.max()) if len(seen) else (image.new_zeros(()), image.new_ones(()))
            unit = ((image - low) / (high - low).clamp(min=1e-6)).clamp(0, 1).masked_fill(hide, 0)
            unit = bezier(unit, generator) if draw[0] < self.curve else unit
            unit = shuffled(unit, generator) if draw[1] < self.shuffle else unit
            paint = torch.rand((), generator=generator).to(unit)
            copies.append(torch.where(hide, paint, unit) * (high - low) + low)
        return torch.stack(copies)


def bezier(unit: Tensor, generator: torch.Generator) -> Tensor:
    """Map intensities of 0 to 1 by a random monotonic cubic Bézier curve, rising or falling."""
    draw = torch.rand(5, generator=generator)
    inner, falling = draw[:4].view(2, 2).sort(dim=1).values, bool(draw[4] < 0.5)
    at = torch.linspace(0, 1, _CURVE_POINTS)
    weights = torch.stack([3 * (1 - at) ** 2 * at, 3 * (1 - at) * at**2])
    x, y = inner @ weights + at**3
    position = torch.searchsorted(x.contiguous(), unit.detach().flatten().float().cpu())
    mapped: Tensor = y[position.clamp(max=_CURVE_POINTS - 1)].view(unit.shape).to(unit)
    return 1 - mapped if falling else mapped


def shuffled(image: Tensor, generator: torch.Generator) -> Tensor:
    """Shuffle the voxels of small random windows, of one image (channels, *space)."""
    image, space = image.clone(), image.shape[1:]
    for _ in range(_WINDOWS):
        sides = [
            int(torch.randint(1, max(n // _LARGEST_WINDOW, 1) + 1, (), generator=generator)) for n in space
        ]
        starts = [
            int(torch.randint(0, n - side + 1, (), generator=generator))
            for n, side in zip(space, sides, strict=True)
        ]
        where = (slice(None), *(slice(a, a + side) for a, side in zip(starts, sides, strict=True)))
        window = image[where]
        order = torch.randperm(prod(sides), generator=generator).to(image.device)
        image[where] = window.flatten(1)[:, order].view(window.shape)
    return image


def build_models_genesis(
    *, encoder: Encoder, spatial_dims: int, cell: Size, curve: float = 0.9, shuffle: float = 0.5
) -> ModelsGenesis:
    """Build Models Genesis around an encoder.

    Args:
        cell: mask cell in voxels; a multiple of the encoder's total stride.
    """
    for name, value in (("curve", curve), ("shuffle", shuffle)):
        if not 0 <= value <= 1:
            raise UsageError(f"method_options: expected {name} from 0 to 1, got {value:g}")
    require_whole_cells(cell, encoder.total_stride, of="the encoder's total stride")
    decoder = UNetDecoder(encoder=encoder, spatial_dims=spatial_dims)
    voxel = (1,) * spatial_dims
    predict = PredictionHead(decoder.channels, voxel, out_channels=encoder.in_channels, out_stride=voxel)
    return ModelsGenesis(encoder, decoder, predict, RawPixels(cell), curve=curve, shuffle=shuffle)
