"""MAE: masked autoencoders (He et al., CVPR 2022, arXiv 2111.06377).

The encoder computes visible patches only. A light decoder, which also gets a mask token for each hidden
patch, predicts the hidden ones, by default their pixels normalised per patch. The loss is the mean squared
error on hidden patches.
"""

from __future__ import annotations

from torch import nn

from medmim.encoders import Encoder
from medmim.encoders.patch_tokens import as_map, as_sequence, select_patches
from medmim.encoders.vit import ViTEncoder
from medmim.methods.base import Method, Step, require_grid
from medmim.methods.reconstruction import Choice, PredictionHead, build_target, reconstruction_step
from medmim.methods.targets import Target
from medmim.methods.token_decoder import SelfDecoder, TokenDecoder
from medmim.methods.visible_encoding import hidden_patches, require_patches
from medmim.shapes import Hidden, Images, Size, require_whole_cells


class MAE(Method):
    """The method from its parts."""

    encoder: ViTEncoder

    def __init__(
        self,
        encoder: ViTEncoder,
        decoder: TokenDecoder,
        predict: PredictionHead,
        target: Target,
        *,
        cell: Size,
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
        """Compute the loss on hidden patches and the reconstruction, whose visible voxels are copied."""
        require_grid(images, hidden, self.cell)
        patches = self.encoder.embed(images)
        grid = tuple(patches.shape[2:])
        covered = hidden_patches(hidden, grid)
        visible, wanted = select_patches(~covered), select_patches(covered)
        class_token, latents = self.encoder.encode_with_class_token(patches, visible)
        decoded = self.decoder(latents, visible, wanted, grid, class_token)
        # zeros stand for visible patches, which the loss ignores
        zeros = as_sequence(patches.new_zeros(len(images), decoded.shape[-1], *grid))
        return reconstruction_step(
            self.predict(as_map(wanted.put(decoded, zeros), grid)), self.target, images, hidden
        )


def build_mae(
    *,
    encoder: Encoder,
    spatial_dims: int,
    cell: Size,
    decoder_width: int | None = None,
    decoder_depth: int = 4,
    target: Choice = "normalised",
) -> MAE:
    """Build MAE around an encoder.

    Args:
        cell: mask cell in voxels; a multiple of the patch.
        decoder_width: channels; None: half of the encoder's. The paper uses 512.
        decoder_depth: transformer blocks. The paper uses 8.
        target: raw, normalised, hog or ema, alone or with its options.
    """
    vit = require_patches(encoder, ViTEncoder, method="mae")
    require_whole_cells(cell, vit.patch, of="the encoder's patch")
    compared = build_target(target, cell=vit.patch, encoder=vit)
    decoder = SelfDecoder(
        vit.width, width=decoder_width, depth=decoder_depth, cues=False, norm_eps=vit.norm.eps
    )
    predict = PredictionHead.of_target(decoder.width, vit.patch, compared, vit)
    nn.init.xavier_uniform_(predict.linear.weight.flatten(1))  # as all linear layers of MAE
    nn.init.zeros_(predict.linear.bias)
    return MAE(vit, decoder, predict, compared, cell=cell)
