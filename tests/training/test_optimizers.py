"""Compares LAMB with a float64 reference implementation of Algorithm 2 in arXiv 1904.00962."""

import numpy as np
import pytest
import torch
from official_optimizers import lamb_by_hand
from torch import nn

from medmim.config.runs import FinetuneSettings
from medmim.encoders import build_encoder
from medmim.training.optimizers import Lamb, build_optimizer, encoder_rates, layers_of


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("start", [0.0, 1.5])
def test_steps_equal_the_reference(decay, start):
    rng = np.random.default_rng(0)
    first = start * rng.normal(size=(4, 3))
    gradients = [10.0**power * rng.normal(size=(4, 3)) for power in (-2, 0, 1, -1, 0)]
    options = {"lr": 0.07, "betas": (0.8, 0.95), "eps": 1e-6}
    weights = torch.tensor(first, requires_grad=True)
    lamb = Lamb([weights], weight_decay=decay, **options)
    for gradient in gradients:
        weights.grad = torch.tensor(gradient)
        lamb.step()
    expected = torch.tensor(lamb_by_hand(first, gradients, decay=decay, **options))
    torch.testing.assert_close(weights.detach(), expected, rtol=1e-12, atol=1e-14)


def test_the_step_length_depends_on_the_weight_norm_but_not_on_the_gradient_scale():
    moved = []
    for scale in (1e-3, 1e3):
        weights = torch.full((5, 5), 2.0, requires_grad=True)
        weights.grad = scale * torch.ones(5, 5)
        Lamb([weights], lr=0.01, weight_decay=1e-9).step()
        moved.append((weights.detach() - 2).norm())
    assert moved == pytest.approx([0.01 * 10.0] * 2, rel=1e-2)


def test_a_saved_state_continues_exactly():
    gradients = [torch.randn(3, 3, generator=torch.Generator().manual_seed(n)) for n in range(6)]

    def train(weights, lamb, chosen):
        for gradient in chosen:
            weights.grad = gradient.clone()
            lamb.step()
        return weights.detach().clone()

    whole = torch.ones(3, 3, requires_grad=True)
    expected = train(whole, Lamb([whole], weight_decay=0.1), gradients)
    first = torch.ones(3, 3, requires_grad=True)
    lamb = Lamb([first], weight_decay=0.1)
    second = train(first, lamb, gradients[:3]).requires_grad_()
    again = Lamb([second], weight_decay=0.1)
    again.load_state_dict(lamb.state_dict())
    assert torch.equal(train(second, again, gradients[3:]), expected)


def test_tensors_without_gradient_do_not_change_and_a_closure_is_called():
    used, unused = torch.ones(2, 2, requires_grad=True), torch.ones(2, requires_grad=True)
    lamb = Lamb([used, unused], lr=0.1)

    def closure():
        loss = used.square().sum()
        loss.backward()
        return loss

    assert lamb.step(closure).item() == 4
    assert torch.equal(unused.detach(), torch.ones(2))
    assert (used < 1).all()


def small():
    module = nn.Module()
    module.conv = nn.Conv2d(2, 3, 3)
    module.norm = nn.InstanceNorm2d(3, affine=True)
    module.token = nn.Parameter(torch.zeros(1, 5, 1, 1))
    return module


def test_parameters_of_a_method_without_weight_decay_are_exempt():
    module = small()
    groups = build_optimizer([(module, 0.01)], weight_decay=0.3, undecayed=[module.conv.weight])
    assert [group["weight_decay"] for group in groups.param_groups] == [0.0]


@pytest.mark.parametrize("kind", ["adamw", "lamb", "sgd"])
def test_norms_biases_and_tokens_have_no_weight_decay(kind):
    module = small()
    groups = build_optimizer([(module, 0.01)], kind=kind, weight_decay=0.3).param_groups
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
def test_every_optimizer_solves_a_least_squares_problem(kind):
    torch.manual_seed(0)
    inputs, truth = torch.randn(64, 6), torch.randn(6, 2)
    layer = nn.Linear(6, 2)
    optimizer = build_optimizer([(layer, 0.03)], kind=kind, betas=(0.9, 0.99), weight_decay=1e-6)
    for step in range(300):
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * (1 - step / 300)
        optimizer.zero_grad()
        (layer(inputs) - inputs @ truth).square().mean().backward()
        optimizer.step()
    assert (layer.weight.detach().t() - truth).abs().max() < 0.02


