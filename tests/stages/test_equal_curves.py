"""Packed and masked computing train alike: loss curves of one seed coincide; `pytest -rP` prints figures.

Networks with instance norm are compared in fp32, through the real stage. Batch norm over a small batch makes
the last bit of an image grow to 1e-3 of the loss within 100 steps in fp32, with masked computing alone
too; there, curves are compared in float64.
"""

import sys

import pytest
import tiny
import torch

from medmim.config.runs import PretrainSettings
from medmim.encoders import build_encoder
from medmim.masks import build_mask
from medmim.methods import build_method
from medmim.randomness import torch_stream
from medmim.stages.pretrain.run import pretrain
from medmim.tracking.mlflow_store import Store
from medmim.training.optimizers import build_optimizer

STEPS = 200


def largest_difference(packed, masked, name):
    apart = max(abs(ours - theirs) / theirs for ours, theirs in zip(packed, masked, strict=True))
    sys.stdout.write(f"{name}: loss {packed[0]:.4f} → {packed[-1]:.4f}, apart by {apart:.1e} at most\n")
    assert packed[-1] < packed[0]
    return apart


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
def test_curves_of_the_stage_coincide(tiny_dataset, home, dims):
    def curve(compute):
        words = {**tiny.TINY, "dims": dims, "size": (32,) if dims == 2 else (16,), "compute": compute}
        words |= {"steps": STEPS, "num_evaluations": 1, "method_options": {"decoder_width": 16}}
        result = pretrain(PretrainSettings(data=tiny_dataset, **words), home=home)
        history = Store(home).client.get_metric_history(result.run_id, "train/loss")
        return [point.value for point in history]

    packed, masked = curve("packed"), curve("masked")
    assert len(packed) > STEPS // 10
    assert largest_difference(packed, masked, f"{dims}D DynUNet, fp32") < 1e-3


@pytest.mark.slow
def test_curves_of_a_network_with_batch_norm_coincide_in_float64():
    def curve(compute):
        torch.manual_seed(0)
        options = {"widths": (4, 8, 8, 16), "stem_stride": 1}
        encoder = build_encoder("resnet18", spatial_dims=2, in_channels=1, **options)
        method = build_method(
            "spark", encoder=encoder, spatial_dims=2, cell=(8, 8), compute=compute, decoder_width=16
        ).double()
        optimizer = build_optimizer([(method, 1e-3)], weight_decay=0.05)
        mask, losses = build_mask("mesh", ratio=0.7), []
        for step in range(STEPS):
            coarse = torch.randn(8, 1, 4, 4, generator=torch_stream(0, "images", step), dtype=torch.float64)
            images = torch.nn.functional.interpolate(coarse, (32, 32), mode="bicubic")
            hidden = mask.sample(8, (4, 4), generator=torch_stream(0, "masks", step))
            optimizer.zero_grad()
            loss = method(images, hidden).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    assert largest_difference(curve("packed"), curve("masked"), "2D ResNet-18, float64") < 1e-3
