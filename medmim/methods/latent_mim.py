"""Latent MIM: predict the latents of hidden patches instead of their pixels (Wei et al., arXiv 2407.15837).

The encoder computes visible patches; a decoder predicts a target network's latents of the hidden ones. Four
options prevent collapse and trivial solutions: the target network (a moving average), the objective (patch
discrimination), non-contiguous patches, and the decoder (cross-attention with visual cues). A constraint
keeps the mean cosine similarity of an image's latents near a given value. Non-contiguous patches are cropped
from larger mask cells at random offsets: as none touch, none is predicted from its neighbour's edge.
"""

from __future__ import annotations

import math
import zlib

import torch
from einops import rearrange
from torch import Tensor, nn

from medmim.distributed import all_reduce_sum, world_size
from medmim.encoders import Encoder
from medmim.encoders.patch_tokens import Tokens, initialise, select_patches
from medmim.encoders.vit import ViTEncoder
from medmim.errors import UsageError
from medmim.methods.base import HIDDEN_ERROR, Method, Step, relative_error, require_grid
from medmim.methods.latent_objectives import (
    LATENT_TARGETS,
    OBJECTIVES,
    LatentTarget,
    Objective,
    mean_cosine,
    project,
)
from medmim.methods.reconstruction import Choice, build_choice
from medmim.methods.token_decoder import DECODERS, TokenDecoder
from medmim.methods.visible_encoding import hidden_patches, require_patches
from medmim.randomness import torch_stream
from medmim.shapes import Features, Hidden, Images, Scalar, Size, grid_of, require_whole_cells

_FIRST_COSINE, _LAST_COSINE = 0.75, 0.25


