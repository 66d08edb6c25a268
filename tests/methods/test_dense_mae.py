"""Dense MAE against its formula, and the transfer of its decoder to a segmenter."""

import pytest
import torch

from medmim.encoders import build_encoder
from medmim.heads import build_head, transfer, transfer_decoder
from medmim.masks import build_mask
from medmim.methods import build_method


def build(name="dense_mae", dims=2, filters=(4, 8)):
    torch.manual_seed(0)
    encoder = build_encoder("dynunet", spatial_dims=dims, in_channels=1, filters=filters)
    return build_method(name, encoder=encoder, spatial_dims=dims, cell=(4,) * dims)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_loss_is_the_mean_squared_error_of_hidden_voxels_of_an_image_with_zeros_there(dims):
    method = build(dims=dims)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 1, *[16] * dims, generator=generator)
    hidden = build_mask("random", ratio=0.7).sample(2, (4,) * dims, generator=generator)
    voxels = hidden.unsqueeze(1)
    for axis in range(2, 2 + dims):
        voxels = voxels.repeat_interleave(4, dim=axis)
    visible = images.where(~voxels, torch.zeros(()))
    restored = method.predict(method.decoder.features(method.encoder(visible)))
    torch.testing.assert_close(method(images, hidden).loss, (restored - images)[voxels].square().mean())


@pytest.mark.parametrize("name", ["dense_mae", "models_genesis", "volume_fusion"])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_segmenter_starts_from_encoder_and_decoder(name, dims):
    method = build(name, dims)
    torch.manual_seed(1)
    encoder = build_encoder("dynunet", spatial_dims=dims, in_channels=1, filters=(4, 8))
    network = build_head("segment", encoder=encoder, spatial_dims=dims, classes=3, deep_supervision=1)
    weights = method.state_dict()
    transfer(encoder, weights)
    assert transfer_decoder(network, weights) == len(method.decoder.state_dict()) >= 7
    image = torch.randn(1, 1, *[16] * dims)
    expected = method.decoder.features(method.encoder(image))
    assert torch.equal(network.features(network.encoder(image)), expected)


def test_a_decoder_of_another_network_is_not_loaded():
    encoder = build_encoder("dynunet", spatial_dims=2, in_channels=1, filters=(4, 8))
    network = build_head("segment", encoder=encoder, spatial_dims=2, classes=3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for other in (build(filters=(4, 12)), build("spark")):
        assert transfer_decoder(network, other.state_dict()) == 0
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
