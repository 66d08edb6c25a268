"""Distortions of Models Genesis: monotonic curves, shuffled windows, and the loss over all voxels."""

import pytest
import torch

from medmim.encoders import build_encoder
from medmim.errors import UsageError
from medmim.methods import build_method
from medmim.methods.models_genesis import bezier, shuffled


def generator_of(seed):
    return torch.Generator().manual_seed(seed)


def test_curves_are_monotonic_stay_between_0_and_1_and_rise_or_fall():
    at = torch.linspace(0, 1, 200)
    directions = set()
    for seed in range(20):
        steps = bezier(at, generator_of(seed)).diff()
        directions.add(bool(steps.sum() > 0))
        assert (steps >= -1e-6).all() or (steps <= 1e-6).all()
        ends = bezier(torch.tensor([0.0, 1.0]), generator_of(seed)).sort().values
        torch.testing.assert_close(ends, torch.tensor([0.0, 1.0]), atol=0.01, rtol=0)
    assert directions == {True, False}


@pytest.mark.parametrize("space", [(40, 30), (20, 30, 40)])
def test_shuffling_moves_voxels_only_within_windows_of_a_tenth_and_keeps_channels_together(space):
    places = torch.arange(torch.Size(space).numel(), dtype=torch.float32).view(space)
    image = torch.stack([places, -places])
    moved = shuffled(image, generator_of(0))
    assert torch.equal(moved[0], -moved[1])
    assert torch.equal(moved[0].flatten().sort().values, places.flatten())
    assert not torch.equal(moved, image)


def test_the_loss_is_the_mean_squared_error_of_all_voxels_of_the_restored_image():
    torch.manual_seed(0)
    encoder = build_encoder("dynunet", spatial_dims=2, in_channels=1, filters=(4, 8))
    method = build_method("models_genesis", encoder=encoder, spatial_dims=2, cell=(4, 4))
    images = torch.randn(2, 1, 16, 16)
    step = method(images, torch.rand(2, 4, 4) < 0.5)
    torch.testing.assert_close(step.loss.detach(), (step.pictures["reconstruction"] - images).square().mean())


@pytest.mark.parametrize("option", ["curve", "shuffle"])
def test_probabilities_above_one_are_rejected(option):
    encoder = build_encoder("dynunet", spatial_dims=2, in_channels=1, filters=(4, 8))
    with pytest.raises(UsageError, match=rf"^method_options: expected {option} from 0 to 1, got 1\.5$"):
        build_method("models_genesis", encoder=encoder, spatial_dims=2, cell=(4, 4), **{option: 1.5})
