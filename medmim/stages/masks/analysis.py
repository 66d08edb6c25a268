"""MaskAnyNet's analysis of masks (arXiv 2511.12480): what becomes of entropy and of an encoder's features.

What both branches see is held against the original: the masked image, and the reuse image of what was hidden.
The paper weighs a reuse image's entropy against how alike its features are; how it brings both to one scale
is not known here, so F-scores compare masks with each other, not with the paper's numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from monai.networks.layers.factories import Pool
from torch import Tensor

from medmim.encoders import Encoder, build_encoder
from medmim.encoders.recalibrate_batch_norm import settle_batch_norms
from medmim.errors import RunError, UsageError
from medmim.heads import transfer
from medmim.masks import hidden_voxels
from medmim.methods.mask_any_net.reuse_image import stitch
from medmim.randomness import stream_seed
from medmim.shapes import Hidden, Images, Size, round_up
from medmim.training.evaluation.features import extract_features
from medmim.training.weights import load_weights

IMAGES = 8  # that a mask is judged on
_SIDE = {2: 128, 3: 48}  # voxels along an axis at most, so that all masks at all ratios take seconds
_BINS = 64
_WIDTHS = (8, 16, 32, 64)  # of the encoder that nothing was taught


@dataclass(frozen=True)
class MaskAnalysis:
    """Means over images.

    Attributes:
        masked_entropy: entropy of the masked image's intensities less that of the image's, in bits a voxel.
        reuse_entropy: the same of the reuse image.
        masked_similarity: cosine between an encoder's pooled features of the masked image and of the image.
        reuse_similarity: the same of the reuse image.
        f_score: harmonic mean of the reuse image's similarity, not below 0, and of its entropy as a share of
            the image's, not above 1; this scale is ours.
    """

    masked_entropy: float
    reuse_entropy: float
    masked_similarity: float
    reuse_similarity: float
    f_score: float

    def as_json(self) -> dict[str, float]:
        """Return the numbers, rounded to what they are worth."""
        return {key: round(value, 6) for key, value in asdict(self).items()}


class MaskAnalyzer:
    """Images as an encoder sees them, and what becomes of them under masks.

    Args:
        scans: at least one, of 2 or 3 axes; as a whole, and in turn where there are fewer than 8.
        grid: mask cells along each axis.
        weights: as `medmim pretrain` and `medmim finetune` keep them; None: a small ResNet with fixed random
            weights, whose features tell less apart.

    Raises:
        RunError: if the weights cannot be read, or do not say of which encoder they are.
        TransferError: if they do not fit it.
        UsageError: if it sees images of another number of axes.
    """

    def __init__(self, scans: Sequence[Tensor], grid: Size, *, weights: Path | None = None) -> None:
        space = tuple(max(1, _SIDE[len(grid)] // count) * count for count in grid)
        longest = torch.tensor([tuple(scan.shape) for scan in scans]).amax(dim=0).tolist()
        space = tuple(min(a, b) for a, b in zip(space, round_up(longest, grid), strict=True))
        shown = [_scaled(scans[number % len(scans)], space) for number in range(max(IMAGES, len(scans)))]
        self.images: Images = torch.stack(shown)
        self.cell = tuple(length // count for length, count in zip(space, grid, strict=True))
        self.encoder = _untrained(self.images) if weights is None else _trained(weights, len(grid))
        self._features = self._seen(self.images)
        self._entropies = self._bits(self.images)

    def judge(self, hidden: Hidden) -> MaskAnalysis:
        """Judge masks, one for each of `images`.

        Args:
            hidden: (batch, *grid), True = hidden.
        """
        covered = hidden_voxels(hidden, tuple(self.images.shape[2:]))
        masked, reuse = self.images.masked_fill(covered, 0), stitch(self.images, hidden, self.cell)
        entropies = [self._bits(masked), self._bits(reuse)]
        alike = [F.cosine_similarity(self._seen(one), self._features, dim=1) for one in (masked, reuse)]
        # an image without contrast has no entropy that could be kept
        share = (entropies[1] / self._entropies.clamp(min=1e-12)).clamp(max=1)
        similarity = alike[1].clamp(min=0)
        score = 2 * share * similarity / (share + similarity).clamp(min=1e-12)
        values = [*(one - self._entropies for one in entropies), *alike, score]
        names = [field.name for field in fields(MaskAnalysis)]
        return MaskAnalysis(**{name: float(one.mean()) for name, one in zip(names, values, strict=True)})

    def _seen(self, images: Images) -> Float[Tensor, "batch widths"]:
        """Return the encoder's pooled features; images are scaled up to whole strides, two at least."""
        strides = self.encoder.total_stride
        space = tuple(images.shape[2:])
        fitting = round_up([max(n, 2 * step) for n, step in zip(space, strides, strict=True)], strides)
        if fitting != space:
            images = F.interpolate(images, size=fitting, mode="bilinear" if len(space) == 2 else "trilinear")
        given = images.expand(-1, self.encoder.in_channels, *fitting)
        return extract_features(self.encoder, given, precision="fp32").pooled.double()

    def _bits(self, images: Images) -> Float[Tensor, " batch"]:
        """Return Shannon's entropy of intensities, in bits, from 64 bins between each original's ends."""
        ends = [(float(own.min()), float(own.max())) for own in self.images]
        counts = [
            np.histogram(image, bins=_BINS, range=each)[0]
            for image, each in zip(images.double().numpy(), ends, strict=True)
        ]
        shares = torch.from_numpy(np.stack(counts)) / images[0].numel()
        bits: Tensor = torch.special.entr(shares.double()).sum(dim=1) / math.log(2)
        return bits


def small(scan: Tensor) -> Tensor:
    """Return a scan of 2 or 3 axes with no more voxels than an analysis looks at."""
    return _pooled(scan, tuple(min(length, _SIDE[scan.dim()]) for length in scan.shape))


def _pooled(scan: Tensor, space: Size) -> Tensor:
    pooled: Tensor = Pool[Pool.ADAPTIVEAVG, len(space)](space)(scan.float().unsqueeze(0))
    return pooled[0]


def _scaled(scan: Tensor, space: Size) -> Float[Tensor, "1 *space"]:
    """Return a scan as (1, *space), of mean 0 and deviation 1: what is hidden becomes 0, as in training."""
    fitting = _pooled(scan, space).unsqueeze(0)
    return (fitting - fitting.mean()) / fitting.std().clamp(min=1e-6)


def _untrained(images: Images) -> Encoder:
    """Return a small ResNet with the same random weights every time, its batch norms fit to the images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(0, "mask analysis"))
        encoder = build_encoder("resnet18", spatial_dims=images.dim() - 2, in_channels=1, widths=_WIDTHS)
    settle_batch_norms(encoder, [images])
    return encoder


def _trained(path: Path, dims: int) -> Encoder:
    """Return the encoder of a run."""
    weights, told = load_weights(path)
    try:
        of_dims, words = told["spatial_dims"], (told["encoder"], told["in_channels"], told["encoder_options"])
    except KeyError as error:
        raise RunError(f"weights at '{path}' do not name their encoder: {error} is missing") from error
    if of_dims != dims:
        raise UsageError(
            f"--model: its encoder sees images of {of_dims} axes, and masks have {dims}: give --dims"
        )
    encoder = build_encoder(words[0], spatial_dims=dims, in_channels=words[1], **words[2])
    transfer(encoder, weights)
    return encoder
