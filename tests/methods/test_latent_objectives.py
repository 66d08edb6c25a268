"""Latent MIM's losses and mean cosine against formulas written out in float64."""

import numpy as np
import pytest
import torch

from medmim.methods.latent_objectives import (
    OBJECTIVES,
    AbsoluteError,
    InfoNCE,
    NormalisedSquaredError,
    SquaredError,
    mean_cosine,
)

COUNTS = (5, 3)  # real patches of two samples; the rest are fillers


def latents(seed, *, width=6):
    return torch.randn(2, max(COUNTS), width, generator=torch.Generator().manual_seed(seed)) * 2 + 0.5


def weights():
    weight = torch.zeros(2, max(COUNTS), 1)
    for sample, count in enumerate(COUNTS):
        weight[sample, :count] = 1
    return weight


def real(values):
    return [values[sample, :count].double().numpy() for sample, count in enumerate(COUNTS)]


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def naive_infonce(prediction, target, tau):
    """2 tau times the mean over patches of -log softmax of the right target among those of the same image."""
    losses = []
    for p, t in zip(real(prediction), real(target), strict=True):
        guesses, truths = unit((p - p.mean(axis=0)) / (p.std(axis=0, ddof=1) + 1e-4)), unit(t)
        for i in range(len(p)):
            scores = np.exp([guesses[i] @ truth / tau for truth in truths])
            losses.append(-np.log(scores[i] / scores.sum()))
    return 2 * tau * np.mean(losses)


@pytest.mark.parametrize("tau", [0.1, 0.2, 1.0])
@pytest.mark.parametrize("spread", [1.0, 1e-3])  # predictions of nearly equal patches at the start
def test_infonce_equals_the_formula(tau, spread):
    guesses = spread * latents(0) * torch.arange(1.0, 7.0)
    loss = InfoNCE(tau=tau)(guesses, latents(1), weights()).item()
    assert loss == pytest.approx(naive_infonce(guesses, latents(1), tau), rel=1e-5)


def test_squared_error_equals_the_formula():
    pairs = zip(real(latents(0)), real(latents(1)), strict=True)
    expected = np.concatenate([((unit(p) - unit(t)) ** 2).sum(axis=-1) for p, t in pairs]).mean()
    assert SquaredError()(latents(0), latents(1), weights()).item() == pytest.approx(expected, rel=1e-5)


def test_squared_error_of_normalised_targets_equals_the_formula():
    pairs = zip(real(latents(0)), real(latents(1)), strict=True)
    errors = []
    for p, t in pairs:
        spread = np.sqrt(t.var(axis=-1, ddof=1, keepdims=True) + 1e-6)
        errors.append((p - (t - t.mean(axis=-1, keepdims=True)) / spread) ** 2)
    loss = NormalisedSquaredError()(latents(0), latents(1), weights()).item()
    assert loss == pytest.approx(np.concatenate(errors).mean(), rel=1e-5)


def test_absolute_error_equals_the_formula():
    pairs = zip(real(latents(0)), real(latents(1)), strict=True)
    expected = np.concatenate([np.abs(p - t).mean(axis=-1) for p, t in pairs]).mean()
    assert AbsoluteError()(latents(0), latents(1), weights()).item() == pytest.approx(expected, rel=1e-5)


def test_the_mean_cosine_is_over_all_pairs_of_patches_as_in_the_official_code():
    expected = [np.mean(x @ x.T) for x in map(unit, real(latents(0)))]
    assert mean_cosine(latents(0), weights()).item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_equal_patches_have_a_cosine_of_one():
    alike = torch.ones(2, max(COUNTS), 6) * torch.rand(2, max(COUNTS), 1)
    assert mean_cosine(alike, weights()).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("objective", [build() for build in OBJECTIVES.values()], ids=list(OBJECTIVES))
def test_padding_changes_nothing_and_gets_no_gradient(objective):
    prediction, target, weight = latents(0).requires_grad_(), latents(1), weights()
    loss = objective(prediction, target, weight)
    loss.backward()
    filler = (weight == 0).expand_as(prediction)
    assert not prediction.grad[filler].any()
    assert prediction.grad[~filler].all()
    noise = torch.where(filler, 100 * torch.randn_like(target), 0)
    assert objective(latents(0) + noise, target + noise, weight).item() == pytest.approx(
        loss.item(), rel=1e-6
    )
    assert mean_cosine(latents(0) + noise, weight).item() == pytest.approx(
        mean_cosine(latents(0), weight).item(), rel=1e-6
    )


@pytest.mark.parametrize("objective", [build() for build in OBJECTIVES.values()], ids=list(OBJECTIVES))
def test_one_patch_has_a_finite_loss_and_gradient(objective):
    prediction = latents(0)[:, :1].requires_grad_()
    loss = objective(prediction, latents(1)[:, :1], torch.ones(2, 1, 1))
    loss.backward()
    assert loss.isfinite()
    assert prediction.grad.isfinite().all()
    assert mean_cosine(latents(0)[:, :1], torch.ones(2, 1, 1)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("objective", "scale"), [(InfoNCE(), 3.0), (SquaredError(), 3.0), (AbsoluteError(), 1.0)]
)
def test_the_relative_error_ignores_what_the_objective_ignores(objective, scale):
    prediction, target = objective.compared(scale * latents(0), latents(0), weights())
    torch.testing.assert_close(prediction, target, rtol=1e-4, atol=1e-5)
    other, target = objective.compared(latents(1), latents(0), weights())
    assert (other - target).abs().mean() > 0.1


def test_negatives_are_the_patches_of_the_same_image_only():
    prediction, target = latents(0), latents(1)
    first = InfoNCE()(prediction[:1], target[:1], weights()[:1])
    other = torch.cat([target[:1], 100 * torch.randn_like(target[1:])])
    weight = torch.cat([weights()[:1], torch.zeros(1, max(COUNTS), 1)])
    weight[1, 0] = 1  # one patch of the other image: right among one, a loss of 0
    both = InfoNCE()(prediction, other, weight)
    assert both.item() == pytest.approx(first.item() * COUNTS[0] / (COUNTS[0] + 1), rel=1e-5)