class LatentMIM(Method):
    """The method from its parts."""

    encoder: ViTEncoder
    progress: Tensor

    def __init__(
        self,
        encoder: ViTEncoder,
        projector: nn.Module,
        *,
        decoder: TokenDecoder,
        target: LatentTarget,
        objective: Objective,
        similarity: float,
        cell: Size,
        embedding_decay: bool,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = projector
        self.decoder = decoder
        self.predict = nn.Linear(decoder.width, encoder.width)
        self.target = target
        self.objective = objective
        self.similarity = similarity
        self.cell = cell
        self.undecayed = () if embedding_decay else (encoder.patches.weight, decoder.embed.weight)
        # a buffer, so that resumed runs restore it
        self.register_buffer("progress", torch.zeros((), dtype=torch.float64))
        initialise(self.predict)
        self.axes = {
            "target": target.name,
            "architecture": f"ViT on visible patches, {decoder.name}",
            "objective": objective.name,
        }

    def forward(self, images: Images, hidden: Hidden) -> Step:
        """Compute the loss on the latents of hidden patches."""
        require_grid(images, hidden, self.cell)
        if any(n % step for n, step in zip(self.cell, self.encoder.patch, strict=True)):
            images = crop_patches(images, hidden, cell=self.cell, patch=self.encoder.patch)
        patches = self.encoder.embed(images)
        grid = tuple(patches.shape[2:])
        covered = hidden_patches(hidden, grid)
        visible, wanted = select_patches(~covered), select_patches(covered)
        latents = project(self.encoder, self.projector, patches, visible)
        true = self.target(self.encoder, self.projector, images, wanted)
        predicted = self.predict(self.decoder(latents, visible, wanted, grid))
        with torch.autocast(images.device.type, enabled=False):
            loss = self.objective(predicted, true, wanted.weight)
            alike = {
                "cosine_predictions": mean_cosine(predicted, wanted.weight),
                "cosine_visible": mean_cosine(latents, visible.weight),
            }
            constraint = sum(
                (
                    (self._mean_over_processes(value) - self._target_cosine()).square()
                    for value in alike.values()
                ),
                loss.new_zeros(()),
            )
            parts = {name: value.detach() for name, value in alike.items()}
            parts["cosine_targets"] = mean_cosine(true.detach(), wanted.weight)
            parts[HIDDEN_ERROR] = self._error(predicted.detach(), true.detach(), wanted.weight)
        return Step(loss=loss + self.similarity * constraint, parts=parts)

    def on_step_end(self, progress: float) -> None:
        """Update the target and the progress of the constraint."""
        self.progress.fill_(progress)
        self.target.update_ema(self.encoder, self.projector, progress=progress)

    def _error(self, predicted: Tokens, true: Tokens, weight: Tensor) -> Scalar:
        """Return the relative error of hidden patches' latents, as the objective compares them."""
        real = weight.squeeze(-1) > 0
        return relative_error(*(one[real] for one in self.objective.compared(predicted, true, weight)))

    def _mean_over_processes(self, value: Scalar) -> Scalar:
        """Return the mean over processes, which have equally many images."""
        return all_reduce_sum(value) / world_size() if self.training else value

    def _target_cosine(self) -> Scalar:
        """Return the target value of the mean cosine, which decreases along a cosine schedule."""
        falling = (1 + torch.cos(math.pi * self.progress)) / 2
        return (_LAST_COSINE + (_FIRST_COSINE - _LAST_COSINE) * falling).float()


def build_latent_mim(  # noqa: PLR0913 - options of a method, all given by name
    *,
    encoder: Encoder,
    spatial_dims: int,
    cell: Size,
    target: Choice = "ema",
    objective: Choice = "infonce",
    decoder: Choice = "cross",
    projector: int | None = None,
    similarity: float = 0.1,
    embedding_decay: bool = True,
) -> LatentMIM:
    """Build Latent MIM around an encoder.

    Args:
        cell: mask cell in voxels: a multiple of the patch, or a patch and a gap smaller than a patch, from
            which each patch is cropped at a random offset.
        target: joint, stop_gradient or ema, alone or with its options: `whole`, and for ema `momentum` and
            `last_momentum`.
        objective: infonce, mse, norm_l2 or l1, or `{infonce: {tau: …}}`.
        decoder: self or cross, alone or with its options: `width`, `depth`, `cues`.
        projector: width of the projector's two inner layers; 0: no projector; None: four times the encoder's.
        similarity: weight of the similarity constraint; 0: none.
        embedding_decay: whether the embeddings of patches have weight decay; not in Latent MIM's code.
    """
    vit = require_patches(encoder, ViTEncoder, method="latent_mim")
    if similarity < 0 or (projector or 0) < 0:
        raise UsageError("method_options: expected similarity and projector of at least 0")
    if not all(patch <= n < 2 * patch for n, patch in zip(cell, vit.patch, strict=True)):
        require_whole_cells(cell, vit.patch, of="the encoder's patch, or a patch and a smaller gap;")
    after = _projector(vit.width, 4 * vit.width if projector is None else projector)
    return LatentMIM(
        vit,
        after,
        decoder=build_choice(
            "decoder",
            decoder,
            DECODERS,
            in_width=vit.width,
            norm_eps=vit.norm.eps,
            stretch=vit.positions.stretch,
        ),
        target=build_choice("target", target, LATENT_TARGETS, encoder=vit, projector=after),
        objective=build_choice("objective", objective, OBJECTIVES),
        similarity=similarity,
        cell=cell,
        embedding_decay=embedding_decay,
    )


def _projector(width: int, inner: int) -> nn.Module:
    """Return three linear layers without bias, each followed by layer norm, with GELU between."""
    if not inner:
        return nn.Identity()
    layers = nn.Sequential(
        nn.Linear(width, inner, bias=False),
        nn.LayerNorm(inner),
        nn.GELU(),
        nn.Linear(inner, inner, bias=False),
        nn.LayerNorm(inner),
        nn.GELU(),
        nn.Linear(inner, width, bias=False),
        nn.LayerNorm(width),
    )
    return layers.apply(initialise)


_JOIN = {
    2: "b gy gx py px c -> b c (gy py) (gx px)",
    3: "b gz gy gx pz py px c -> b c (gz pz) (gy py) (gx px)",
}


def crop_patches(images: Images, hidden: Hidden, *, cell: Size, patch: Size) -> Features:
    """Return images made of one patch per cell.

    The offsets, 0 to cell - patch - 1 along each axis, are derived from the mask, so that equal masks give
    equal crops.

    Args:
        images: (batch, channels, *space); space = grid × cell.
        hidden: (batch, *grid).

    Returns:
        (batch, channels, *space) with space = grid × patch.
    """
    grid, dims = grid_of(tuple(images.shape[2:]), cell), len(cell)
    generator = torch_stream(zlib.crc32(hidden.cpu().numpy().tobytes()), "patch offsets")
    batch = torch.arange(len(images), device=images.device)
    places = [batch.reshape(-1, *[1] * 2 * dims)]
    for axis, (cells, length, size) in enumerate(zip(grid, cell, patch, strict=True)):
        offset = torch.randint(max(length - size, 1), (len(images), *grid), generator=generator)
        start = offset.to(images.device) + _along(torch.arange(cells) * length, axis, dims).to(images.device)
        inside = _along(torch.arange(size), axis, dims).to(images.device)
        places.append(start.reshape(*start.shape, *[1] * dims) + inside)
    return rearrange(images.movedim(1, -1)[tuple(places)], _JOIN[dims])


def _along(values: Tensor, axis: int, dims: int) -> Tensor:
    """Reshape values to broadcast along one of `dims` axes."""
    return values.reshape([-1 if other == axis else 1 for other in range(dims)])
