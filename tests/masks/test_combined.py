"""The combined mask chooses one of several masks for each sample."""

import pytest
import torch
from scipy import ndimage

from medmim.errors import UsageError
from medmim.masks import build_mask


def draw(mask, grid=(12, 12), *, batch=400):
    return mask.sample(batch, grid, generator=torch.Generator().manual_seed(0))


def windows(hidden):
    """Share of the samples whose hidden cells form one connected component."""
    return sum(ndimage.label(sample.numpy())[1] == 1 for sample in hidden) / len(hidden)


def test_patch_and_grid_are_equally_likely_by_default():
    assert 0.4 < windows(draw(build_mask("combined", ratio=0.25))) < 0.6


@pytest.mark.parametrize(
    ("weights", "share"), [({"square": 3, "mesh": 1}, 0.75), ({"square": 0, "mesh": 1}, 0.0)]
)
def test_masks_are_chosen_in_proportion_to_their_weights(weights, share):
    hidden = draw(build_mask("combined", ratio=0.25, masks=weights))
    assert abs(windows(hidden) - share) < 0.06


def test_all_samples_of_a_batch_hide_the_same_count():
    mask = build_mask("combined", ratio=0.3, max_ratio=0.8, masks={"square": 1, "mesh": 1, "grid": 1})
    assert len(set(draw(mask).flatten(1).sum(dim=1).tolist())) == 1


def test_combined_and_tissue_masks_can_be_nested():
    mask = build_mask("combined", ratio=0.3, masks={"tissue": 1, "combined": 1})
    weight = torch.zeros(40, 8, 8)
    weight[:, :4] = 1
    hidden = mask.sample(40, (8, 8), generator=torch.Generator().manual_seed(0), weight=weight)
    in_tissue = hidden[:, :4].flatten(1).sum(dim=1) == hidden.flatten(1).sum(dim=1)
    assert 8 <= in_tissue.sum() <= 40


@pytest.mark.parametrize("masks", [{}, "mesh", ["mesh"], {"mesh": "much"}])
def test_options_other_than_weighted_names_are_rejected(masks):
    message = r"^mask option masks: expected names with weights, such as \{mesh: 2, random: 1\}$"
    with pytest.raises(UsageError, match=message):
        build_mask("combined", ratio=0.5, masks=masks)


@pytest.mark.parametrize("masks", [{"mesh": -1, "random": 2}, {"mesh": 0}, {"mesh": float("inf")}])
def test_invalid_weights_are_rejected(masks):
    message = "^mask 'combined', option masks: expected weights of at least 0, not all 0, got "
    with pytest.raises(UsageError, match=message):
        build_mask("combined", ratio=0.5, masks=masks)


def test_unknown_masks_are_rejected_with_a_suggestion():
    with pytest.raises(UsageError, match=r"^unknown mask 'mehs'; did you mean 'mesh'\?$"):
        build_mask("combined", ratio=0.5, masks={"mehs": 1})
