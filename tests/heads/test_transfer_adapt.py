import pytest
import torch
from torch import nn

from medmim.encoders import build_encoder
from medmim.heads import transfer
from medmim.heads.transfer import adapted, stem_change


def weights_of(network):
    return {f"encoder.{name}": value.clone() for name, value in network.state_dict().items()}


def encoder(dims=2, channels=1, name="resnet18", **options):
    words = {"widths": [4, 4, 8, 8]} if name == "resnet18" else {}
    return build_encoder(name, spatial_dims=dims, in_channels=channels, **words, **options)


def test_a_stem_of_one_channel_is_adapted_to_four():
    source, target = encoder().eval(), encoder(channels=4).eval()
    result = transfer(target, weights_of(source))
    assert result.loaded_fraction == 1
    assert [rule for _, rule in result.changed] == ["channels spread"]
    images = torch.randn(1, 1, 32, 32)
    for one, four in zip(source(images), target(images.expand(-1, 4, -1, -1)), strict=True):
        assert torch.allclose(one, four, atol=1e-5)


def test_a_stem_of_four_channels_is_adapted_to_one():
    source, target = encoder(channels=4).eval(), encoder().eval()
    transfer(target, weights_of(source))
    images = torch.randn(1, 1, 32, 32)
    assert torch.allclose(source(images.expand(-1, 4, -1, -1))[-1], target(images)[-1], atol=1e-5)


def test_an_inflated_2d_encoder_gives_equal_features_for_a_volume_of_equal_slices():
    source, target = nn.Conv2d(2, 3, 3), nn.Conv3d(2, 3, 3)
    weight, rule = adapted("weight", source.weight.detach(), tuple(target.weight.shape))
    image = torch.randn(1, 2, 8, 8)
    flat = nn.functional.conv2d(image, source.weight)
    deep = nn.functional.conv3d(image.unsqueeze(-1).expand(-1, -1, -1, -1, 5), weight)
    assert rule == "2D kernel inflated to 3D"
    assert torch.allclose(deep, flat.unsqueeze(-1).expand_as(deep), atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "dynunet", "convnext"])
def test_all_tensors_of_a_2d_encoder_are_inflated_to_3d(name):
    kernel = {"kernel_size": 5} if name == "convnext" else {}
    result = transfer(encoder(3, name=name, **kernel), weights_of(encoder(2, name=name, **kernel)))
    assert result.loaded_fraction == 1
    assert not result.mismatching


def test_a_2d_stem_of_one_channel_is_adapted_to_a_3d_stem_of_two():
    result = transfer(encoder(3, channels=2), weights_of(encoder(2)))
    assert "2D kernel inflated to 3D + channels spread" in {rule for _, rule in result.changed}
    assert any("inflated" in line for line in result.lines())


def test_a_resampled_kernel_keeps_its_sum():
    result = transfer(
        encoder(name="convnext", stem_stride=4), weights_of(encoder(name="convnext", stem_stride=2))
    )
    assert [rule for _, rule in result.changed] == ["kernel resampled"]
    weight = torch.ones(3, 1, 4, 4)
    smaller, _ = adapted("stem.weight", weight, (3, 1, 2, 2))
    assert smaller.sum() == pytest.approx(float(weight.sum()))


@pytest.mark.parametrize("token", [0, 1])
def test_positions_are_interpolated_and_a_class_token_is_kept(token):
    grid = torch.arange(4.0).view(1, 4, 1).expand(1, 4, 4)  # row index
    positions = grid.reshape(1, 16, 1).repeat(1, 1, 2)
    if token:
        positions = torch.cat([torch.full((1, 1, 2), 9.0), positions], dim=1)
    larger, rule = adapted("pos_embed", positions, (1, 64 + token, 2))
    assert rule == "positions interpolated"
    assert larger[:, :token].tolist() == positions[:, :token].tolist()
    assert larger[0, token:, 0].view(8, 8)[:, 0].diff().min() >= 0
    assert larger[0, token:, 0].mean() == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("norm.weight", (4,), (8,)),
        ("conv.weight", (4, 16, 3, 3), (8, 16, 3, 3)),
        ("conv.weight", (4, 16, 3, 3), (4, 32, 3, 3)),
        ("pos_embed", (1, 15, 2), (1, 64, 2)),
        ("blocks.weight", (1, 16, 2), (1, 64, 2)),
    ],
)
def test_tensors_without_a_rule_are_not_adapted(name, old, new):
    assert adapted(name, torch.zeros(old), new) is None


def test_a_stem_of_another_architecture_is_reported():
    assert stem_change({"stem_stride": 2}, {"stem_stride": 1}) == "stem_stride 2 → 1"
    assert stem_change({}, {"max_pool": True}) == "max_pool default → True"
    assert stem_change({"widths": [1]}, {"widths": [1]}) == ""
