"""Statistics of masks: ratio, evenness, variety, and the hidden share of tissue and lesions."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass

import numpy as np
import torch.nn.functional as F
from jaxtyping import Integer
from scipy import ndimage
from torch import Tensor

from medmim.masks.base import Mask, hidden_voxels
from medmim.masks.tissue import tissue_share
from medmim.randomness import torch_stream
from medmim.shapes import Hidden, Images, Size

WINDOW = 3  # cells
_DRAWS = (16, 256)  # fewest and most masks that are drawn to count different ones
_DRAWN_CELLS = 50_000  # cells of these masks, about


@dataclass(frozen=True)
class MaskStatistics:
    """Means over the samples of a batch; the last three are None without an image or a lesion.

    Attributes:
        density_variance: variance of the hidden share over all windows of 3 cells along each axis inside the
            grid; 0 is perfectly even. Windows are smaller only where the grid is.
        distance_to_visible: mean distance, in cells, from a hidden cell to the nearest visible one.
        farthest_from_visible: the same for the farthest hidden cell of each sample.
        tissue_hidden: share of the tissue that is hidden.
        lesion_hidden: share of the labelled voxels that is hidden.
        lesion_lost: share of the samples with a label in which all labelled voxels are hidden.
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
        """Return the numbers, rounded to six decimals."""
        return {key: None if value is None else round(value, 6) for key, value in asdict(self).items()}


@dataclass(frozen=True)
class MaskVariety:
    """Variety and cost of a mask."""

    num_draws: int
    num_distinct: int
    draw_ms: float


def mask_variety(mask: Mask, grid: Size, *, seed: int) -> MaskVariety:
    """Draw 16 to 256 masks, fewer on large grids, and count the different ones."""
    draws = min(max(_DRAWN_CELLS // math.prod(grid), _DRAWS[0]), _DRAWS[1])
    generator = torch_stream(seed, "mask variety")
    mask.sample(1, grid, generator=generator)  # excludes tables that are computed once
    start = time.perf_counter()
    hidden = mask.sample(draws, grid, generator=generator)
    elapsed_ms = (time.perf_counter() - start) * 1e3
    distinct = len({tuple(row) for row in hidden.flatten(1).tolist()})
    return MaskVariety(draws, distinct, round(elapsed_ms / draws, 4))


def mask_statistics(
    hidden: Hidden,
    *,
    requested_ratio: float,
    images: Images | None = None,
    labels: Integer[Tensor, "batch 1 *space"] | None = None,
) -> MaskStatistics:
    """Measure masks, (batch, *grid), on images with labels (lesion where above 0), one per mask."""
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
    means, largest = zip(*((found.mean(), found.max()) for found in distances), strict=True)
    return float(np.mean(means)), float(np.mean(largest))


def _lesion(lesion: Tensor, voxels: Tensor) -> dict[str, float]:
    labelled = lesion.flatten(1).any(dim=1)
    if not labelled.any():
        return {}
    share = _share_hidden(lesion[labelled].double(), voxels[labelled])
    return {"lesion_hidden": float(share.mean()), "lesion_lost": float((share == 1).double().mean())}


def _share_hidden(amount: Tensor, hidden: Tensor) -> Tensor:
    """Return the hidden share of an amount, for the samples where it is above 0."""
    whole = amount.flatten(1).sum(dim=1)
    covered: Tensor = (amount * hidden).flatten(1).sum(dim=1)
    return (covered / whole)[whole > 0]
