"""Probe metrics of features, compared with expected values."""

import numpy as np
import pytest
import torch

from medmim.training.evaluation import probes


def clouds(count, *, apart, seed=0):
    """Return points of two classes at the given distance."""
    rng = np.random.default_rng(seed)
    classes = np.arange(count) % 2
    centres = apart * (classes[:, None] - 0.5) * np.array([1, -1, 0, 0, 0, 0])
    return rng.normal(size=(count, 6)) + centres, classes


@pytest.mark.parametrize("make", [probes.linear, probes.nearest])
def test_separable_classes_are_predicted_for_new_points(make):
    rows, classes = clouds(80, apart=8.0)
    others, truth = clouds(40, apart=8.0, seed=1)
    assert probes.mean_f1_of_present(truth, make(rows, classes).predict(others)) > 0.95


def test_noise_is_predicted_at_chance_level():
    rows, classes = clouds(200, apart=0.0)
    others, truth = clouds(400, apart=0.0, seed=1)
    assert 0.35 < probes.mean_f1_of_present(truth, probes.linear(rows, classes).predict(others)) < 0.65


def test_macro_f1_equals_the_formula():
    truth, found = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 0, 1])
    expected = [2 * 2 / (3 + 3), 2 * 1 / (2 + 3), 0.0]
    assert probes.mean_f1_of_present(truth, found) == pytest.approx(np.mean(expected))


def test_dice_excludes_the_background():
    truth, found = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 1, 1, 0, 2])
    assert probes.mean_dice(truth, found) == pytest.approx(np.mean([2 * 2 / (2 + 3), 2 * 1 / (2 + 1)]))


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_the_effective_rank_of_equal_variances_is_their_number(rank):
    basis = torch.linalg.qr(torch.randn(20, rank, dtype=torch.float64))[0]
    points = torch.cat([basis.T, -basis.T]) + 5.0  # the mean has no effect
    assert probes.effective_rank(points) == pytest.approx(rank)


def test_equal_features_have_rank_one_and_cosine_one():
    same = torch.randn(1, 7).expand(5, 7)
    assert probes.effective_rank(same) == 1.0
    assert probes.mean_cosine(same) == pytest.approx(1.0)


def test_mean_cosine_equals_the_naive_loop():
    rows = torch.randn(5, 4, dtype=torch.float64)
    pairs = [
        torch.nn.functional.cosine_similarity(rows[i], rows[j], dim=0)
        for i in range(5)
        for j in range(5)
        if i != j
    ]
    assert probes.mean_cosine(rows) == pytest.approx(torch.stack(pairs).mean().item())
