"""Segmentation of whole volumes by sliding windows, averaged over mirrored images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from monai.inferers.inferer import Inferer, SliceInferer, SlidingWindowInferer
from torch import Tensor, nn

from medmim.data.loading.preprocess import PreprocessedVolume
from medmim.data.loading.preprocessing_plan import PreprocessingPlan
from medmim.training.evaluation.regions import RegionProbabilities
from medmim.training.precision import autocast


def segment(
    network: nn.Module,
    prepared: PreprocessedVolume,
    plan: PreprocessingPlan,
    *,
    precision: str,
    mirror: bool = False,
) -> Tensor:
    """Segment one preprocessed volume with Gaussian-weighted sliding windows, slice by slice in 2D.

    If the device runs out of memory, windows are computed one by one and averaged in main memory.

    Returns:
        Probabilities of classes or regions, (channels, x, y, z), on the CPU, on the preprocessed grid.
    """
    network = RegionProbabilities(network) if plan.regions else network
    averaged = MirrorAveraging(network, mirrored(prepared, plan) if mirror else ())
    try:
        scores = _window_scores(averaged, prepared, plan, precision, windows=8 if plan.dims == 2 else 2)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        scores = _window_scores(averaged, prepared, plan, precision, windows=1, device="cpu")
    found: Tensor = scores[0].float().cpu()
    return found if plan.regions else torch.softmax(found, dim=0)


def _window_scores(
    network: nn.Module,
    prepared: PreprocessedVolume,
    plan: PreprocessingPlan,
    precision: str,
    *,
    windows: int,
    device: str | None = None,
) -> Tensor:
    """Return the logits (probabilities of regions) of a volume, (1, channels, x, y, z).

    Image and sums of windows are on `device`; None: that of the network.
    """
    computes = next(network.parameters()).device
    image = prepared.image.unsqueeze(0).to(device or computes)
    inferer = _inferer(prepared, plan, sw_batch_size=windows, sw_device=computes, device=device or computes)
    with torch.no_grad(), autocast(precision, computes):
        scores: Tensor = inferer(image, network)
    return scores


class MirrorAveraging(nn.Module):
    """A network whose float32 outputs are averaged over mirrored images, so that window sums are accurate."""

    def __init__(self, network: nn.Module, flips: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self.network = network
        self.flips = flips

    def forward(self, images: Tensor) -> Tensor:
        """Return averaged outputs, (batch, channels, *space)."""
        scores: Tensor = self.network(images).float()
        for axes in self.flips:
            scores = scores + self.network(images.flip(axes)).float().flip(axes)
        return scores / (1 + len(self.flips))


def mirrored(prepared: PreprocessedVolume, plan: PreprocessingPlan) -> list[tuple[int, ...]]:
    """Return all combinations of tensor axes of a batch that inference may flip."""
    shown = [axis for axis in range(3) if plan.dims == 3 or axis != prepared.slice_axis]
    return all_flips([number + 2 for number, axis in enumerate(shown) if axis in plan.mirror_axes])


def all_flips(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Return all combinations of one or more axes."""
    return [chosen for count in range(1, len(axes) + 1) for chosen in combinations(axes, count)]


def _inferer(prepared: PreprocessedVolume, plan: PreprocessingPlan, **more: Any) -> Inferer:
    options = {
        "roi_size": plan.size,
        "overlap": 0.5,
        "mode": "gaussian",
        "cval": prepared.background,
        **more,
    }
    if plan.dims == 2:
        return SliceInferer(spatial_dim=prepared.slice_axis, **options)
    return SlidingWindowInferer(**options)
