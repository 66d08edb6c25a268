"""On real slices: which of Latent MIM's targets give all patches and all images one latent, and what tells.

With a squared error, 150 steps and one seed, mean cosine of pairs of patches (0.26 in the initial encoder):

                                encoder    after the projector
joint, no projector             0.996      -
stop-gradient, no projector     0.081      -
joint, projector                0.861      0.999
stop-gradient, projector        0.762      0.976
moving average, projector       0.412      0.803

Joint training collapses; stop-gradient does after the projector, and without one not within these steps.
Behind a projector the encoder's own features stay apart, so that the targets' cosine has to raise the alarm.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medmim.data.loading.probe_images import ProbeImages
from medmim.encoders import build_encoder
from medmim.masks import build_mask
from medmim.methods import build_method
from medmim.methods.latent_objectives import mean_cosine
from medmim.training.evaluation.pretraining_monitors import Monitors, target_collapse

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
    """A small network after a short training, and the monitors that were there from the beginning."""
    torch.manual_seed(0)
    encoder = build_encoder("vit", spatial_dims=2, in_channels=1, patch=8, width=48, depth=3, heads=2)
    words = {"similarity": 0.0, "projector": 0, **options}
    method = build_method("latent_mim", encoder=encoder, spatial_dims=2, cell=(8, 8), **words)
    nothing = torch.zeros_like(slices, dtype=torch.long)
    unknown = ProbeImages(
        slices, -torch.ones(len(slices), dtype=torch.long), nothing, torch.zeros(len(slices)) > 0
    )
    monitors = Monitors(encoder, None, unknown, precision="fp32")
    optimiser = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-3)
    generator, mask = torch.Generator().manual_seed(0), build_mask("random", ratio=0.75)
    for step in range(STEPS):
        chosen = slices[torch.randint(0, len(slices), (16,), generator=generator)]
        loss = method(chosen, mask.sample(16, (8, 8), generator=generator)).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        method.on_step_end((step + 1) / STEPS)
    return method.eval(), monitors


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
    method, monitors = train(slices, target="joint", objective="mse")
    within, between = likeness(method, slices)
    assert within > 0.95
    assert between > 0.95
    found = monitors()
    assert found["probe/cosine"] > 0.95
    assert found["alarm/collapse"] == 1


@pytest.mark.parametrize("target", ["joint", "stop_gradient"])
def test_behind_a_projector_both_collapse_and_the_target_cosine_shows_it(slices, target):
    method, monitors = train(slices, target=target, objective="mse", projector=None)
    within, between = likeness(method, slices)
    assert within > 0.95
    assert between > 0.95
    found = monitors()
    assert found["probe/cosine"] < 0.95
    assert found["alarm/collapse"] == 0  # the encoder alone
    assert target_collapse({"val/cosine_targets": within}) == {"alarm/collapse": 1.0}


def test_stop_gradient_without_a_projector_keeps_patches_apart(slices):
    method, monitors = train(slices, target="stop_gradient", objective="mse")
    within, between = likeness(method, slices)
    assert within < 0.85
    assert between < 0.85
    assert monitors()["alarm/collapse"] == 0


@pytest.mark.parametrize(("objective", "projector"), [("mse", 0), ("infonce", 0), ("mse", None)])
def test_a_moving_average_does_not(slices, objective, projector):
    method, monitors = train(slices, target="ema", objective=objective, projector=projector)
    within, between = likeness(method, slices)
    assert within < 0.85
    assert between < 0.85
    found = monitors()
    assert found["probe/cosine"] < 0.95
    assert found["alarm/collapse"] == 0
