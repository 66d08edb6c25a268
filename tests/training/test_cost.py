"""Compares counted parameters and operations with hand calculations for one layer and a transformer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medmim.encoders import build_encoder
from medmim.encoders.custom import CustomEncoder
from medmim.masks import build_mask
from medmim.methods import build_method
from medmim.training.cost import MACHINES, cost_of, machine_for, predict_memory


class OneLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 6, 4, stride=4, bias=False)

    def forward(self, images):
        return [self.layer(images)]


def method_for(**options):
    torch.manual_seed(0)
    encoder = CustomEncoder(OneLayer(), spatial_dims=2, in_channels=1)
    words = {"encoder": encoder, "spatial_dims": 2, "cell": (4, 4)}
    return build_method("mask_any_net", **words, fusion={"level": "decision", "kernel": 0, **options})


def test_the_encoder_cost_equals_the_hand_calculation():
    images = torch.zeros(1, 1, 16, 16)
    hidden = build_mask("random", ratio=0.5).sample(1, (4, 4), generator=torch.Generator().manual_seed(0))
    cost = cost_of(method_for(), images, hidden)
    assert cost.encoder_parameters == 6 * 16
    assert cost.encoder_gflop == pytest.approx(
        2 * 16 * 6 * 16 / 1e9
    )  # one multiplication and one addition each
    assert cost.gflop > cost.encoder_gflop
    assert cost.parameters > 2 * cost.encoder_parameters  # includes a second encoder


@pytest.mark.parametrize("dims", [2, 3])
def test_the_cost_of_a_transformer_includes_attention(dims):
    width, depth, patch, patches = 12, 2, 4, 4**dims
    encoder = build_encoder(
        "vit", spatial_dims=dims, in_channels=1, patch=patch, width=width, depth=depth, heads=2
    )
    method = build_method(
        "mask_any_net", encoder=encoder, spatial_dims=dims, cell=(patch,) * dims, fusion={"level": "image"}
    )
    hidden = build_mask("random", ratio=0.5).sample(1, (4,) * dims, generator=torch.Generator())
    products = patches * patch**dims * width  # patch embedding
    products += depth * patches * 3 * width * width  # queries, keys and values
    products += depth * 2 * patches * patches * width  # attention weights and weighted values
    products += depth * patches * width * width  # output projection of the heads
    products += depth * 2 * patches * width * 4 * width  # MLP
    found = cost_of(method, torch.zeros(1, 1, *[16] * dims), hidden).encoder_gflop
    assert found == pytest.approx(2 * products / 1e9, rel=1e-12)


def test_measuring_does_not_change_the_network():
    method = method_for().train()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    state = torch.get_rng_state()
    hidden = torch.zeros(1, 4, 4, dtype=torch.bool)
    hidden[:, 0] = True
    cost_of(method, torch.randn(1, 1, 16, 16, generator=torch.Generator()), hidden)
    assert method.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())


def test_a_machine_is_found_by_name_and_auto_is_this_one() -> None:
    """Without a GPU, `auto` is the laptop."""
    assert machine_for("gpu_24gb") is MACHINES["gpu_24gb"]
    assert machine_for("auto").gpu == torch.cuda.is_available()


def test_every_patch_adds_the_bytes_of_its_feature_maps() -> None:
    """One convolution of 8 channels on 64 × 64 pixels stores 8 × 64 × 64 values for each image."""
    found = predict_memory(lambda: nn.Conv2d(1, 8, 3, padding=1), channels=1, size=(64, 64))
    assert found.patch_mb == pytest.approx(8 * 64 * 64 * 2 * 1.3 / 2**20)
    assert found.of_batch(9) - found.of_batch(1) == pytest.approx(8 * found.patch_mb)


def test_nothing_is_allocated_for_a_network_of_any_size() -> None:
    """A layer of 4 TB is counted on the meta device."""
    side = 10**6
    found = predict_memory(lambda: nn.Linear(side, side, bias=False), channels=1, size=(side,))
    assert found.fixed_mb > side
