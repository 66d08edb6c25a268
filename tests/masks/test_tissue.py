"""The tissue mask hides tissue before air, but never all of it."""

import numpy as np
import pytest
import torch

from medmim.errors import ShapeError, UsageError
from medmim.masks import build_mask, tissue_share


def generator():
    return torch.Generator().manual_seed(0)


def half(batch=16):
    """Weights of 10×10 cells whose first five rows are tissue."""
    weight = torch.zeros(batch, 10, 10)
    weight[:, :5] = 1
    return weight


@pytest.mark.parametrize("rule", ["mesh", "random", "block", "square"])
@pytest.mark.parametrize(
    ("ratio", "tissue", "air"), [(0.3, 30, 0), (0.45, 45, 0), (0.7, 45, 25), (0.97, 47, 50)]
)
def test_tissue_is_hidden_first_then_air_then_the_remaining_tissue(rule, ratio, tissue, air):
    mask = build_mask("tissue", ratio=ratio, rule=rule)
    hidden = mask.sample(16, (10, 10), generator=generator(), weight=half())
    assert hidden[:, :5].flatten(1).sum(dim=1).tolist() == [tissue] * 16
    assert hidden[:, 5:].flatten(1).sum(dim=1).tolist() == [air] * 16


def test_tissue_cells_are_hidden_in_the_order_of_the_rule():
    rule = build_mask("mesh", ratio=0.5)
    plain = rule.sample(16, (10, 10), generator=generator())
    hidden = build_mask("tissue", ratio=0.25, rule="mesh").sample(
        16, (10, 10), generator=generator(), weight=half()
    )
    assert not hidden[:, 5:].any()
    # half of the tissue, by ranks whose upper half is a checkerboard or evenly spread
    assert plain.shape == hidden.shape
    assert (hidden[:, :5].float().mean(dim=(1, 2)) == 0.5).all()


def test_without_weights_it_equals_its_rule():
    for rule in ("mesh", "block"):
        plain = build_mask(rule, ratio=0.6).sample(8, (7, 7), generator=generator())
        assert torch.equal(
            plain, build_mask("tissue", ratio=0.6, rule=rule).sample(8, (7, 7), generator=generator())
        )


def test_with_only_tissue_or_only_air_it_equals_its_rule():
    plain = build_mask("mesh", ratio=0.6).sample(8, (7, 7), generator=generator())
    for weight in (torch.ones(8, 7, 7), torch.zeros(8, 7, 7)):
        hidden = build_mask("tissue", ratio=0.6).sample(8, (7, 7), generator=generator(), weight=weight)
        assert torch.equal(hidden, plain)


def test_weights_apply_per_sample():
    weight = half(2)
    weight[1] = weight[1].flip(0)
    hidden = build_mask("tissue", ratio=0.4).sample(2, (10, 10), generator=generator(), weight=weight)
    assert (hidden & (weight == 0)).sum() == 0


def test_weighted_cells_are_hidden_in_proportion_to_their_weight():
    weight = torch.tensor([[[1.0, 2.0, 4.0, 8.0]]]).expand(20000, 1, 4)
    mask = build_mask("tissue", ratio=0.25, weighted=True, most=1.0)
    share = mask.sample(20000, (1, 4), generator=generator(), weight=weight).float().mean(dim=0)[0]
    np.testing.assert_allclose(share, np.array([1, 2, 4, 8]) / 15, atol=0.015)


def test_cells_below_the_tissue_threshold_are_air():
    weight = half() * 0.9 + 0.05
    hidden = build_mask("tissue", ratio=0.3, least=0.1).sample(
        16, (10, 10), generator=generator(), weight=weight
    )
    assert not hidden[:, 5:].any()


@pytest.mark.parametrize("option", ["least", "most"])
def test_shares_out_of_range_are_rejected(option):
    with pytest.raises(
        UsageError, match=f"^mask 'tissue', option {option}: expected a number above 0 and up to 1, got 2$"
    ):
        build_mask("tissue", ratio=0.5, **{option: 2.0})


def test_rule_and_weighted_together_are_rejected():
    with pytest.raises(
        UsageError, match=r"^mask 'tissue': expected one of the options rule, weighted, got both$"
    ):
        build_mask("tissue", ratio=0.5, rule="block", weighted=True)


@pytest.mark.parametrize("space", [(6, 8), (4, 6, 8)], ids=str)
def test_the_tissue_share_is_the_mean_over_each_cell(space):
    images = torch.randn(3, 2, *space, generator=generator())
    share = tissue_share(images, tuple(length // 2 for length in space))
    for sample in range(3):
        flat = images[sample].flatten(1)
        low, high = flat.min(dim=1).values, flat.max(dim=1).values
        tissue = np.zeros(space)
        for place in np.ndindex(space):
            voxel = images[sample][(slice(None), *place)]
            tissue[place] = bool((voxel > low + 0.1 * (high - low)).any())
        for cell in np.ndindex(tuple(share.shape[1:])):
            block = tissue[tuple(slice(2 * n, 2 * n + 2) for n in cell)]
            assert share[(sample, *cell)].item() == pytest.approx(block.mean())


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (250.0, -1000.0)])
def test_the_tissue_share_is_invariant_to_intensity_scale(scale, offset):
    image = torch.zeros(1, 1, 8, 8)
    image[..., 2:6, 2:6] = 1.0
    share = tissue_share(image * scale + offset, (4, 4))
    assert share.sum() == 4
    assert (share[:, 1:3, 1:3] == 1).all()


def test_a_constant_image_has_no_tissue():
    assert tissue_share(torch.full((1, 1, 8, 8), 5.0), (2, 2)).sum() == 0


def test_cells_that_do_not_divide_the_image_are_rejected():
    with pytest.raises(
        ShapeError, match=r"^image of 9×8 voxels does not divide into mask cells of 2×2: use --size"
    ):
        tissue_share(torch.zeros(1, 1, 9, 8), (4, 4))
