"""The losses and the target networks of Latent MIM.

Latents are (batch, patches, width); `weight` is 1 at patches and 0 at padding. Everything is computed in
float32. `compared` returns latents as a loss compares them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from medmim.encoders.patch_tokens import PatchSelection, Tokens, select_patches
from medmim.encoders.vit import ViTEncoder
from medmim.methods.ema_teacher import EMATeacher
from medmim.shapes import Features, Images, Scalar

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
    """Standardise each channel over the patches of each image, ignoring padding, as in Latent MIM's code."""
    count = weight.sum(dim=1, keepdim=True)
    centred = latents - (latents * weight).sum(dim=1, keepdim=True) / count
    variance = (centred.square() * weight).sum(dim=1, keepdim=True) / (count - 1).clamp(min=1)
    return centred / (variance.clamp(min=1e-12).sqrt() + 1e-4)  # the root of 0 has no gradient


def _mean(values: Float[Tensor, "batch patches"], weight: Weight) -> Scalar:
    return (values * weight.squeeze(-1)).sum() / weight.sum()


class LatentTarget(nn.Module, ABC):
    """The target latents of hidden patches.

    Args:
        whole: whether to compute them from the whole image instead of hidden patches only, as in the paper.
    """

    name: ClassVar[str]

    def __init__(self, *, whole: bool = False) -> None:
        super().__init__()
        self.whole = whole

    @abstractmethod
    def forward(
        self, encoder: ViTEncoder, projector: nn.Module, images: Images, wanted: PatchSelection
    ) -> Tokens:
        """Return the latents of the wanted patches, (batch, wanted, width)."""

    def update_ema(self, encoder: ViTEncoder, projector: nn.Module, *, progress: float) -> None:
        """Update after an optimizer step; `progress` is the share of the training that is done."""

    def latents(
        self, encoder: ViTEncoder, projector: nn.Module, images: Images, wanted: PatchSelection
    ) -> Tokens:
        """Return the projected latents of the wanted patches."""
        patches = encoder.embed(images)
        if not self.whole:
            return project(encoder, projector, patches, wanted)
        everywhere = torch.ones_like(patches[:, 0], dtype=torch.bool)
        return wanted.take(project(encoder, projector, patches, select_patches(everywhere)))


class JointTarget(LatentTarget):
    """The student itself, with gradient: the loss is minimal when all latents are equal."""

    name = "joint latents"

    def forward(
        self, encoder: ViTEncoder, projector: nn.Module, images: Images, wanted: PatchSelection
    ) -> Tokens:
        """Return latents with gradient."""
        return self.latents(encoder, projector, images, wanted)


class StopGradientTarget(LatentTarget):
    """The student itself, without gradient."""

    name = "stop-gradient latents"

    def forward(
        self, encoder: ViTEncoder, projector: nn.Module, images: Images, wanted: PatchSelection
    ) -> Tokens:
        """Return latents without gradient."""
        with torch.no_grad():
            return self.latents(encoder, projector, images, wanted)


class EMATarget(LatentTarget):
    """The moving average of encoder and projector."""

    name = "EMA latents"

    def __init__(
        self,
        *,
        encoder: ViTEncoder,
        projector: nn.Module,
        momentum: float = 0.99,
        last_momentum: float = 1.0,
        whole: bool = False,
    ) -> None:
        super().__init__(whole=whole)
        self.encoder = EMATeacher(encoder, momentum=momentum, last_momentum=last_momentum)
        self.projector = EMATeacher(projector, momentum=momentum, last_momentum=last_momentum)

    def forward(
        self, encoder: ViTEncoder, projector: nn.Module, images: Images, wanted: PatchSelection
    ) -> Tokens:
        """Return the latents of the averaged networks."""
        with self.encoder.inference() as averaged, self.projector.inference() as averaged_projector:
            return self.latents(averaged, averaged_projector, images, wanted)

    def update_ema(self, encoder: ViTEncoder, projector: nn.Module, *, progress: float) -> None:
        """Update both averages."""
        self.encoder.update(encoder, progress=progress)
        self.projector.update(projector, progress=progress)


LATENT_TARGETS: dict[str, type[LatentTarget]] = {
    "joint": JointTarget,
    "stop_gradient": StopGradientTarget,
    "ema": EMATarget,
}


def project(encoder: ViTEncoder, projector: nn.Module, patches: Features, chosen: PatchSelection) -> Tokens:
    """Return the projected latents of selected patches, computed from these alone."""
    projected: Tokens = projector(encoder.encode_chosen(patches, chosen))
    return projected
