"""MAE: masked autoencoders (He et al., CVPR 2022, arXiv 2111.06377).

The encoder computes visible patches only; a light decoder, which also gets a token for each hidden patch,
predicts the hidden ones, by default their pixels normalised patch by patch; the loss is the mean squared
error on hidden patches alone.
"""

from __future__ import annotations

from medmim.encoders import Encoder
from medmim.encoders.patch_tokens import as_map, as_sequence, select_patches
from medmim.encoders.vit import ViTEncoder
from medmim.methods.base import Method, Step, require_grid, require_whole_cells
from medmim.methods.options import Choice
from medmim.methods.prediction_layer import Predict
from medmim.methods.reconstruction import build_target, reconstruct
from medmim.methods.targets.pixels import Target
from medmim.methods.token_decoder import SelfDecoder, TokenDecoder
from medmim.methods.visible_encoding import hidden_patches, require_sets_of_patches
from medmim.shapes import Hidden, Images, Size


class MAE(Method):
    """The method from its parts.

    Args:
        encoder: vision transformer.
        decoder: from vectors of visible patches to those of hidden ones.
        predict: from these to the target's values.
        target: what the prediction is compared with, patch by patch.
        cell: mask cell in voxels; a whole number of patches.
    """

    encoder: ViTEncoder

    def __init__(
        self, encoder: ViTEncoder, decoder: TokenDecoder, predict: Predict, target: Target, *, cell: Size
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.predict = predict
        self.target = target
        self.cell = cell
        self.axes = {
            "target": target.name,
            "architecture": "ViT on visible patches",
            "objective": "reconstruction",
        }

    def forward(self, images: Images, hidden: Hidden) -> Step:
        """Compute the loss on hidden patches and the reconstruction (visible voxels are the image's own)."""
        require_grid(images, hidden, self.cell)
        patches = self.encoder.embed(images)
        grid = tuple(patches.shape[2:])
        covered = hidden_patches(hidden, grid)
        visible, wanted = select_patches(~covered), select_patches(covered)
        latents = self.encoder.encode_chosen(patches, visible)
        decoded = self.decoder(latents, visible, wanted, grid)
        # visible patches are predicted from nothing: the loss leaves them out
        nothing = as_sequence(patches.new_zeros(len(images), decoded.shape[-1], *grid))
        return reconstruct(
            self.predict(as_map(wanted.put(decoded, nothing), grid)), self.target, images, hidden
        )

    def after_step(self, progress: float) -> None:
        """Let the target follow the encoder."""
        self.target.follow(self.encoder, progress=progress)


def build_mae(
    *,
    encoder: Encoder,
    spatial_dims: int,
    cell: Size,
    decoder_width: int | None = None,
    decoder_depth: int = 4,
    target: Choice = "normalised",
) -> MAE:
    """Put MAE together around an encoder.

    Args:
        encoder: vision transformer.
        spatial_dims: 2 or 3.
        cell: mask cell in voxels; a multiple of the patch.
        decoder_width: channels; None: half of the encoder's. The paper has 512.
        decoder_depth: transformer blocks. The paper has 8.
        target: raw, normalised, hog or ema, or one of them with its own settings.

    Raises:
        UsageError: for an encoder that cannot leave patches out, or an unknown target.
        ShapeError: for a cell that is no multiple of the patch.
    """
    vit = require_sets_of_patches(encoder, method="mae")
    require_whole_cells(cell, vit.patch, of="the encoder's patch")
    compared = build_target(target, cell=vit.patch, encoder=vit)
    decoder = SelfDecoder(vit.width, width=decoder_width, depth=decoder_depth, cues=False)
    predict = Predict(
        decoder.width,
        vit.patch,
        out_channels=compared.channels(vit.in_channels),
        out_stride=compared.stride,
    )
    return MAE(vit, decoder, predict, compared, cell=cell)
