"""Tests of `medmim/encoders/nnunet_weights.py`; `stages/export/test_nnunet.py` writes and reads files."""

import pytest
import torch

from medmim.encoders import build_encoder
from medmim.encoders.nnunet_weights import nnunet_axes, residual_encoder
from medmim.encoders.public_weights import recognise, tensors_of
from medmim.heads import transfer

FEATURES = {"features": (4, 6, 8), "blocks": (1, 1, 1)}
STRIDES = [[1, 1, 1], [1, 2, 2], [2, 2, 2]]


@pytest.mark.parametrize(
    ("order", "dims", "axes"),
    [
        ((0, 1, 2), 3, [2, 1, 0]),
        ((1, 0, 2), 3, [1, 2, 0]),
        ((0, 1, 2), 2, [1, 0]),
        ((0, 2, 1), 2, [0, 1]),
        ((1, 0, 2), 2, [1, 0]),  # coronal slices
    ],
)
def test_axes_follow_the_order_of_the_plans(order, dims, axes):
    assert nnunet_axes(order, dims) == axes


def checkpoint(strides, **configuration):
    """The content of nnU-Net's checkpoint_final.pth, with the network that it was trained with."""
    network = build_encoder("resenc", spatial_dims=3, in_channels=1, **FEATURES, strides=strides).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    architecture = {"architecture": {"arch_kwargs": {"strides": strides}}}
    plans = {
        "configurations": {"3d_fullres": architecture, "3d_cascade": {"inherits_from": "3d_fullres"}},
        "transpose_forward": [1, 0, 2],
    }
    arguments = {"plans": plans, "configuration": "3d_fullres", **configuration}
    weights = {f"encoder.{name}": value for name, value in network.state_dict().items()}
    return {"network_weights": weights, "init_args": arguments}, network


@pytest.mark.parametrize("configuration", ["3d_fullres", "3d_cascade"])
def test_maps_equal_those_of_a_network_with_strides_per_axis(configuration, tmp_path):
    content, network = checkpoint(STRIDES, configuration=configuration)
    found = recognise(tensors_of(content, tmp_path), [residual_encoder(content)])
    assert found.options["strides"] == [1, [2, 1, 2], 2]
    encoder = build_encoder("resenc", spatial_dims=3, in_channels=1, **found.options).eval()
    assert transfer(encoder, found.weights).loaded_fraction == 1
    images = torch.randn(1, 1, 8, 16, 12)  # x, y, z; nnU-Net sees y, z, x
    expected = [one.permute(0, 1, 4, 2, 3) for one in network(images.permute(0, 1, 3, 4, 2))]
    for one, other in zip(encoder(images), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    assert found.rules == ("axes y, z, x of nnU-Net reordered to x, y, z",)


@pytest.mark.parametrize(
    "plans",
    [None, [], {}, {"configurations": {"3d_fullres": None}}, {"configurations": {}, "transpose_forward": 1}],
)
def test_checkpoints_with_other_plans_are_read_with_the_usual_strides(plans, tmp_path):
    content, _ = checkpoint([[1, 1, 1], [2, 2, 2], [2, 2, 2]])
    content["init_args"]["plans"] = plans
    found = recognise(tensors_of(content, tmp_path), [residual_encoder(content)])
    assert "strides" not in found.options
    assert "strides are not recorded: 1, 2, 2, … assumed" in found.rules
