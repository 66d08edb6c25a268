"""Normalisation rules and their independence of the background."""

import numpy as np
import pytest
import torch

from medmim.data.loading.normalisation import (
    LEGACY,
    IntensityRule,
    Normalisation,
    body_mask,
    choose_normalisation,
    normalise,
)
from medmim.errors import UsageError

CT = IntensityRule(method="dataset", low=-160, high=240, mean=40, sd=50)


def abdomen(body_share, *, liver_hu=60.0, organ=0.2):
    """Return a CT whose body fills a share of the view: fat at -100 HU, and a liver."""
    rng = np.random.default_rng(0)
    image = np.full((40, 40, 10), -1000.0)
    columns = round(40 * body_share)
    image[:columns] = rng.normal(-100, 10, (columns, 40, 10))
    image[: max(round(columns * organ), 1)] = liver_hu
    return torch.from_numpy(image).float()


def test_a_ct_organ_has_one_value_whatever_share_of_the_view_the_body_fills():
    values = [normalise(abdomen(share), CT, "CT")[0, 0, 0].item() for share in (0.25, 0.5, 0.75)]
    assert max(values) - min(values) < 0.02
    assert values[0] == pytest.approx((60 - 40) / 50)


def test_without_statistics_ct_has_a_fixed_range():
    values = [Normalisation()(abdomen(share)[None], ["CT"])[0, 0, 0, 0].item() for share in (0.25, 0.75)]
    assert values[0] == pytest.approx(values[1])


def test_ct_is_clipped_to_its_limits():
    found = normalise(torch.tensor([-1000.0, -160, 40, 240, 3000]), CT, "CT")
    assert found.tolist() == pytest.approx([-4, -4, 0, 4, 4])


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_mr_tissue_has_one_value_whatever_the_air_around_it(share):
    rng = np.random.default_rng(0)
    image = rng.normal(0, 3, (40, 40, 10)).clip(min=0)
    rows = round(40 * share)
    image[:rows] = rng.normal(300, 30, (rows, 40, 10))
    found = Normalisation()(torch.from_numpy(image).float()[None], ["MR"])[0]
    assert found[:rows].mean().item() == pytest.approx(0, abs=0.02)
    assert found[:rows].std().item() == pytest.approx(1, abs=0.05)
    assert found[rows:].max() < -5


def test_the_background_stays_darker_than_dark_tissue():
    image = torch.tensor([0.0] * 50 + [100.0] * 25 + [200.0] * 25)
    found = Normalisation()(image[None], ["MR"])[0]
    assert found[0] < found[60] < found[80]


def test_earlier_models_keep_their_normalisation():
    image = torch.randn(1, 16, 16, 16) * 500
    low, high = np.percentile(image.numpy(), (0.5, 99.5))
    limits = {"CT": (-1000.0, 1000.0), "MR": (float(low), float(high))}
    for modality, ends in limits.items():
        found, clipped = LEGACY(image, [modality]), image.clamp(*ends)
        expected = (clipped - clipped.mean()) / clipped.std(correction=0)
        assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("modality", ["CT", "MR", "PT", "US", "DX", "OT"])
def test_constant_images_stay_finite(modality):
    assert torch.isfinite(Normalisation()(torch.full((1, 4, 4, 4), 7.0), [modality])).all()


def test_channels_are_normalised_by_their_own_modality():
    image = torch.stack([abdomen(0.5), abdomen(0.5)])
    rules = Normalisation(rules={"CT": CT, "MR": IntensityRule(method="none")})
    found = rules(image, ["CT", "MR"])
    assert torch.equal(found[1], image[1])
    assert found[0].max() == pytest.approx((60 - 40) / 50)


def test_rules_survive_json():
    rules = Normalisation(rules={"CT": CT})
    assert Normalisation.model_validate(rules.as_json()) == rules
    assert Normalisation.model_validate(LEGACY.as_json()).legacy


def test_the_body_of_a_constant_image_is_all_of_it():
    assert body_mask(torch.ones(3, 3)).all()


@pytest.mark.parametrize("method", ["none", "body", "volume"])
def test_a_window_that_a_method_would_not_use_is_refused(method):
    with pytest.raises(UsageError, match=f"window: normalisation={method} has none"):
        choose_normalisation({}, method, (-160.0, 240.0))
