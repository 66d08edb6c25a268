"""A user's own network as an encoder."""

import sys
import types

import pytest
import torch
from torch import nn

from medmim.encoders import build_encoder, mask, pack
from medmim.encoders.base import Encoder
from medmim.encoders.custom import CustomEncoder
from medmim.encoders.dynunet import DynUNetEncoder
from medmim.errors import ShapeError, UsageError


class Tiny(nn.Module):
    """Two convolutions; the first map is at half resolution."""

    def __init__(self, spatial_dims, in_channels, width=4, padding=1):
        super().__init__()
        conv = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        self.first = conv(in_channels, width, 3, stride=2, padding=padding)
        self.second = conv(width, 2 * width, 3, stride=(2, *[1] * (spatial_dims - 1)), padding=padding)

    def forward(self, images):
        fine = (
            self.first(images).relu() if isinstance(images, torch.Tensor) else torch.relu(self.first(images))
        )
        return fine, self.second(fine)


class Returns(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, images):
        return self.what(images)


def plain(what):
    return lambda spatial_dims, in_channels: Returns(what)


@pytest.fixture
def module(monkeypatch):
    """A module of the user's, importable as `own_nets`."""
    own = types.ModuleType("own_nets")
    monkeypatch.setitem(sys.modules, "own_nets", own)
    return own


@pytest.mark.parametrize("dims", [2, 3])
def test_channels_and_strides_are_found_by_a_dry_run(dims, module):
    module.tiny = Tiny
    encoder = build_encoder("own_nets:tiny", spatial_dims=dims, in_channels=3, width=5)
    assert isinstance(encoder, CustomEncoder)
    assert encoder.in_channels == 3
    assert encoder.channels == (5, 10)
    assert encoder.strides == ((2,) * dims, (4, *[2] * (dims - 1)))
    assert encoder.training


def test_custom_networks_run_masked_without_leaks(module):
    module.tiny = Tiny
    encoder = build_encoder("own_nets:tiny", spatial_dims=2, in_channels=1)
    hidden = torch.tensor([[[True, False], [False, True]]])
    images = torch.randn(1, 1, 8, 8)
    maps = encoder(mask(images, hidden))
    assert [tuple(m.shape) for m in maps] == [(1, 4, 4, 4), (1, 8, 2, 4)]
    other = encoder(mask(images + 9 * (mask(images, hidden).visible == 0), hidden))
    assert all(torch.equal(a.unpack(), b.unpack()) for a, b in zip(maps, other, strict=True))


def test_an_encoder_is_not_wrapped(module):
    module.own = DynUNetEncoder
    encoder = build_encoder("own_nets:own", spatial_dims=2, in_channels=1, filters=(4, 8))
    assert type(encoder) is DynUNetEncoder
    assert isinstance(encoder, Encoder)


def test_the_dry_run_changes_neither_statistics_nor_mode(module):
    norm = nn.BatchNorm2d(1)
    module.normed = lambda spatial_dims, in_channels: _WithNorm(norm).eval()
    encoder = build_encoder("own_nets:normed", spatial_dims=2, in_channels=1)
    assert not encoder.net.training
    assert norm.num_batches_tracked == 0
    assert torch.equal(norm.running_mean, torch.zeros(1))


class _WithNorm(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, images):
        return [self.norm(images)]


@pytest.mark.parametrize(
    "path",
    ["no_such_module_of_anyone:tiny", "own_nets:no_such_name", "own_nets:", ":tiny", "own_nets.deeper:x"],
)
def test_paths_that_cannot_be_imported_are_rejected(path, module):
    with pytest.raises(
        UsageError, match=rf"^--encoder {path}: cannot import it \(.+\); expected an importable"
    ):
        build_encoder(path, spatial_dims=2, in_channels=1)


def test_callables_with_another_signature_are_rejected(module):
    module.number = 3
    module.narrow = lambda spatial_dims: None
    for name in ("number", "narrow"):
        with pytest.raises(
            UsageError, match=f"^--encoder own_nets:{name}: cannot be called .* spatial_dims, in_ch"
        ):
            build_encoder(f"own_nets:{name}", spatial_dims=2, in_channels=1)


def test_options_that_a_callable_does_not_accept_are_named(module):
    module.tiny = Tiny
    with pytest.raises(UsageError, match=r"unexpected keyword argument 'wrong'"):
        build_encoder("own_nets:tiny", spatial_dims=2, in_channels=1, wrong=1)


def test_errors_inside_the_users_code_are_not_wrapped(module):
    def broken(spatial_dims, in_channels):
        return None + 1

    module.broken = broken
    with pytest.raises(TypeError, match="unsupported operand"):
        build_encoder("own_nets:broken", spatial_dims=2, in_channels=1)


def test_callables_that_return_no_network_are_rejected(module):
    module.text = lambda spatial_dims, in_channels: "network"
    with pytest.raises(UsageError, match=r"own_nets:text: expected a torch network, got str$"):
        build_encoder("own_nets:text", spatial_dims=2, in_channels=1)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda x: x, "expected a list of feature maps from forward, got Tensor"),
        (lambda x: [], "expected a list of feature maps from forward, got list"),
        (lambda x: ["map"], "expected a list of feature maps from forward, got list"),
        (lambda x: [x[..., ::2, ::2], x], "expected maps from fine to coarse, got strides"),
        (lambda x: [x[..., ::4], x[..., ::2, ::2]], "expected maps from fine to coarse, got strides"),
        (lambda x: [x[..., :62, :62]], "whose sizes divide 64 voxels .* pad the convolutions"),
        (lambda x: [x.flatten(2)], "along each of 2 axes"),
    ],
)
def test_invalid_feature_maps_are_rejected(what, message, module):
    module.wrong = plain(what)
    with pytest.raises(ShapeError, match=message):
        build_encoder("own_nets:wrong", spatial_dims=2, in_channels=1)


def test_networks_of_timm_run_packed_and_declare_their_maps():
    pytest.importorskip("timm", reason="timm needs a torchvision that fits torch", exc_type=ImportError)
    encoder = build_encoder("timm:convnext_atto", spatial_dims=2, in_channels=1).eval()
    assert encoder.total_stride == (32, 32)
    images, hidden = torch.randn(1, 1, 64, 64), torch.tensor([[[True, False], [False, True]]])
    for packed, masked in zip(encoder(pack(images, hidden)), encoder(mask(images, hidden)), strict=True):
        torch.testing.assert_close(packed.to_dense(), masked.dense, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "dims", "message"),
    [
        ("resnet18", 3, "timm has 2D networks only: add --dims 2"),
        ("resnet81", 2, "unknown to timm; did you mean 'resnet18'"),
        ("hf-hub:some/where", 2, "unknown to timm"),
    ],
)
def test_timm_networks_that_cannot_be_built_are_one_line(monkeypatch, name, dims, message):
    fake = types.SimpleNamespace(is_model=lambda word: ":" in word, list_models=lambda: ["resnet18"])
    monkeypatch.setitem(sys.modules, "timm", fake)
    with pytest.raises(UsageError, match=f"--encoder timm:{name}: {message}"):
        build_encoder(f"timm:{name}", spatial_dims=dims, in_channels=1)


def test_without_timm_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError, match=r"timm cannot be imported .* pip install 'medmim\[timm\]'"):
        build_encoder("timm:resnet18", spatial_dims=2, in_channels=1)
