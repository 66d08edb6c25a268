"""`Packed` as a tensor-like value in layers of PyTorch and MONAI, and operations without a packed form."""

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.networks.blocks.squeeze_and_excitation import ChannelSELayer
from monai.networks.layers.drop_path import DropPath
from monai.networks.nets.attentionunet import AttentionBlock
from packed_cells import agree, masked_as, masks, some
from torch import nn

from medmim.encoders import mask, pack
from medmim.errors import ShapeError


class WithItself(nn.Module):
    """Feed a layer of two inputs with one."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x, x)


@pytest.mark.parametrize("dims", [2, 3])
def test_channels_last_layers(dims):
    images, hidden = some((2, 4, 2)[:dims], (2, 3, 2)[:dims])
    value = pack(images, hidden)
    last, first = (0, *range(2, dims + 2), 1), (0, dims + 1, *range(1, dims + 1))
    layer = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4)).double()
    expected = layer(images.permute(last)).permute(first)
    for there, back in (
        (lambda x: x.permute(*last), lambda x: x.permute(*first)),
        (lambda x: torch.permute(x, last), lambda x: x.permute(first)),
        (lambda x: x.movedim(1, -1), lambda x: torch.movedim(x, -1, 1)),
    ):
        moved = there(value)
        assert moved.shape == images.permute(last).shape
        result = back(layer(moved).contiguous())
        torch.testing.assert_close(result.unpack(), masked_as(value, expected))
    scaled = value.movedim(1, -1) * torch.arange(4.0).double()
    torch.testing.assert_close(scaled.unpack(), value.unpack().movedim(1, -1) * torch.arange(4.0))
    assert value.permute(*range(dims + 2)) is value


@pytest.mark.parametrize("dims", [2, 3])
def test_monais_attention_gate_equals_the_masked_one(dims):
    gate = AttentionBlock(dims, f_int=3, f_g=4, f_l=4).double()
    agree(WithItself(gate), *some((4, 2, 4)[:dims], (2, 3, 2)[:dims]))


@pytest.mark.parametrize("dims", [2, 3])
def test_monais_squeeze_and_excitation_weighs_by_visible_voxels(dims):
    images, hidden = some((4, 2, 4)[:dims], (2, 3, 2)[:dims])
    layer = ChannelSELayer(dims, 4).double()
    dense = layer(images)
    torch.testing.assert_close(layer(pack(images, torch.zeros_like(hidden))).unpack(), dense)
    value = pack(images, hidden)
    weights = layer.fc(value.mean(tuple(range(2, dims + 2))))
    expected = value.unpack() * weights.reshape(*weights.shape, *[1] * dims)
    torch.testing.assert_close(layer(value).unpack(), expected)


def test_stochastic_depth_skips_whole_samples():
    images, hidden = some((2, 2), (2, 2), batch=64)
    torch.manual_seed(0)
    kept = DropPath(0.5)(pack(images + 10, hidden)).unpack()
    skipped = (kept == 0).flatten(1).all(1)
    assert 10 < skipped.sum() < 54
    torch.testing.assert_close(kept[~skipped], 2 * pack(images + 10, hidden).unpack()[~skipped])


@pytest.mark.parametrize(
    ("message", "operation"),
    [
        ("'softmax' over axis 2 has no packed form", lambda x: F.softmax(x, 2)),
        ("'max_pool2d_with_indices' has no packed form", nn.MaxPool2d(2, return_indices=True)),
        ("'flatten' has no packed form", lambda x: x.flatten(1)),
        ("'view' has no packed form", lambda x: x.view(1, -1)),
        ("'is_contiguous' has no packed form", lambda x: x.is_contiguous()),
        (r"'permute' to \(0, 1, 3, 2\) has no packed form", lambda x: x.permute(0, 1, 3, 2)),
        (r"'mean' over axes \(1,\) has no packed form", lambda x: x.mean(1)),
        (r"'adaptive_avg_pool2d' to \(2,\) has no packed form", nn.AdaptiveAvgPool2d(2)),
        (r"'layer_norm' over \(4, 8, 12\) of packed cells", nn.LayerNorm([4, 8, 12]).double()),
        ("'linear' on packed cells with channels first", nn.Linear(4, 4).double()),
    ],
)
def test_an_operation_without_a_packed_form_is_rejected_by_name_with_a_remedy(message, operation, value):
    with pytest.raises(ShapeError, match=f"^{message}.*use an encoder without it$"):
        operation(value)


@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("interpolate", lambda x: F.interpolate(x, scale_factor=2.0)),
        ("interpolate", nn.Upsample(scale_factor=0.5)),
        ("conv_transpose2d", nn.ConvTranspose2d(4, 4, 2, 2).double()),
        ("pad", nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect").double()),
    ],
)
def test_the_message_suggests_compute_masked_where_it_helps(name, operation, images, hidden):
    with pytest.raises(
        ShapeError, match=f"^'{name}' has no packed form: use an encoder without it, or --compute masked$"
    ):
        operation(pack(images, hidden))
    result = operation(mask(images, hidden))
    assert torch.equal(result.unpack(), result.unpack() * result.visible)
    assert result.unpack().any()


@pytest.mark.parametrize(
    "operation",
    [
        nn.Conv2d(4, 4, 3, padding=1).double(),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(4).double(),
        nn.GroupNorm(2, 4).double(),
        nn.PReLU(4).double(),
        nn.Dropout2d(),
    ],
)
def test_channels_first_operations_reject_channels_last(operation, value):
    with pytest.raises(ShapeError, match="channels-last packed cells: permute channels back"):
        operation(value.movedim(1, -1))


def test_shape_dtype_and_device_are_those_of_the_dense_tensor(value, images):
    assert value.shape == images.shape == value.size()
    assert (value.size(-1), value.dim(), value.ndim) == (12, 4, 4)
    assert (value.dtype, value.device) == (images.dtype, images.device)
    assert not value.requires_grad
    assert value.float().dtype == value.to(torch.float32).dtype == torch.float32
    assert torch.equal(value.clone().detach().contiguous().unpack(), value.unpack())
    assert value.new_zeros((2, 3)).shape == (2, 3)


def test_unknown_attributes_raise_attribute_error(value):
    with pytest.raises(AttributeError, match="'Packed' has no attribute 'nonsense'"):
        _ = value.nonsense
    assert torch.equal(copy.deepcopy(value).unpack(), value.unpack())
    assert torch.equal(pickle.loads(pickle.dumps(value)).unpack(), value.unpack())


def test_images_are_not_modified(images, hidden):
    before = images.clone()
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1), nn.LeakyReLU(inplace=True)).double()
    net(pack(images, hidden))
    assert torch.equal(images, before)


def test_an_activation_in_place_may_follow_any_layer():
    layers = [nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True)]
    layers += [nn.MaxPool2d(2), nn.ReLU(inplace=True), nn.GroupNorm(4, 4), nn.ReLU(inplace=True)]
    layers += [nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 3, 2, 1)]
    agree(nn.Sequential(*layers).double(), *some((4, 4), (2, 3)))


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)]
)
def test_bfloat16_stays_bfloat16(layer, images, hidden):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = layer(pack(images.bfloat16(), hidden))
    assert result.dtype == torch.bfloat16
    reference = layer(mask(images.bfloat16().float(), hidden)).unpack()
    torch.testing.assert_close(result.unpack().float(), reference, rtol=2e-2, atol=3e-2)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda x: x[0], "indexing"),
        (lambda x: x[:, :, 1:], "indexing"),
        (lambda x: x.softmax(2), "softmax"),
        (lambda x: torch.norm(x, p=1, dim=(2, 3)), "norm"),
        (lambda x: F.pad(x, (1, 1)), "pad"),
        (lambda x: F.pixel_unshuffle(x, 4), "pixel_unshuffle"),
        (lambda x: torch.flatten(x, 2), "flatten"),
        (lambda x: x.reshape(3, -1), "reshape"),
        (lambda x: F.adaptive_max_pool2d(x, 2), "adaptive_max_pool2d"),
        (np.asarray, "numpy.asarray"),
    ],
)
def test_other_indices_norms_and_reshapes_are_rejected_by_name(call, name):
    with pytest.raises(ShapeError, match=f"'{name}'.* has no packed form"):
        call(pack(torch.randn(3, 4, 8, 8), masks(2)))
