import pytest
import torch
from torch import nn

from medmim.training.optimizers import OptimizerConfig


def small():
    module = nn.Module()
    module.conv = nn.Conv2d(2, 3, 3)
    module.norm = nn.InstanceNorm2d(3, affine=True)
    module.token = nn.Parameter(torch.zeros(1, 5, 1, 1))
    return module


@pytest.mark.parametrize("kind", ["adamw", "lamb", "sgd"])
def test_norms_biases_and_tokens_are_not_decayed(kind):
    module = small()
    groups = OptimizerConfig(kind).over([(module, 0.01)], weight_decay=0.3).param_groups
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert {name: decay[id(parameter)] for name, parameter in module.named_parameters()} == {
        "token": 0.0,
        "conv.weight": 0.3,
        "conv.bias": 0.0,
        "norm.weight": 0.0,
        "norm.bias": 0.0,
    }
    assert ["initial_weight_decay" in group for group in groups] == [True, False]
    assert {group["lr"] for group in groups} == {group["initial_lr"] for group in groups} == {0.01}


@pytest.mark.parametrize("kind", ["adamw", "lamb", "sgd"])
def test_every_optimiser_finds_the_least_squares(kind):
    torch.manual_seed(0)
    inputs, truth = torch.randn(64, 6), torch.randn(6, 2)
    layer = nn.Linear(6, 2)
    optimiser = OptimizerConfig(kind, (0.9, 0.99)).over([(layer, 0.03)], weight_decay=1e-6)
    for step in range(300):
        for group in optimiser.param_groups:
            group["lr"] = group["initial_lr"] * (1 - step / 300)
        optimiser.zero_grad()
        (layer(inputs) - inputs @ truth).square().mean().backward()
        optimiser.step()
    assert (layer.weight.detach().t() - truth).abs().max() < 0.02


def test_betas_are_handed_on():
    def defaults(kind, *betas):
        return OptimizerConfig(kind, betas).over([(small(), 1.0)], weight_decay=0.1).defaults

    assert defaults("lamb", 0.8, 0.9)["betas"] == defaults("adamw", 0.8, 0.9)["betas"] == (0.8, 0.9)
    assert (defaults("sgd", 0.8, 0.9)["momentum"], defaults("sgd", 0.8, 0.9)["nesterov"]) == (0.8, True)
    assert not defaults("sgd", 0.0, 0.9)["nesterov"]
