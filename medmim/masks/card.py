"""A mask card: what a mask does, in numbers: ratio, evenness, what it hides of an image and of a lesion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer
from scipy import ndimage
from torch import Tensor

from medmim.masks.cells import hidden_voxels
from medmim.masks.tissue import tissue_share
from medmim.shapes import Hidden, Images

WINDOW = 3  # cells
_BINS = 64


@dataclass(frozen=True)
class Card:
    """Means over the samples of a batch; the last six are None where there is no image or no lesion.

    Attributes:
        requested_ratio: share of cells that was to be hidden.
        realised_ratio: share of cells that is hidden.
        density_variance: variance, over all windows of 3 cells along each axis, of the hidden share in them;
            0 is perfectly even. Windows lie inside the grid and are smaller only where the grid is.
        distance_to_visible: mean distance, in cells, from a hidden cell to the nearest visible one.
        farthest_from_visible: the same for the farthest hidden cell of each sample.
        entropy_gain: bits a voxel that the hidden pieces bring back: the entropy of the intensities of the
            image less that of the masked image, in which hidden voxels are as dark as the darkest.
        similarity: cosine between the image and its hidden pieces alone, the rest as dark as the darkest.
        trade_off: harmonic mean of similarity and of entropy gain as a share of the image's entropy
            (MaskAnyNet, arXiv 2511.12480, chooses masks by such a score).
        tissue_hidden: share of the tissue that is hidden.
        lesion_hidden: share of the labelled voxels that is hidden.
        lesion_lost: share of the samples with a label in which all of it is hidden.
    """

    requested_ratio: float
    realised_ratio: float
    density_variance: float
    distance_to_visible: float
    farthest_from_visible: float
    entropy_gain: float | None = None
    similarity: float | None = None
    trade_off: float | None = None
    tissue_hidden: float | None = None
    lesion_hidden: float | None = None
    lesion_lost: float | None = None

    def as_json(self) -> dict[str, float | None]:
        """Return the numbers, rounded to what they are worth."""
        return {key: None if value is None else round(value, 6) for key, value in asdict(self).items()}


def card(
    hidden: Hidden,
    *,
    requested_ratio: float,
    images: Images | None = None,
    labels: Integer[Tensor, "batch 1 *space"] | None = None,
) -> Card:
    """Measure masks.

    Args:
        hidden: (batch, *grid), True = hidden.
        requested_ratio: share of cells that was to be hidden.
        images: (batch, channels, *space), one for each mask; the first channel counts for entropy.
        labels: (batch, 1, *space); above 0 is lesion. Only with images.

    Raises:
        ShapeError: if the grid does not divide the images.
    """
    nearest, farthest = distances_to_visible(hidden)
    values = {
        "requested_ratio": requested_ratio,
        "realised_ratio": float(hidden.double().mean()),
        "density_variance": density_variance(hidden),
        "distance_to_visible": nearest,
        "farthest_from_visible": farthest,
    }
    if images is None:
        return Card(**values)
    voxels = hidden_voxels(hidden, tuple(images.shape[2:]))
    share = tissue_share(images, tuple(hidden.shape[1:]))
    values |= _information(images[:, 0], voxels[:, 0])
    values |= {"tissue_hidden": float(_share_hidden(share.double(), hidden).mean())} if share.any() else {}
    return Card(**values, **({} if labels is None else _lesion(labels > 0, voxels)))


def density_variance(hidden: Hidden) -> float:
    """Return the variance of the hidden share in windows of 3 cells along each axis, mean over the batch."""
    pool = F.avg_pool2d if hidden.dim() == 3 else F.avg_pool3d
    window = [min(WINDOW, length) for length in hidden.shape[1:]]
    density = pool(hidden.double().unsqueeze(1), window, stride=1)
    return float(density.flatten(1).var(dim=1, correction=0).mean())


def distances_to_visible(hidden: Hidden) -> tuple[float, float]:
    """Return the mean and the largest distance, in cells, from hidden cells to the nearest visible one."""
    distances = [ndimage.distance_transform_edt(sample)[sample] for sample in hidden.cpu().numpy()]
    return (
        float(np.mean([found.mean() for found in distances])),
        float(np.mean([found.max() for found in distances])),
    )


def _information(
    images: Float[Tensor, "batch *space"], hidden: Bool[Tensor, "batch *space"]
) -> dict[str, float]:
    """Return entropy gain, similarity and their trade-off; an image without contrast gives zeros."""
    rows = []
    for image, where in zip(images.double().numpy(), hidden.numpy(), strict=True):
        ends = (image.min(), image.max())
        whole = _entropy(image, ends)
        gain = whole - _entropy(np.where(where, ends[0], image), ends)
        energy = np.square(image - ends[0])
        # the hidden pieces equal the image where they are and the darkest elsewhere, so the cosine is a root
        similarity = math.sqrt(energy[where].sum() / energy.sum()) if energy.any() else 0.0
        relative = max(gain, 0.0) / whole if whole else 0.0
        both = similarity + relative
        rows.append((gain, similarity, 2 * similarity * relative / both if both else 0.0))
    return dict(zip(("entropy_gain", "similarity", "trade_off"), np.mean(rows, axis=0).tolist(), strict=True))


def _entropy(image: np.ndarray, ends: Sequence[float]) -> float:
    """Return Shannon's entropy of the intensities, in bits, from a histogram of 64 bins between `ends`."""
    if ends[0] == ends[1]:
        return 0.0
    counts, _ = np.histogram(image, bins=_BINS, range=(ends[0], ends[1]))
    shares = counts[counts > 0] / image.size
    return float(-(shares * np.log2(shares)).sum())


def _lesion(lesion: Tensor, voxels: Tensor) -> dict[str, float]:
    holding = lesion.flatten(1).any(dim=1)
    if not holding.any():
        return {}
    share = _share_hidden(lesion[holding].double(), voxels[holding])
    return {"lesion_hidden": float(share.mean()), "lesion_lost": float((share == 1).double().mean())}


def _share_hidden(amount: Tensor, hidden: Tensor) -> Tensor:
    """Return, for samples that hold some, which share of an amount is hidden."""
    whole = amount.flatten(1).sum(dim=1)
    covered: Tensor = (amount * hidden).flatten(1).sum(dim=1)
    return (covered / whole)[whole > 0]
