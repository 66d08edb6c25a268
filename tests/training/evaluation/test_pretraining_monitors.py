"""Pretraining monitors: their values, and that they do not affect training."""

import copy
from dataclasses import replace

import pytest
import torch

from medmim.data.loading.probe_images import ProbeImages
from medmim.encoders import build_encoder, pack
from medmim.encoders.batch_norm import recalibrate_batch_norms
from medmim.training.evaluation.pretraining_monitors import Monitors, hidden_error
from medmim.training.evaluation.probes import extract_features, mean_cosine

both_dims = pytest.mark.parametrize("dims", [2, 3])
EVERY = {
    *("probe/knn_f1", "probe/linear_f1", "probe/segment_dice"),
    *("probe/effective_rank", "probe/cosine", "alarm/collapse"),
}


def shown(dims, *, count=12, known=True, seed=0):
    """Return images whose labelled half is bright; the half depends on the class."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 1, *[16] * dims, generator=generator)
    targets = torch.arange(count) % 2
    labels = torch.zeros(count, 1, *[16] * dims, dtype=torch.long)
    for number in range(count):
        half = slice(0, 8) if targets[number] else slice(8, 16)
        labels[number, 0, half] = 1
    images = images + 6 * labels
    if not known:
        return ProbeImages(
            images, -torch.ones_like(targets), torch.zeros_like(labels), torch.zeros(count) > 0
        )
    return ProbeImages(images, targets, labels, torch.ones(count) > 0)


def encoder_for(dims, name="resnet18"):
    torch.manual_seed(0)
    options = {
        "resnet18": {"widths": (8, 8, 8, 8), "stem_stride": 1},
        "vit": {"patch": 4, "width": 24, "heads": 2, "depth": 2},
    }
    return build_encoder(name, spatial_dims=dims, in_channels=1, **options[name])


@both_dims
@pytest.mark.parametrize("name", ["resnet18", "vit"])
def test_every_encoder_reports_the_same_metrics(dims, name):
    found = Monitors(encoder_for(dims, name), shown(dims), shown(dims, count=6, seed=1), precision="fp32")()
    assert found.keys() == EVERY
    assert found["probe/segment_dice"] > 0.7  # with random weights
    assert found["probe/effective_rank"] > 1


def test_only_spread_metrics_are_reported_without_labels():
    found = Monitors(encoder_for(2), None, shown(2, known=False), precision="fp32")()
    assert found.keys() == {"probe/effective_rank", "probe/cosine", "alarm/collapse"}
    train, val = shown(2, known=False), shown(2, known=False, seed=1)
    assert Monitors(encoder_for(2), train, val, precision="fp32")().keys() == found.keys()


def test_class_probes_are_fitted_on_training_images_only():
    train, val = (
        replace(
            one, images=one.images + 6 * one.targets.reshape(-1, 1, 1, 1)
        )  # the brightness depends on the class
        for one in (shown(2), shown(2, seed=1))
    )
    exchanged = replace(train, targets=1 - train.targets)
    found = Monitors(encoder_for(2), exchanged, val, precision="fp32")()
    assert found["probe/knn_f1"] < 0.2  # neighbours within `val` would give 1
    assert found["probe/linear_f1"] < 0.2
    assert Monitors(encoder_for(2), train, val, precision="fp32")()["probe/knn_f1"] > 0.8


def test_collapse_is_reported_but_not_for_initial_weights():
    encoder = encoder_for(2)
    monitors = Monitors(encoder, shown(2), shown(2, seed=1), precision="fp32")
    assert monitors()["alarm/collapse"] == 0
    with torch.no_grad():
        for name, parameter in encoder.stages[-1].named_parameters():
            parameter.zero_() if "weight" in name else parameter.fill_(1.0)
    found = monitors()
    assert found["probe/cosine"] == pytest.approx(1.0, abs=1e-4)
    assert found["alarm/collapse"] == 1


def test_nearly_equal_features_are_a_collapse_at_any_rank():
    encoder = encoder_for(2, "vit")
    monitors = Monitors(encoder, shown(2), shown(2, seed=1), precision="fp32")
    before = monitors()
    assert before["alarm/collapse"] == 0
    with torch.no_grad():
        encoder.norm.bias.fill_(100.0)
    found = monitors()
    assert found["probe/effective_rank"] == pytest.approx(before["probe/effective_rank"], rel=0.01)
    assert found["probe/cosine"] > 0.999
    assert found["alarm/collapse"] == 1


def test_monitors_change_neither_the_encoder_nor_the_random_state():
    encoder = encoder_for(2).train()
    monitors = Monitors(encoder, shown(2), shown(2, seed=1), precision="fp32")
    before, state = copy.deepcopy(encoder.state_dict()), torch.get_rng_state()
    first = monitors()
    assert monitors() == first
    assert encoder.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


@both_dims
def test_batch_norm_is_evaluated_with_the_statistics_of_whole_images(dims):
    """Training statistics (of visible cells) do not change; a recalibrated copy is evaluated."""
    encoder, train, val = encoder_for(dims).train(), shown(dims), shown(dims, count=6, seed=1)
    hidden = torch.rand(12, *[2] * dims, generator=torch.Generator().manual_seed(0)) < 0.5
    hidden.view(12, -1)[:, 0] = False
    encoder(pack(train.images, hidden))
    before, state = copy.deepcopy(encoder.state_dict()), torch.get_rng_state()
    monitors = Monitors(encoder, train, val, precision="fp32")
    found, judged = monitors(), extract_features(monitors.recalibrated(), val.images, precision="fp32").pooled
    assert encoder.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    kept = copy.deepcopy(encoder)
    recalibrate_batch_norms(kept, train.images.split(6))
    assert torch.equal(judged, extract_features(kept, val.images, precision="fp32").pooled)
    unsettled = extract_features(encoder, val.images, precision="fp32").pooled
    assert (judged - unsettled).norm() > 0.05 * unsettled.norm()
    places = torch.cat([extract_features(kept, one.images, precision="fp32").places for one in (train, val)])
    assert found["probe/cosine"] == mean_cosine(places)
    assert monitors.initial_cosine == found["probe/cosine"]


def test_an_encoder_without_batch_norm_is_evaluated_directly():
    encoder = encoder_for(2, "vit")
    assert Monitors(encoder, shown(2), shown(2, seed=1), precision="fp32").recalibrated() is encoder


def test_pooled_features_are_the_means_of_all_feature_maps():
    encoder, images = encoder_for(3).eval(), shown(3, count=10).images
    with torch.no_grad():
        maps = encoder(images)
    expected = torch.cat([one.flatten(2).mean(dim=-1) for one in maps], dim=1)
    torch.testing.assert_close(
        extract_features(encoder, images, precision="fp32").pooled, expected, rtol=1e-4, atol=1e-5
    )


@both_dims
def test_hidden_error_is_one_for_cell_means_and_zero_for_the_original(dims):
    images = torch.randn(2, 1, *[8] * dims, generator=torch.Generator().manual_seed(0))
    hidden = torch.zeros(2, *[2] * dims, dtype=torch.bool)
    hidden[:, 0] = True
    pool = torch.nn.functional.avg_pool2d if dims == 2 else torch.nn.functional.avg_pool3d
    means = torch.nn.functional.interpolate(pool(images, 4), scale_factor=4, mode="nearest")
    assert hidden_error(images, hidden, means) == pytest.approx(1.0, rel=1e-5)
    assert hidden_error(images, hidden, images) == 0.0
    elsewhere = images.clone()
    elsewhere[:, :, 4:] += 9.0  # visible cells
    assert hidden_error(images, hidden, elsewhere) == 0.0
