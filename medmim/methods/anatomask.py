"""AnatoMask: SparK under masks that a teacher makes harder (Li et al., ECCV 2024, arXiv 2407.06468).

The moving average of the network reconstructs the image under the step's mask. The cells that it
reconstructs worst are hidden from the student, which then has to predict them from the rest. Their share of
the hidden cells rises linearly from 0 to `hardest` over the training; with 0.5, as in the official code.
The other hidden cells follow the mirrored base mask, so that the student's mask keeps its pattern and its
number of cells; the official code draws them at random, which is the same for `--mask random`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medmim.encoders import Encoder
from medmim.errors import UsageError
from medmim.methods.base import Step, generators_of, require_grid
from medmim.methods.ema_teacher import EMATeacher
from medmim.methods.reconstruction import Choice, squared_errors
from medmim.methods.spark import SparK, build_spark, densified
from medmim.methods.visible_encoding import HIDE, Compute
from medmim.shapes import Hidden, Images, Size


class AnatoMask(SparK):
    """SparK with a teacher that chooses a part of each mask."""

    def __init__(self, spark: SparK, *, hardest: float) -> None:
        super().__init__(spark.encoder, spark.densify, spark.decoder, spark.target, compute=spark.compute)
        self.encoder_teacher = EMATeacher(spark.encoder)
        self.densify_teacher = EMATeacher(spark.densify)
        self.decoder_teacher = EMATeacher(spark.decoder)
        self.hardest = hardest
        self.progress: Tensor
        self.register_buffer("progress", torch.zeros(()))  # share of the training that is done
        self.axes = {**spark.axes, "objective": "reconstruction of the hardest cells"}

    def forward(self, images: Images, hidden: Hidden) -> Step:
        """Compute SparK's loss; in training under the harder mask, in evaluation under the given one."""
        require_grid(images, hidden, self.target.cell)
        share = self.hardest * float(self.progress)
        if self.training and share > 0:
            hidden = harder_masks(hidden, self._teacher_errors(images, hidden), share=share)
        return super().forward(images, hidden)

    def on_step_end(self, progress: float) -> None:
        """Update the teacher and the share of cells that it chooses."""
        super().on_step_end(progress)
        self.encoder_teacher.update(self.encoder, progress=progress)
        self.densify_teacher.update(self.densify, progress=progress)
        self.decoder_teacher.update(self.decoder, progress=progress)
        self.progress.fill_(progress)

    def _teacher_errors(self, images: Images, hidden: Hidden) -> Tensor:
        """Return the teacher's error of every mask cell, (batch, *grid)."""
        with (
            self.encoder_teacher.inference() as encoder,
            self.densify_teacher.inference() as layers,
            self.decoder_teacher.inference() as decoder,
        ):
            maps = encoder(HIDE[self.compute](images, hidden))[::-1]
            prediction = decoder(densified(maps, layers, hidden))
            return squared_errors(prediction, self.target, images, tuple(hidden.shape[1:]))


def harder_masks(hidden: Hidden, errors: Tensor, *, share: float) -> Hidden:
    """Return masks with as many hidden cells, `share` of which have the largest errors.

    Args:
        hidden: (batch, *grid), True = hidden: the masks under which the errors were measured.
        errors: error of each cell, (batch, *grid); those of visible cells are not used.
        share: share of the hidden cells chosen by error, rounded down; the others are cells of the mirrored
            mask, completed at random where these are too few.
    """
    mirrored = hidden.flip(list(range(1, hidden.dim()))).flatten(1)
    ranked = errors.masked_fill(~hidden, -torch.inf).flatten(1).argsort(dim=1, descending=True)
    harder = torch.zeros_like(mirrored)
    for sample, generator in enumerate(generators_of(hidden)):
        count = int(hidden[sample].sum())
        chosen = ranked[sample, : int(share * count)]
        order = torch.rand(len(mirrored[sample]), generator=generator).to(errors.device)
        order += mirrored[sample]  # cells of the mirrored mask come before all others
        order[chosen] = torch.inf
        harder[sample, order.argsort(descending=True)[:count]] = True
    return harder.view_as(hidden)


def build_anatomask(
    *,
    encoder: Encoder,
    spatial_dims: int,
    cell: Size,
    compute: Compute = "packed",
    hardest: float = 0.5,
    decoder: str = "light",
    decoder_width: int | None = None,
    target: Choice = "normalised",
) -> AnatoMask:
    """Build AnatoMask around an encoder.

    Args:
        cell: mask cell in voxels; a multiple of the encoder's total stride.
        hardest: share of hidden cells that the teacher chooses at the end of training.
        decoder: light or official, as for SparK.
        target: raw, normalised, hog or ema, alone or with its options.
    """
    if not 0 <= hardest <= 1:
        raise UsageError(f"method_options: expected hardest from 0 to 1, got {hardest:g}")
    spark = build_spark(
        encoder=encoder,
        spatial_dims=spatial_dims,
        cell=cell,
        compute=compute,
        decoder=decoder,
        decoder_width=decoder_width,
        target=target,
    )
    return AnatoMask(spark, hardest=hardest)
