"""Tests of the numbers that the regression task uses."""

import numpy as np
import pytest
import threshold
import tiny
import torch

from medmim.data.dataset.manifest import Dataset, DatasetInfo
from medmim.encoders import build_encoder
from medmim.errors import DataError, UsageError
from medmim.heads import build_head
from medmim.training.tasks.regression import Regression, far_numbers, regression_figure
from medmim.training.tasks.trained_model import load_trained_model

ROWS = [
    tiny.row(f"p{n}").model_copy(update={"target": text})
    for n, text in enumerate(["63.5", "calm", None, "inf"])
]


def test_only_finite_numbers_are_used():
    assert [Regression().usable(row) for row in ROWS] == [True, False, False, False]


def test_images_with_one_number_are_rejected(tmp_path):
    dataset = Dataset(tmp_path, DatasetInfo(name="d"), tuple(ROWS))
    with pytest.raises(DataError, match="all training images have the same number"):
        Regression().names(dataset, ROWS[:1] * 3, None)


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([], []), ([-999.0], [-999.0]), ([-999.0, 9999.0], [-999.0, 9999.0]), ([150.0], [])],
)
def test_codes_among_numbers_are_told(codes, expected):
    ages = np.random.default_rng(0).uniform(20, 90, 40)
    assert far_numbers(np.append(ages, codes)) == expected
    assert far_numbers(np.array([1.0, 1.0, 1.0, 2.0])) == []


def test_a_training_warns_of_codes_among_numbers(tmp_path):
    rows = [tiny.row(f"p{n}").model_copy(update={"target": str(n)}) for n in (*range(20, 60), -999)]
    encoder = build_encoder("dynunet", spatial_dims=2, in_channels=1, filters=[4, 8, 8])
    said = []
    context = load_trained_model(threshold.write_model(tmp_path, 1.5, view="whole")).context(tmp_path)
    Regression(quantity="age").head(encoder, rows, context, said.append)
    assert "warning: age of some training images is far from all others: -999; if" in said[-1]


def test_a_dropout_above_one_is_rejected():
    with pytest.raises(UsageError, match="expected dropout from 0 to 1, got 2"):
        Regression(dropout=2.0)


def test_the_loss_is_in_standard_deviations_and_starts_at_the_mean():
    torch.manual_seed(0)
    encoder = build_encoder("dynunet", spatial_dims=2, in_channels=1, filters=[4, 8, 8])
    network = build_head("regress", encoder=encoder, spatial_dims=2, classes=1, mean=60.0, sd=10.0)
    with torch.no_grad():
        network.score.weight.zero_()
        network.score.bias.zero_()
    images = torch.randn(2, 1, 16, 16)
    assert network(images).tolist() == [[60.0], [60.0]]
    batch = {"image": images, "target": torch.tensor([80.0, 60.0])}
    assert float(Regression().loss(network, batch).detach()) == pytest.approx((2 - 0.5) / 2)


@pytest.mark.parametrize("count", [1, 3])
def test_patients_are_drawn_with_the_limits_of_agreement(count):
    rows = [{"subject": f"p{n}", "value": 40.0 + n, "predicted": 50.0 - n} for n in range(count)]
    assert regression_figure(rows, quantity="age", title="test").startswith(b"\x89PNG")
