"""Tests of precision settings and of weight gradients of convolutions on small maps in bf16 on a CPU."""

import copy

import pytest
import torch
from torch import nn

from medmim.encoders import mask
from medmim.training.precision import _precision, autocast, compute_small_maps_exactly, precision_for


def layer_of(dims, *, stride=1, kernel=3, exactly=True):
    torch.manual_seed(0)
    kind = (nn.Conv2d, nn.Conv3d)[dims - 2]
    layer = nn.Sequential(kind(16, 32, kernel, stride=stride, padding=kernel // 2))
    if exactly:
        compute_small_maps_exactly(layer)
    return layer


def step(layer, images, *, bf16):
    layer.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        found = layer(images)
    torch.manual_seed(1)
    found.backward(torch.randn(found.shape).to(found.dtype))
    return found, layer[0].weight.grad.clone()


@pytest.mark.parametrize(
    ("space", "stride", "kernel"),
    [
        ((2, 2, 2), 1, 3),
        ((2, 8, 8), 1, 3),
        ((1, 1), 2, 3),
        ((8, 1), 2, 3),
        ((1, 1, 1), 2, 3),
        ((4, 4, 4), 1, 5),
    ],
)
def test_gradients_equal_those_in_float32(space, stride, kernel):
    exact, plain = (layer_of(len(space), stride=stride, kernel=kernel) for _ in range(2))
    for seed in range(4):
        torch.manual_seed(seed)
        images = torch.randn(4, 16, *space)
        found, gradient = step(exact, images, bf16=True)
        expected, true = step(plain, images, bf16=False)
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)
        assert torch.equal(gradient, true)


def test_larger_maps_stay_in_bf16():
    found, gradient = step(layer_of(2), torch.randn(2, 16, 8, 8), bf16=True)
    assert found.dtype == torch.bfloat16
    assert torch.isfinite(gradient).all()


def test_copied_layers_behave_the_same_and_keep_their_names():
    layer = layer_of(3)
    twin = copy.deepcopy(layer)
    assert twin.state_dict().keys() == layer_of(3, exactly=False).state_dict().keys()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert twin(torch.randn(1, 16, 2, 2, 2)).dtype == torch.float32
        assert twin(torch.randn(1, 16, 4, 4, 4)).dtype == torch.bfloat16


def test_masked_maps_give_the_same_results():
    hidden = torch.tensor([[[True, False], [False, True]]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer_of(2)(mask(torch.randn(1, 16, 2, 2), hidden)).dense.dtype == torch.float32
        assert layer_of(2)(mask(torch.randn(1, 16, 8, 8), hidden)).dense.dtype == torch.bfloat16


def test_autocast_is_restored_after_an_error():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(RuntimeError, match="channels"):
            layer_of(2)(torch.randn(1, 3, 2, 2))  # too few channels
        assert torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(("setting", "word"), [("fp32", "32-true"), ("bf16", "bf16-mixed")])
def test_the_precision_setting_is_translated_for_lightning(setting, word):
    assert precision_for(setting) == word
    assert autocast(setting, torch.device("cpu"))._enabled == (setting == "bf16")


@pytest.mark.parametrize(
    ("setting", "gpu", "bf16", "word"),
    [
        ("auto", True, True, "bf16-mixed"),
        ("auto", True, False, "16-mixed"),
        ("auto", False, True, "bf16-mixed"),
        ("auto", False, False, "32-true"),
        ("fp16", True, True, "16-mixed"),
        ("fp16", False, True, "32-true"),
        ("bf16", False, False, "bf16-mixed"),
        ("fp32", True, True, "32-true"),
    ],
)
def test_precision_depends_on_setting_and_device(setting, gpu, bf16, word):
    assert _precision(setting, gpu=gpu, bf16=bf16) == word
