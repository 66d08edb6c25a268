"""Losses between predicted and target latents, and the mean cosine similarity of an image's latents.

Latents are (batch, patches, width); `weight` is 1 at patches and 0 at padding. Everything is computed in
float32. `compared` returns latents as a loss compares them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from medmim.shapes import Scalar

Latents = Float[Tensor, "batch patches width"]
Weight = Float[Tensor, "batch patches 1"]


@dataclass(frozen=True)
class InfoNCE:
    """Patch discrimination: match each patch's prediction to its target among the image's hidden patches.

    As in Latent MIM's code, predictions are standardised over the patches of their image, predictions and
    targets have unit length, and the cross entropy is multiplied by twice the temperature.
    """

    tau: float = 0.2
    name = "patch discrimination"

    def __call__(self, prediction: Latents, target: Latents, weight: Weight) -> Scalar:
        """Return the mean over all patches."""
        prediction = _standardised(prediction.float(), weight)
        scores = F.normalize(prediction, dim=-1) @ F.normalize(target.float(), dim=-1).mT / self.tau
        right = scores.diagonal(dim1=1, dim2=2)
        among = scores.masked_fill(weight.mT == 0, -torch.inf)
        return 2 * self.tau * _mean(among.logsumexp(dim=-1) - right, weight)

    def compared(self, prediction: Latents, target: Latents, weight: Weight) -> tuple[Latents, Latents]:
        """Return both standardised, since the loss ignores scale and offset of predictions."""
        return _standardised(prediction.float(), weight), _standardised(target.float(), weight)


@dataclass(frozen=True)
class SquaredError:
    """Squared distance of unit-length predictions and targets: 2 − 2 cos."""

    name = "latent MSE"

    def __call__(self, prediction: Latents, target: Latents, weight: Weight) -> Scalar:
        """Return the mean over all patches."""
        prediction, target = self.compared(prediction, target, weight)
        return _mean((prediction - target).square().sum(dim=-1), weight)

    def compared(self, prediction: Latents, target: Latents, weight: Weight) -> tuple[Latents, Latents]:
        """Return both with unit length."""
        return F.normalize(prediction.float(), dim=-1), F.normalize(target.float(), dim=-1)


@dataclass(frozen=True)
class NormalisedSquaredError:
    """Latent MIM's `norm_l2`: squared error to targets standardised over their channels."""

    name = "latent MSE, normalised targets"

    def __call__(self, prediction: Latents, target: Latents, weight: Weight) -> Scalar:
        """Return the mean over all patches and channels."""
        prediction, target = self.compared(prediction, target, weight)
        return _mean((prediction - target).square().mean(dim=-1), weight)

    def compared(self, prediction: Latents, target: Latents, weight: Weight) -> tuple[Latents, Latents]:
        """Return predictions unchanged and targets standardised over channels."""
        variance, mean = torch.var_mean(target.float(), dim=-1, keepdim=True)
        return prediction.float(), (target.float() - mean) / (variance + 1e-6).sqrt()


@dataclass(frozen=True)
class AbsoluteError:
    """Absolute difference of predictions and targets."""

    name = "latent L1"

    def __call__(self, prediction: Latents, target: Latents, weight: Weight) -> Scalar:
        """Return the mean over all patches."""
        prediction, target = self.compared(prediction, target, weight)
        return _mean((prediction - target).abs().mean(dim=-1), weight)

    def compared(self, prediction: Latents, target: Latents, weight: Weight) -> tuple[Latents, Latents]:
        """Return both unchanged."""
        return prediction.float(), target.float()


Objective = InfoNCE | SquaredError | NormalisedSquaredError | AbsoluteError
OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "infonce": InfoNCE,
    "mse": SquaredError,
    "norm_l2": NormalisedSquaredError,
    "l1": AbsoluteError,
}


def mean_cosine(latents: Latents, weight: Weight) -> Scalar:
    """Return the mean cosine similarity of all pairs of patches, averaged over images.

    A value near 1 means that the representation has collapsed. As in Latent MIM's code, pairs include each
    patch with itself.
    """
    directions = F.normalize(latents.float(), dim=-1) * weight
    return (directions.sum(dim=1).square().sum(dim=-1) / weight.sum(dim=(1, 2)).square()).mean()


def _standardised(latents: Latents, weight: Weight) -> Latents:
    """Standardise each channel over the patches of each image, ignoring padding."""
    count = weight.sum(dim=1, keepdim=True)
    centred = latents - (latents * weight).sum(dim=1, keepdim=True) / count
    variance = (centred.square() * weight).sum(dim=1, keepdim=True) / count
    return centred / (variance + 1e-6).sqrt()


def _mean(values: Float[Tensor, "batch patches"], weight: Weight) -> Scalar:
    return (values * weight.squeeze(-1)).sum() / weight.sum()
