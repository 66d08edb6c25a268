import pytest
import torch

from medmim.training.tasks.known_label_loss import KnownLabelLoss, KnownRegionLoss

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


MEMBERS = torch.tensor([[False, True, True], [False, False, True]])
REGION_SCORES = SCORES[:, 1:]


@pytest.mark.parametrize("criterion", ["dice_ce", "dice_focal"])
def test_the_loss_of_regions_is_that_of_their_masks(criterion):
    masks = torch.cat([LABEL > 0, LABEL == 2], dim=1).float()
    inside = torch.sigmoid(REGION_SCORES)
    axes = (0, 2, 3)
    dice = 2 * (inside * masks).sum(axes) / (inside.sum(axes) + masks.sum(axes) + 1e-5)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(REGION_SCORES, masks, reduction="none")
    other = entropy if criterion == "dice_ce" else entropy * (inside - masks).abs() ** 2
    expected = float((1 - dice).mean() + other.sum(dim=1).mean())  # the regions of a voxel are summed
    loss = KnownRegionLoss(criterion, MEMBERS)(REGION_SCORES, LABEL)
    assert float(loss) == pytest.approx(expected, abs=1e-4)


def test_ignored_voxels_of_regions_cost_nothing():
    label = LABEL.clone()
    label[..., 3:] = 255
    loss = KnownRegionLoss("dice_ce", MEMBERS)
    whole = loss(REGION_SCORES, label)
    assert whole == pytest.approx(float(loss(REGION_SCORES[..., :3], label[..., :3])), abs=1e-5)
    scores = REGION_SCORES.clone().requires_grad_()
    loss(scores, label).backward()
    assert scores.grad[..., 3:].abs().max() == 0
    assert torch.isfinite(loss(REGION_SCORES, torch.full_like(LABEL, 255)))


def test_background_costs_nothing_in_regions_of_a_class_that_was_not_annotated():
    scores = REGION_SCORES.clone().requires_grad_()
    annotated = torch.tensor([[True, False, True]] * 2)
    label = torch.where(LABEL == 1, 2.0, 0.0)
    KnownRegionLoss("dice_ce", MEMBERS, annotated)(scores, label).backward()
    background = (label == 0).expand_as(scores)
    assert scores.grad[:, 0][background[:, 0]].abs().max() == 0
    assert scores.grad[:, 0][~background[:, 0]].abs().max() > 0
    assert scores.grad[:, 1][background[:, 1]].abs().max() > 0
