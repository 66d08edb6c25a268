"""Compares LAMB with a float64 reference implementation of Algorithm 2 in arXiv 1904.00962."""

import math

import numpy as np
import pytest
import torch

from medmim.training.lamb import Lamb


def by_hand(weights, gradients, *, lr, betas, eps, decay):
    mean, square = np.zeros_like(weights), np.zeros_like(weights)
    for step, gradient in enumerate(gradients, start=1):
        mean = betas[0] * mean + (1 - betas[0]) * gradient
        square = betas[1] * square + (1 - betas[1]) * gradient**2
        ratio = (mean / (1 - betas[0] ** step)) / (np.sqrt(square / (1 - betas[1] ** step)) + eps)
        move = ratio + decay * weights
        length, size = math.sqrt((weights**2).sum()), math.sqrt((move**2).sum())
        trust = length / size if decay and length and size else 1.0
        weights = weights - lr * trust * move
    return weights


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("start", [0.0, 1.5])
def test_steps_equal_the_reference(decay, start):
    rng = np.random.default_rng(0)
    first = start * rng.normal(size=(4, 3))
    gradients = [10.0**power * rng.normal(size=(4, 3)) for power in (-2, 0, 1, -1, 0)]
    options = {"lr": 0.07, "betas": (0.8, 0.95), "eps": 1e-6}
    weights = torch.tensor(first, requires_grad=True)
    lamb = Lamb([weights], weight_decay=decay, **options)
    for gradient in gradients:
        weights.grad = torch.tensor(gradient)
        lamb.step()
    expected = torch.tensor(by_hand(first, gradients, decay=decay, **options))
    torch.testing.assert_close(weights.detach(), expected, rtol=1e-12, atol=1e-14)


def test_the_step_length_depends_on_the_weight_norm_but_not_on_the_gradient_scale():
    moved = []
    for scale in (1e-3, 1e3):
        weights = torch.full((5, 5), 2.0, requires_grad=True)
        weights.grad = scale * torch.ones(5, 5)
        Lamb([weights], lr=0.01, weight_decay=1e-9).step()
        moved.append((weights.detach() - 2).norm())
    assert moved == pytest.approx([0.01 * 10.0] * 2, rel=1e-2)


def test_a_saved_state_continues_exactly():
    gradients = [torch.randn(3, 3, generator=torch.Generator().manual_seed(n)) for n in range(6)]

    def train(weights, lamb, chosen):
        for gradient in chosen:
            weights.grad = gradient.clone()
            lamb.step()
        return weights.detach().clone()

    whole = torch.ones(3, 3, requires_grad=True)
    expected = train(whole, Lamb([whole], weight_decay=0.1), gradients)
    first = torch.ones(3, 3, requires_grad=True)
    lamb = Lamb([first], weight_decay=0.1)
    second = train(first, lamb, gradients[:3]).requires_grad_()
    again = Lamb([second], weight_decay=0.1)
    again.load_state_dict(lamb.state_dict())
    assert torch.equal(train(second, again, gradients[3:]), expected)


def test_tensors_without_gradient_do_not_change_and_a_closure_is_called():
    used, unused = torch.ones(2, 2, requires_grad=True), torch.ones(2, requires_grad=True)
    lamb = Lamb([used, unused], lr=0.1)

    def closure():
        loss = used.square().sum()
        loss.backward()
        return loss

    assert lamb.step(closure).item() == 4
    assert torch.equal(unused.detach(), torch.ones(2))
    assert (used < 1).all()
