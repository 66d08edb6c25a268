import pytest
import torch
from torch import nn

from medmim.config.runs import FinetuneSettings
from medmim.encoders import build_encoder
from medmim.training.layer_learning_rates import encoder_rates, layers_of


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


def test_layers_are_children_and_the_items_of_lists():
    assert layers_of(encoder()) == list(encoder().stages) or len(layers_of(encoder())) == 4
    resnet = encoder("resnet18", widths=[4, 4, 8, 8])
    assert layers_of(resnet) == [resnet.stem, *resnet.stages]


def test_wrappers_are_looked_through_and_own_parameters_come_first():
    wrapped = Wrapped()
    layers = layers_of(wrapped)
    assert len(layers) == 5
    assert next(layers[0].parameters()) is wrapped.net.token
    assert layers[1:] == [*wrapped.net.blocks, wrapped.net.norm]


@pytest.mark.parametrize("name", ["dynunet", "resnet18", "segresnet", "convnext"])
def test_every_weight_belongs_to_one_layer(name):
    network = build_encoder(name, spatial_dims=2, in_channels=1)
    found = [id(parameter) for layer in layers_of(network) for parameter in layer.parameters()]
    assert len(found) == len(set(found))
    assert set(found) == {id(parameter) for parameter in network.parameters()}


def test_each_layer_learns_slower_than_the_next():
    frozen, found = rates(layer_decay=0.5, encoder_lr=0.1)
    assert frozen == []
    assert [rate for _, rate in found] == pytest.approx([1.25e-5, 2.5e-5, 5e-5, 1e-4])


@pytest.mark.parametrize(
    ("words", "still"),
    [({}, 0), ({"mode": "partial"}, 2), ({"mode": "linear_probe"}, 4), ({"encoder_lr": 0.0}, 4)],
)
def test_what_is_frozen(words, still):
    frozen, found = rates(**words)
    assert (len(frozen), len(found)) == (still, 4 - still)
