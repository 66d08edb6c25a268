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


MEMBERS = torch.tensor([[False, True, True], [False, False, True]])


@pytest.mark.parametrize("criterion", ["dice_ce", "dice_focal"])
def test_regions_have_the_dice_of_their_masks_and_the_cross_entropy_of_classes(criterion):
    masks = torch.cat([LABEL > 0, LABEL == 2], dim=1).float()
    shares = SCORES.softmax(dim=1)
    inside = torch.stack([shares[:, 1:].sum(dim=1), shares[:, 2]], dim=1)
    axes = (0, 2, 3)
    dice = 2 * (inside * masks).sum(axes) / (inside.sum(axes) + masks.sum(axes) + 1e-5)
    every = torch.cat([LABEL == 0, LABEL == 1, LABEL == 2], dim=1).float()
    of_classes = 2 * (shares * every).sum(axes) / (shares.sum(axes) + every.sum(axes) + 1e-5)
    other = float(KnownLabelLoss(criterion)(SCORES, LABEL)) - float((1 - of_classes[1:]).mean())
    loss = KnownLabelLoss(criterion, regions=MEMBERS)(SCORES, LABEL)
    assert float(loss) == pytest.approx(float((1 - dice).mean()) + other, abs=1e-4)


def test_ignored_voxels_of_regions_cost_nothing():
    label = LABEL.clone()
    label[..., 3:] = 255
    loss = KnownLabelLoss("dice_ce", regions=MEMBERS)
    whole = loss(SCORES, label)
    assert whole == pytest.approx(float(loss(SCORES[..., :3], label[..., :3])), abs=1e-5)
    scores = SCORES.clone().requires_grad_()
    loss(scores, label).backward()
    assert scores.grad[..., 3:].abs().max() == 0
    assert torch.isfinite(loss(SCORES, torch.full_like(LABEL, 255)))


def test_background_may_be_a_class_of_a_region_that_was_not_annotated():
    """Where it is predicted instead of the background costs nothing; an annotated class does."""
    label, loss = torch.where(LABEL == 1, 1.0, 0.0), KnownLabelLoss("dice_ce", NO_SECOND, MEMBERS)
    first, second, none = (_certain(number) for number in (1, 2, 0))
    background = (label == 0).expand_as(SCORES)
    with_second = torch.where(background, second, first)
    assert loss(with_second, label) == pytest.approx(float(loss(torch.where(background, none, first), label)))
    assert loss(first, label) > loss(with_second, label) + 0.1


def _certain(number):
    """Return logits that predict one class everywhere."""
    scores = torch.full_like(SCORES, -9.0)
    scores[:, number] = 9.0
    return scores
