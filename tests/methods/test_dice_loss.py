"""The Dice loss of a batch; `tests/test_distributed.py` divides it over processes."""

import pytest
import torch

from medmim.methods.dice_loss import CRITERIA, batch_dice

LABELS = torch.tensor([[[[0, 0, 1, 1], [0, 2, 2, 1]]], [[[0, 0, 0, 0], [1, 1, 0, 0]]]])


def masks_of(labels):
    return torch.nn.functional.one_hot(labels[:, 0], 3).movedim(-1, 1).float()


def sure(labels):
    """Return logits of these labels, far from 0 for every class."""
    return 40 * masks_of(labels) - 20


@pytest.mark.parametrize("criterion", sorted(CRITERIA))
def test_a_perfect_prediction_has_almost_no_loss(criterion):
    loss = batch_dice(criterion)
    assert loss(sure(LABELS), LABELS) < 1e-3
    assert loss(sure((LABELS + 1) % 3), LABELS) > 0.9


def test_the_dice_is_that_of_the_whole_batch_without_background():
    scores = torch.randn(2, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    shares = scores.softmax(dim=1)
    true = masks_of(LABELS)
    both, found, masks = [(one).sum(dim=(0, 2, 3))[1:] for one in (shares * true, shares, true)]
    expected = 1 - ((2 * both + 1e-5) / (found + masks + 1e-5)).mean()
    torch.testing.assert_close(batch_dice("dice_ce").dice(scores, LABELS), expected)


def test_the_dice_of_a_region_is_that_of_its_summed_classes():
    regions = torch.tensor([[False, True, True], [False, False, True]])
    scores = torch.randn(2, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    shares, true = scores.softmax(dim=1), masks_of(LABELS)
    pairs = [(shares[:, 1:].sum(dim=1), true[:, 1:].sum(dim=1)), (shares[:, 2], true[:, 2])]
    dice = [(2 * (a * b).sum() + 1e-5) / (a.sum() + b.sum() + 1e-5) for a, b in pairs]
    torch.testing.assert_close(batch_dice("dice_ce", regions).dice(scores, LABELS), 1 - sum(dice) / 2)
