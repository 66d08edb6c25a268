import pytest
import torch

from medmim.training.tasks.known_label_loss import KnownLabelLoss

SCORES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
LABEL = torch.randint(0, 2, (2, 1, 6, 6), generator=torch.Generator().manual_seed(1)).float()
NO_SECOND = torch.tensor([[True, True, False]] * 2)


@pytest.mark.parametrize("criterion", ["dice_ce", "dice_focal"])
def test_the_loss_is_that_of_complete_labels_where_every_class_was_annotated(criterion):
    whole = KnownLabelLoss(criterion)(SCORES, LABEL)
    assert KnownLabelLoss(criterion, torch.ones(2, 3, dtype=torch.bool))(SCORES, LABEL) == pytest.approx(
        float(whole)
    )


def test_predicting_a_class_that_was_not_annotated_costs_as_much_as_background():
    """Probability moved from background to that class changes nothing."""
    moved = SCORES.clone()
    total = SCORES[:, [0, 2]].logsumexp(dim=1)
    moved[:, 0], moved[:, 2] = total - 3.0, total + torch.log1p(-torch.exp(torch.tensor(-3.0)))
    loss = KnownLabelLoss("dice_ce", NO_SECOND)
    assert loss(moved, LABEL) == pytest.approx(float(loss(SCORES, LABEL)), abs=1e-5)
    assert KnownLabelLoss("dice_ce")(moved, LABEL) > KnownLabelLoss("dice_ce")(SCORES, LABEL) + 0.1


def test_voxels_of_a_class_that_was_not_annotated_cost_nothing():
    label, scores = LABEL.clone(), SCORES.clone().requires_grad_()
    label[:, :, 3:] = 2
    KnownLabelLoss("dice_ce", NO_SECOND)(scores, label).backward()
    assert scores.grad[:, :, 3:].abs().max() == 0
    assert scores.grad[:, :, :3].abs().max() > 0
