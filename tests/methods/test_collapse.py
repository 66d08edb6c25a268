"""On real slices: joint Latent MIM gives all patches one latent; with a moving average it does not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medmim.encoders import build_encoder
from medmim.masks import build_mask
from medmim.methods import build_method
from medmim.methods.latent_loss import mean_cosine

SLICES = Path(__file__).parents[3] / "shared" / "data" / "figshare_brain_tumor" / "images"
STEPS = 150

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SLICES.is_dir(), reason="needs the real slices beside the project"),
]


@pytest.fixture(scope="module")
def slices():
    """64 slices far apart in the data set, 64×64 pixels, each with mean 0 and deviation 1."""
    files = sorted(SLICES.iterdir())[::40][:64]
    pictures = [
        np.asarray(Image.open(file).convert("L").resize((64, 64)), dtype=np.float32) for file in files
    ]
    images = torch.from_numpy(np.stack(pictures)).unsqueeze(1)
    return (images - images.mean((2, 3), keepdim=True)) / images.std((2, 3), keepdim=True)


def train(slices, **options):
    """A small network after a short training."""
    torch.manual_seed(0)
    encoder = build_encoder("vit", spatial_dims=2, in_channels=1, patch=8, width=48, depth=3, heads=2)
    words = {"similarity": 0.0, "projector": 96, **options}
    method = build_method("latent_mim", encoder=encoder, spatial_dims=2, cell=(8, 8), **words)
    optimiser = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-3)
    generator, mask = torch.Generator().manual_seed(0), build_mask("random", ratio=0.75)
    for step in range(STEPS):
        chosen = slices[torch.randint(0, len(slices), (16,), generator=generator)]
        loss = method(chosen, mask.sample(16, (8, 8), generator=generator)).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        method.after_step((step + 1) / STEPS)
    return method.eval()


@torch.no_grad()
def likeness(method, slices):
    """Mean cosine of pairs of patches, of one slice (the method's own part) and of all slices."""
    hidden = build_mask("random", ratio=0.75).sample(
        len(slices), (8, 8), generator=torch.Generator().manual_seed(1)
    )
    within = method(slices, hidden).parts["cosine_targets"].item()
    latents = method.projector(method.encoder(slices)[-1].flatten(2).transpose(1, 2)).flatten(0, 1)
    return within, mean_cosine(latents.unsqueeze(0), torch.ones(1, len(latents), 1)).item()


def test_joint_training_collapses(slices):
    within, between = likeness(train(slices, target="joint", objective="mse"), slices)
    assert within > 0.95
    assert between > 0.95


@pytest.mark.parametrize("objective", ["mse", "infonce"])
def test_a_moving_average_does_not(slices, objective):
    within, between = likeness(train(slices, target="ema", objective=objective), slices)
    assert within < 0.85
    assert between < 0.85
