"""Objectives between predicted and true latents, and how alike the latents of one image are.

Latents are (batch, patches, width); `weight` is 1 at real patches and 0 at fillers. Everything is computed in
float32, whatever the precision of the networks. `compared` gives latents in an objective's own units.
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
    """Patch discrimination: tell the true latent of a patch from those of the image's other hidden patches.

    As in Latent MIM's code: predictions are standardised over the patches of their image; predictions and
    targets are divided by their length; the cross entropy is multiplied by twice the temperature.

    Attributes:
        tau: temperature.
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
        """Return both standardised: scale and offset of a prediction are free."""
        return _standardised(prediction.float(), weight), _standardised(target.float(), weight)


@dataclass(frozen=True)
class SquaredError:
    """The squared distance of predictions and targets of length one: 2 − 2 cos."""

    name = "latent MSE"

    def __call__(self, prediction: Latents, target: Latents, weight: Weight) -> Scalar:
        """Return the mean over all patches."""
        prediction, target = self.compared(prediction, target, weight)
        return _mean((prediction - target).square().sum(dim=-1), weight)

    def compared(self, prediction: Latents, target: Latents, weight: Weight) -> tuple[Latents, Latents]:
        """Return both with length one."""
        return F.normalize(prediction.float(), dim=-1), F.normalize(target.float(), dim=-1)


@dataclass(frozen=True)
class NormalisedSquaredError:
    """The `norm_l2` of Latent MIM's code: each target with mean 0 and deviation 1 over its channels."""

    name = "latent MSE, normalised targets"

    def __call__(self, prediction: Latents, target: Latents, weight: Weight) -> Scalar:
        """Return the mean over all patches and channels."""
        prediction, target = self.compared(prediction, target, weight)
        return _mean((prediction - target).square().mean(dim=-1), weight)

    def compared(self, prediction: Latents, target: Latents, weight: Weight) -> tuple[Latents, Latents]:
        """Return predictions as they are, targets normalised."""
        variance, mean = torch.var_mean(target.float(), dim=-1, keepdim=True)
        return prediction.float(), (target.float() - mean) / (variance + 1e-6).sqrt()


@dataclass(frozen=True)
class AbsoluteError:
    """The absolute difference of predictions and targets, as they are."""

    name = "latent L1"

    def __call__(self, prediction: Latents, target: Latents, weight: Weight) -> Scalar:
        """Return the mean over all patches."""
        prediction, target = self.compared(prediction, target, weight)
        return _mean((prediction - target).abs().mean(dim=-1), weight)

    def compared(self, prediction: Latents, target: Latents, weight: Weight) -> tuple[Latents, Latents]:
        """Return both as they are."""
        return prediction.float(), target.float()


Objective = InfoNCE | SquaredError | NormalisedSquaredError | AbsoluteError
OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "infonce": InfoNCE,
    "mse": SquaredError,
    "norm_l2": NormalisedSquaredError,
    "l1": AbsoluteError,
}


def mean_cosine(latents: Latents, weight: Weight) -> Scalar:
    """Return the mean cosine of all pairs of different patches of an image, averaged over images.

    Near 1, all patches look alike: the representation has collapsed. An image of one patch has no pairs and
    counts as 0. Latent MIM's code counts each patch with itself too, which adds (1 − cosine) / patches.
    """
    directions = F.normalize(latents.float(), dim=-1) * weight
    count = weight.sum(dim=(1, 2))
    # the length of the sum holds all pairs, each patch with itself included
    pairs = directions.sum(dim=1).square().sum(dim=-1) - directions.square().sum(dim=(1, 2))
    return (pairs / (count * (count - 1)).clamp(min=1)).mean()


def _standardised(latents: Latents, weight: Weight) -> Latents:
    """Return latents with mean 0 and deviation 1 over the real patches of each image, in each channel."""
    count = weight.sum(dim=1, keepdim=True)
    centred = latents - (latents * weight).sum(dim=1, keepdim=True) / count
    variance = (centred.square() * weight).sum(dim=1, keepdim=True) / count
    return centred / (variance + 1e-6).sqrt()


def _mean(values: Float[Tensor, "batch patches"], weight: Weight) -> Scalar:
    return (values * weight.squeeze(-1)).sum() / weight.sum()
