"""Methods that encode visible cells only refuse encoders and cells that cannot."""

import pytest
from reconstruction_maker import build

from medmim.encoders import build_encoder
from medmim.errors import ShapeError, UsageError
from medmim.methods import build_method


@pytest.mark.parametrize("name", ["mae", "simmim", "latent_mim"])
def test_encoders_without_patches_are_rejected(name):
    encoder = build_encoder("dynunet", spatial_dims=2, in_channels=1, filters=(4, 8))
    with pytest.raises(UsageError, match=f"^method '{name}' needs an? .* got DynUNetEncoder$"):
        build_method(name, encoder=encoder, spatial_dims=2, cell=(4, 4))


@pytest.mark.parametrize("name", ["mae", "latent_mim"])
def test_encoders_that_cannot_drop_patches_are_rejected(name):
    with pytest.raises(
        UsageError, match=f"^method '{name}' needs .* expected --encoder vit, got SwinEncoder$"
    ):
        build(name, 2, encoder="swin")


@pytest.mark.parametrize("name", ["mae", "simmim"])
def test_cells_that_are_not_a_multiple_of_the_patch_are_rejected(name):
    message = r"^mask cell of 3×3 voxels: expected a multiple of the encoder's patch 2×2; use --cell 4,4$"
    with pytest.raises(ShapeError, match=message):
        build(name, 2, cell=3)
