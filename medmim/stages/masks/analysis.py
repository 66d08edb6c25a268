"""MaskAnyNet's analysis of masks (arXiv 2511.12480): entropy and features of both branches' inputs.

The masked image and the reuse image are compared with the original. The paper combines the entropy of a reuse
image and the similarity of its features to an F-score without defining their common scale; F-scores here
compare masks with each other, not with the paper's numbers.
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
from medmim.encoders.batch_norm import recalibrate_batch_norms
from medmim.errors import UsageError
from medmim.masks import hidden_voxels
from medmim.methods.two_branch_encoder import stitch
from medmim.randomness import stream_seed
from medmim.shapes import Hidden, Images, Size, round_up
from medmim.training.evaluation.probes import extract_features
from medmim.training.tasks.trained_model import load_trained_encoder

IMAGES = 8  # per analysis
_SIDE = {2: 128, 3: 48}  # maximum voxels along an axis, so that all masks at all ratios take seconds
_BINS = 64
_WIDTHS = (8, 16, 32, 64)  # of the untrained encoder


@dataclass(frozen=True)
class MaskAnalysis:
    """Means over images.

    Attributes:
        masked_entropy: entropy of the masked image minus that of the original, in bits per voxel.
        reuse_entropy: the same for the reuse image.
        masked_similarity: cosine between pooled features of the masked image and of the original.
        reuse_similarity: the same for the reuse image.
        f_score: harmonic mean of the reuse image's similarity, clipped at 0, and of its entropy relative to
            the original's, clipped at 1; this scale is not the paper's.
    """

    masked_entropy: float
    reuse_entropy: float
    masked_similarity: float
    reuse_similarity: float
    f_score: float

    def as_json(self) -> dict[str, float]:
        """Return the numbers, rounded to six decimals."""
        return {key: round(value, 6) for key, value in asdict(self).items()}


class MaskAnalyzer:
    """Images, their entropies and features, for comparison with masked versions.

    Args:
        scans: at least one scan of 2 or 3 axes; repeated where there are fewer than 8.
        weights: weights written by `medmim pretrain` or `medmim finetune`; None: a small ResNet with fixed
            random weights, whose features discriminate less.
    """

    def __init__(self, scans: Sequence[Tensor], grid: Size, *, weights: Path | None = None) -> None:
        space = tuple(max(1, _SIDE[len(grid)] // count) * count for count in grid)
        longest = torch.tensor([tuple(scan.shape) for scan in scans]).amax(dim=0).tolist()
        space = tuple(min(a, b) for a, b in zip(space, round_up(longest, grid), strict=True))
        shown = [_scaled(scans[number % len(scans)], space) for number in range(max(IMAGES, len(scans)))]
        self.images: Images = torch.stack(shown)
        self.cell = tuple(length // count for length, count in zip(space, grid, strict=True))
        self.encoder = _untrained(self.images) if weights is None else _trained(weights, len(grid))
        self._features = self._embed(self.images)
        self._entropies = self._entropy(self.images)

    def analyze(self, hidden: Hidden) -> MaskAnalysis:
        """Analyze masks (batch, *grid), one for each of `images`."""
        covered = hidden_voxels(hidden, tuple(self.images.shape[2:]))
        masked, reuse = self.images.masked_fill(covered, 0), stitch(self.images, hidden, self.cell)
        entropies = [self._entropy(masked), self._entropy(reuse)]
        alike = [F.cosine_similarity(self._embed(one), self._features, dim=1) for one in (masked, reuse)]
        # a constant image has no entropy
        share = (entropies[1] / self._entropies.clamp(min=1e-12)).clamp(max=1)
        similarity = alike[1].clamp(min=0)
        score = 2 * share * similarity / (share + similarity).clamp(min=1e-12)
        values = [*(one - self._entropies for one in entropies), *alike, score]
        names = [field.name for field in fields(MaskAnalysis)]
        return MaskAnalysis(**{name: float(one.mean()) for name, one in zip(names, values, strict=True)})

    def _embed(self, images: Images) -> Float[Tensor, "batch widths"]:
        """Return the encoder's pooled features; images are enlarged to fit its stride."""
        strides = self.encoder.total_stride
        space = tuple(images.shape[2:])
        fitting = round_up([max(n, 2 * step) for n, step in zip(space, strides, strict=True)], strides)
        if fitting != space:
            images = F.interpolate(images, size=fitting, mode="bilinear" if len(space) == 2 else "trilinear")
        given = images.expand(-1, self.encoder.in_channels, *fitting)
        return extract_features(self.encoder, given, precision="fp32").pooled.double()

    def _entropy(self, images: Images) -> Float[Tensor, " batch"]:
        """Return the Shannon entropy of intensities in bits, from 64 bins over each original's range."""
        ends = [(float(own.min()), float(own.max())) for own in self.images]
        counts = [
            np.histogram(image, bins=_BINS, range=each)[0]
            for image, each in zip(images.double().numpy(), ends, strict=True)
        ]
        shares = torch.from_numpy(np.stack(counts)) / images[0].numel()
        bits: Tensor = torch.special.entr(shares.double()).sum(dim=1) / math.log(2)
        return bits


def small(scan: Tensor) -> Tensor:
    """Return a scan of 2 or 3 axes, downsampled to the size of an analysis."""
    return _pooled(scan, tuple(min(length, _SIDE[scan.dim()]) for length in scan.shape))


def _pooled(scan: Tensor, space: Size) -> Tensor:
    pooled: Tensor = Pool[Pool.ADAPTIVEAVG, len(space)](space)(scan.float().unsqueeze(0))
    return pooled[0]


def _scaled(scan: Tensor, space: Size) -> Float[Tensor, "1 *space"]:
    """Return a scan as (1, *space), standardised: hidden voxels become 0, as in training."""
    fitting = _pooled(scan, space).unsqueeze(0)
    return (fitting - fitting.mean()) / fitting.std().clamp(min=1e-6)


def _untrained(images: Images) -> Encoder:
    """Return a small ResNet with fixed random weights, its batch norms calibrated on the images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(0, "mask analysis"))
        encoder = build_encoder("resnet18", spatial_dims=images.dim() - 2, in_channels=1, widths=_WIDTHS)
    recalibrate_batch_norms(encoder, [images])
    return encoder


def _trained(path: Path, dims: int) -> Encoder:
    """Return the encoder of a run."""
    trained = load_trained_encoder(path)
    if trained.plan.dims != dims:
        raise UsageError(
            f"--model: expected an encoder for masks of {dims} axes, got one for {trained.plan.dims}: "
            "use --dims"
        )
    return trained.encoder
