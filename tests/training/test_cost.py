"""Parameters and operations, counted by hand for a network of one layer."""

import pytest
import torch
from torch import nn

from medmim.encoders.custom import CustomEncoder
from medmim.masks import build_mask
from medmim.methods import build_method
from medmim.training.cost import cost_of


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


def test_the_encoder_is_counted_as_by_hand():
    images = torch.zeros(1, 1, 16, 16)
    hidden = build_mask("random", ratio=0.5).sample(1, (4, 4), generator=torch.Generator().manual_seed(0))
    cost = cost_of(method_for(), images, hidden)
    assert cost.encoder_parameters == 6 * 16
    assert cost.encoder_gflop == pytest.approx(2 * 16 * 6 * 16 / 1e9)  # a multiplication and an addition each
    assert cost.gflop > cost.encoder_gflop
    assert cost.parameters > 2 * cost.encoder_parameters  # two whole encoders


def test_measuring_changes_nothing():
    method = method_for().train()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    state = torch.get_rng_state()
    hidden = torch.zeros(1, 4, 4, dtype=torch.bool)
    hidden[:, 0] = True
    cost_of(method, torch.randn(1, 1, 16, 16, generator=torch.Generator()), hidden)
    assert method.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())
