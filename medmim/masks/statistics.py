"""A mask card: what a mask does, in numbers: ratio, evenness, what it hides of tissue and of a lesion."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch.nn.functional as F
from jaxtyping import Integer
from scipy import ndimage
from torch import Tensor

from medmim.masks.tissue import tissue_share
from medmim.masks.upsample import hidden_voxels
from medmim.shapes import Hidden, Images

WINDOW = 3  # cells


@dataclass(frozen=True)
class MaskStatistics:
    """Means over the samples of a batch; the last three are None where there is no image or no lesion.

    Attributes:
        requested_ratio: share of cells that was to be hidden.
        realised_ratio: share of cells that is hidden.
        density_variance: variance, over all windows of 3 cells along each axis, of the hidden share in them;
            0 is perfectly even. Windows lie inside the grid and are smaller only where the grid is.
        distance_to_visible: mean distance, in cells, from a hidden cell to the nearest visible one.
        farthest_from_visible: the same for the farthest hidden cell of each sample.
        tissue_hidden: share of the tissue that is hidden.
        lesion_hidden: share of the labelled voxels that is hidden.
        lesion_lost: share of the samples with a label in which all of it is hidden.
    """

    requested_ratio: float
    realised_ratio: float
    density_variance: float
    distance_to_visible: float
    farthest_from_visible: float
    tissue_hidden: float | None = None
    lesion_hidden: float | None = None
    lesion_lost: float | None = None

    def as_json(self) -> dict[str, float | None]:
        """Return the numbers, rounded to what they are worth."""
        return {key: None if value is None else round(value, 6) for key, value in asdict(self).items()}


def mask_statistics(
    hidden: Hidden,
    *,
    requested_ratio: float,
    images: Images | None = None,
    labels: Integer[Tensor, "batch 1 *space"] | None = None,
) -> MaskStatistics:
    """Measure masks.

    Args:
        hidden: (batch, *grid), True = hidden.
        requested_ratio: share of cells that was to be hidden.
        images: (batch, channels, *space), one for each mask.
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
        return MaskStatistics(**values)
    voxels = hidden_voxels(hidden, tuple(images.shape[2:]))
    share = tissue_share(images, tuple(hidden.shape[1:]))
    values |= {"tissue_hidden": float(_share_hidden(share.double(), hidden).mean())} if share.any() else {}
    return MaskStatistics(**values, **({} if labels is None else _lesion(labels > 0, voxels)))


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
