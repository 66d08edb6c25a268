"""SimMIM against its formula written out in float64."""

import pytest
import torch
from reconstruction_maker import batch_for, build, naive_loss, predictions_of

from medmim.encoders import build_encoder
from medmim.methods import build_method


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("encoder", ["vit", "swin"])
def test_simmims_loss_is_the_absolute_error_of_hidden_voxels(dims, encoder):
    method, (images, hidden) = build("simmim", dims, encoder=encoder), batch_for(dims)
    seen = predictions_of(method)
    loss = method(images, hidden).loss.item()
    expected = naive_loss(seen[0], images, hidden, unit=4, cell=4, normalised=False, power=1)
    assert loss == pytest.approx(expected, rel=1e-5)


def test_simmim_puts_its_token_where_patches_are_hidden():
    method, (images, hidden) = build("simmim", 2), batch_for(2)
    seen = []
    encode = method.encoder.encode
    method.encoder.encode = lambda patches: seen.append(patches) or encode(patches)
    method(images, hidden)
    covered = hidden.repeat_interleave(2, 1).repeat_interleave(2, 2)
    patches, token = seen[0].movedim(1, -1), method.token.flatten()
    assert torch.equal(patches[covered], token.expand_as(patches[covered]))
    assert torch.equal(patches[~covered], method.encoder.embed(images).movedim(1, -1)[~covered])


def test_simmim_crops_predictions_of_padded_coarse_maps():
    torch.manual_seed(0)
    network = build_encoder(
        "swin", spatial_dims=2, in_channels=1, patch=2, width=6, depths=(1, 1, 1), heads=(1, 1, 1)
    )
    method = build_method("simmim", encoder=network, spatial_dims=2, cell=(2, 2))
    hidden = torch.zeros(1, 5, 3, dtype=torch.bool)
    hidden[0, 4, 2] = True
    images = torch.randn(1, 1, 10, 6)  # no multiple of the total stride of 8
    assert method(images, hidden).pictures["reconstruction"].shape == images.shape
