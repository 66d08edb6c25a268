"""VoCo: predict where random crops lie, by contrast with base crops (CVPR 2024, arXiv 2402.17300).

A grid of base crops covers the image. A student and its moving average embed these and random crops of the
same size. The cosine similarity of a random crop and a base crop predicts the share of their overlap; a
regularization pushes the embeddings of different base crops apart. Losses, both directions of student and
teacher, and the constant momentum are those of the official code. The step's mask hides nothing; it seeds
the random crops.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from medmim.encoders import Encoder
from medmim.errors import ShapeError, UsageError, size_text
from medmim.methods.base import Method, Step, generators_of, require_grid
from medmim.methods.ema_teacher import EMATeacher
from medmim.shapes import Hidden, Images, Scalar, Size, as_size, round_up

Overlaps = Float[Tensor, "image crops bases"]
Embeddings = Float[Tensor, "image _ width"]

_BASES = {2: (4, 4), 3: (4, 4, 1)}  # in the axial plane, as in the official code
_MOMENTUM = 0.9
_EPSILON = 1e-6


class VoCo(Method):
    """The method from its parts."""

    sees_hidden_content = True
    reconstructs = False

    def __init__(self, encoder: Encoder, *, width: int, bases: Size, crops: int, cell: Size) -> None:
        super().__init__()
        self.encoder = encoder
        self.project = _projector(sum(encoder.channels), width)
        self.encoder_teacher = EMATeacher(encoder, momentum=_MOMENTUM, last_momentum=_MOMENTUM)
        self.project_teacher = EMATeacher(self.project, momentum=_MOMENTUM, last_momentum=_MOMENTUM)
        self.bases = bases
        self.crops = crops
        self.cell = cell
        self.axes = {
            "target": "overlap with base crops",
            "architecture": "student and teacher",
            "objective": "contrastive",
        }

    def forward(self, images: Images, hidden: Hidden) -> Step:
        """Compute the loss of one batch; `hidden` seeds the random crops, nothing is hidden."""
        require_grid(images, hidden, self.cell)
        space = tuple(images.shape[2:])
        side = tuple(n // count for n, count in zip(space, self.bases, strict=True))
        if min(side) < 1:
            raise ShapeError(f"image of {size_text(space)} voxels: expected at least one per base crop")
        fixed = base_starts(side, self.bases)
        starts = [random_starts(space, side, self.crops, generator) for generator in generators_of(hidden)]
        overlaps = torch.stack([overlap_shares(drawn, fixed, side) for drawn in starts]).to(images.device)
        cut = [_cut(image, torch.cat([one, fixed]), side) for image, one in zip(images, starts, strict=True)]
        crops = self._resized(torch.cat(cut))
        own = self._split(self.project(_pooled(self.encoder(crops))))
        with torch.no_grad():
            averaged = self._split(self.project_teacher(_pooled(self.encoder_teacher(crops))))
        with torch.autocast(images.device.type, enabled=False):
            similarity = (_cosines(own[0], averaged[1]) + _cosines(averaged[0], own[1])) / 2
            position, apart = overlap_loss(similarity, overlaps), discrepancy_loss(own[1])
        error = (similarity - overlaps).abs().mean()
        return Step(
            loss=position + apart,
            parts={"overlap_error": error.detach(), "base_similarity_loss": apart.detach()},
        )

    def on_step_end(self, progress: float) -> None:
        """Update the teacher."""
        self.encoder_teacher.update(self.encoder, progress=progress)
        self.project_teacher.update(self.project, progress=progress)

    def _resized(self, crops: Tensor) -> Tensor:
        """Resize crops to a multiple of the total stride, at least two: norms need several voxels."""
        stride = self.encoder.total_stride
        fitting = round_up(tuple(map(max, crops.shape[2:], (2 * step for step in stride))), stride)
        mode = "bilinear" if len(stride) == 2 else "trilinear"
        return crops if fitting == tuple(crops.shape[2:]) else F.interpolate(crops, fitting, mode=mode)

    def _split(self, embeddings: Tensor) -> tuple[Embeddings, Embeddings]:
        """Return the embeddings of random crops and those of base crops, in float32."""
        each = self.crops + prod(self.bases)
        by_image = embeddings.float().view(-1, each, embeddings.shape[1])
        return by_image[:, : self.crops], by_image[:, self.crops :]


def base_starts(side: Size, bases: Size) -> Tensor:
    """Return the first voxel of each base crop, (bases, axes)."""
    along = [torch.arange(count) * length for length, count in zip(side, bases, strict=True)]
    return torch.cartesian_prod(*along)


def random_starts(space: Size, side: Size, crops: int, generator: torch.Generator) -> Tensor:
    """Return the first voxel of random crops anywhere in the image, (crops, axes)."""
    last = torch.tensor(space) - torch.tensor(side) + 1
    return (torch.rand(crops, len(space), generator=generator) * last).long()


def overlap_shares(starts: Tensor, bases: Tensor, side: Size) -> Float[Tensor, "crops bases"]:
    """Return the share of the voxels of each crop (crops, axes) that is in each base crop (bases, axes)."""
    lengths = torch.tensor(side)
    common = (lengths - (starts[:, None] - bases[None]).abs()).clamp(min=0)
    return (common / lengths).prod(dim=-1)


def overlap_loss(similarity: Overlaps, overlap: Overlaps) -> Scalar:
    """Return the official code's loss of predicted overlaps, averaged over images.

    Base crops that overlap count by −log(1 − |overlap − similarity|), weighted by their overlap; the others
    by the squared similarity.
    """
    distance = (overlap - similarity).abs()
    near = -(overlap * (1 - distance + _EPSILON).log()).sum(dim=(1, 2)) / (overlap.sum(dim=(1, 2)) + _EPSILON)
    apart = overlap == 0
    far = (apart * similarity.square()).sum(dim=(1, 2)) / (apart.sum(dim=(1, 2)) + _EPSILON)
    return (near + far).mean()


def discrepancy_loss(bases: Embeddings) -> Scalar:
    """Return the mean squared positive cosine of pairs of base crops; the second gets no gradient."""
    pairs = _cosines(bases, bases.detach()).square().triu(diagonal=1)
    count = bases.shape[1]
    return pairs.sum(dim=(1, 2)).mean() / max(count * (count - 1) / 2, 1)


def _cosines(first: Embeddings, second: Embeddings) -> Overlaps:
    """Return the positive part of all cosine similarities."""
    return F.relu(F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).mT)


def _cut(image: Tensor, starts: Tensor, side: Size) -> Tensor:
    """Return crops of one image (channels, *space)."""
    windows = [tuple(slice(a, a + n) for a, n in zip(start, side, strict=True)) for start in starts.tolist()]
    return torch.stack([image[(slice(None), *window)] for window in windows])


def _pooled(maps: Sequence[Tensor]) -> Tensor:
    """Return the means of all maps, joined along channels."""
    return torch.cat([one.flatten(2).mean(dim=2) for one in maps], dim=1)


def _projector(entering: int, width: int) -> nn.Module:
    """Return the official projector; its batch norms have neither weights nor running statistics."""
    norm = {"affine": False, "track_running_stats": False}
    layers = [(entering, width), (width, width)]
    hidden = [(nn.Linear(*sizes), nn.BatchNorm1d(width, **norm), nn.ReLU()) for sizes in layers]
    return nn.Sequential(*(layer for each in hidden for layer in each), nn.Linear(width, width))


def build_voco(
    *,
    encoder: Encoder,
    spatial_dims: int,
    cell: Size,
    bases: int | Sequence[int] | None = None,
    crops: int = 2,
    width: int = 512,
) -> VoCo:
    """Build VoCo around an encoder.

    Args:
        bases: base crops along each axis, one number or one per axis; None: 4, and 1 along the third axis.
        width: channels of the projector's layers; 2048 in the official code.
    """
    counts = as_size(
        _BASES[spatial_dims] if bases is None else bases, spatial_dims, what="method_options bases"
    )
    if prod(counts) < 2 or min(crops, width) < 1:
        raise UsageError(
            "method_options: expected at least two bases, and crops and width of at least 1, got bases "
            f"{size_text(counts)}, crops {crops} and width {width}"
        )
    return VoCo(encoder, width=width, bases=counts, crops=crops, cell=cell)
