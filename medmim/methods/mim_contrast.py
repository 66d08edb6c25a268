"""Reconstruction and contrast of masked views from one forward pass.

As in CMAE (Huang et al., 2022, arXiv 2207.13532), one encoding of masked images serves two losses: SparK's
reconstruction of hidden cells, and InfoNCE between an image's two views, each with its own mask, against an
averaged teacher. Reconstruction tends to serve segmentation, contrast classification; the encoder learns
both from the pass that SparK computes anyway. The losses are added, the contrastive one with a weight.
"""

from __future__ import annotations

from medmim.encoders import Encoder
from medmim.errors import UsageError
from medmim.methods.base import Step, require_grid
from medmim.methods.contrastive import WIDTH, Contrastive, Queue, two_layers
from medmim.methods.reconstruction import Choice, reconstruction_step
from medmim.methods.spark import SparK, build_spark, densified
from medmim.methods.visible_encoding import HIDE, Compute, pooled_map
from medmim.shapes import Hidden, Images, Size


class MIMContrast(Contrastive):
    """The contrastive method with SparK's decoder on the same features."""

    reconstructs = True

    def __init__(self, spark: SparK, *, temperature: float, queue: int, weight: float) -> None:
        encoder = spark.encoder
        super().__init__(
            encoder,
            two_layers(encoder.channels[-1], 2 * encoder.channels[-1]),
            two_layers(WIDTH, 2 * WIDTH),
            shared=False,
            others=Queue(queue, WIDTH),
            cell=spark.target.cell,
            compute=spark.compute,
            temperature=temperature,
        )
        self.densify = spark.densify
        self.decoder = spark.decoder
        self.target = spark.target
        self.weight = weight
        self.axes = {**spark.axes, "objective": "reconstruction and contrast"}

    def forward(self, images: Images, hidden: Hidden) -> Step:
        """Compute both losses of one batch of pairs of views, and the reconstructions."""
        require_grid(images, hidden, self.cell)
        maps = self.encoder(HIDE[self.compute](images, hidden))[::-1]
        prediction = self.decoder(densified(maps, self.densify, hidden))
        restored = reconstruction_step(prediction, self.target, images, hidden)
        contrast = self.contrast(pooled_map(maps[0], hidden), images, hidden)
        terms = {"reconstruction_loss": restored.loss.detach(), "contrastive_loss": contrast.loss.detach()}
        return Step(
            loss=restored.loss + self.weight * contrast.loss,
            parts={**restored.parts, **contrast.parts, **terms},
            pictures=restored.pictures,
        )


def build_mim_contrast(
    *,
    encoder: Encoder,
    spatial_dims: int,
    cell: Size,
    compute: Compute = "packed",
    weight: float = 0.1,
    temperature: float = 0.1,
    queue: int = 256,
    target: Choice = "normalised",
) -> MIMContrast:
    """Build the method around an encoder.

    Args:
        cell: mask cell in voxels; a multiple of the encoder's total stride.
        queue: number of recent embeddings of the teacher used as negatives; 0: those of the batch only.
        target: raw, normalised, hog or ema, alone or with its options.
    """
    if weight <= 0 or temperature <= 0 or queue < 0:
        raise UsageError(
            "method_options: expected weight and temperature above 0 and a queue of at least 0, got "
            f"{weight:g}, {temperature:g} and {queue}"
        )
    spark = build_spark(encoder=encoder, spatial_dims=spatial_dims, cell=cell, compute=compute, target=target)
    return MIMContrast(spark, temperature=temperature, queue=queue, weight=weight)