def test_betas_are_passed_to_the_optimizer():
    def defaults(kind, *betas):
        return build_optimizer([(small(), 1.0)], kind=kind, betas=betas, weight_decay=0.1).defaults

    assert defaults("lamb", 0.8, 0.9)["betas"] == defaults("adamw", 0.8, 0.9)["betas"] == (0.8, 0.9)
    assert (defaults("sgd", 0.8, 0.9)["momentum"], defaults("sgd", 0.8, 0.9)["nesterov"]) == (0.8, True)
    assert not defaults("sgd", 0.0, 0.9)["nesterov"]


def encoder(name="dynunet", **options):
    return build_encoder(name, spatial_dims=2, in_channels=1, **(options or {"filters": [4, 8, 8, 8]}))


def rates(**words):
    return encoder_rates(encoder(), FinetuneSettings(lr=1e-3, **words))


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Module()
        self.net.token = nn.Parameter(torch.zeros(1, 1, 4))
        self.net.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.net.norm = nn.LayerNorm(4)
        self.net.act = nn.GELU()


def test_layers_are_the_children_and_the_items_of_module_lists():
    assert layers_of(encoder()) == list(encoder().stages) or len(layers_of(encoder())) == 4
    resnet = encoder("resnet18", widths=[4, 4, 8, 8])
    assert layers_of(resnet) == [resnet.stem, *resnet.stages]


def test_a_wrapper_is_replaced_by_its_child_and_own_parameters_come_first():
    wrapped = Wrapped()
    layers = layers_of(wrapped)
    assert len(layers) == 5
    assert next(layers[0].parameters()) is wrapped.net.token
    assert layers[1:] == [*wrapped.net.blocks, wrapped.net.norm]


@pytest.mark.parametrize("name", ["dynunet", "resnet18", "segresnet", "convnext"])
def test_every_weight_belongs_to_exactly_one_layer(name):
    network = build_encoder(name, spatial_dims=2, in_channels=1)
    found = [id(parameter) for layer in layers_of(network) for parameter in layer.parameters()]
    assert len(found) == len(set(found))
    assert set(found) == {id(parameter) for parameter in network.parameters()}


def test_each_layer_learns_more_slowly_than_the_next():
    frozen, found = rates(layer_decay=0.5, encoder_lr=0.1)
    assert frozen == []
    assert [rate for _, rate in found] == pytest.approx([1.25e-5, 2.5e-5, 5e-5, 1e-4])


@pytest.mark.parametrize(
    ("words", "frozen_count"),
    [({}, 0), ({"mode": "partial"}, 2), ({"mode": "linear_probe"}, 4), ({"encoder_lr": 0.0}, 4)],
)
def test_the_settings_determine_the_frozen_layers(words, frozen_count):
    frozen, found = rates(**words)
    assert (len(frozen), len(found)) == (frozen_count, 4 - frozen_count)


def test_the_head_of_one_channel_has_weight_decay():
    head = nn.Conv2d(24, 1, 1)
    groups = build_optimizer([(head, 0.01)], kind="lamb", weight_decay=0.3).param_groups
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert (decay[id(head.weight)], decay[id(head.bias)]) == (0.3, 0.0)


@pytest.mark.parametrize(("name", "options"), [("swin", {}), ("vit", {"position_grid": 4})])
def test_learned_positions_have_no_weight_decay(name, options):
    network = build_encoder(name, spatial_dims=2, in_channels=1, **options)
    for decay_by_role, expected in ((True, {0.0}), (False, {0.3})):  # 0.1.0 had them decay
        groups = build_optimizer(
            [(network, 0.01)], weight_decay=0.3, decay_by_role=decay_by_role
        ).param_groups
        decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
        positions = [
            p for n, p in network.named_parameters() if n.endswith(("bias_table", "positions.learned"))
        ]
        assert positions
        assert {decay[id(parameter)] for parameter in positions} == expected
