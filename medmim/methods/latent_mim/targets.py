"""The sources of Latent MIM's targets: the encoder, with or without gradient, or its moving average."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import nn

from medmim.encoders.patch_tokens import PatchSelection, Tokens, select_patches
from medmim.encoders.vit import ViTEncoder
from medmim.methods.ema_teacher import EMATeacher
from medmim.shapes import Features, Images


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
