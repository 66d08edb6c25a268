"""VoCo: overlaps of crops, and the losses of the official code."""

import pytest
import torch

from medmim.encoders import build_encoder
from medmim.errors import ShapeError, UsageError
from medmim.methods import build_method
from medmim.methods.voco import base_starts, discrepancy_loss, overlap_loss, overlap_shares, random_starts


def build(dims=2, **options):
    torch.manual_seed(0)
    encoder = build_encoder("dynunet", spatial_dims=dims, in_channels=1, filters=(4, 8))
    return build_method("voco", encoder=encoder, spatial_dims=dims, cell=(4,) * dims, **options)


@pytest.mark.parametrize(("space", "bases"), [((64, 48), (4, 4)), ((32, 32, 16), (4, 2, 1))])
def test_overlaps_are_the_counted_voxels(space, bases):
    side = tuple(n // count for n, count in zip(space, bases, strict=True))
    starts = random_starts(space, side, 5, torch.Generator().manual_seed(0))
    shares = overlap_shares(starts, base_starts(side, bases), side)
    for start, row in zip(starts.tolist(), shares, strict=True):
        volume = torch.zeros(space)
        volume[tuple(slice(a, a + n) for a, n in zip(start, side, strict=True))] = 1
        for base, share in zip(base_starts(side, bases).tolist(), row, strict=True):
            window = volume[tuple(slice(a, a + n) for a, n in zip(base, side, strict=True))]
            assert share == pytest.approx(float(window.mean()))
    assert torch.allclose(shares.sum(dim=1), torch.ones(5))  # base crops cover the image


def test_the_overlap_loss_equals_the_formula_of_the_official_code():
    generator = torch.Generator().manual_seed(0)
    similarity = torch.rand(1, 2, 4, generator=generator)
    overlap = torch.tensor([[[0.75, 0.25, 0.0, 0.0], [0.0, 0.5, 0.0, 0.5]]])
    near = far = 0.0
    for label, value in zip(overlap.flatten().tolist(), similarity.flatten().tolist(), strict=True):
        near -= label * torch.tensor(1 - abs(label - value) + 1e-6).log().item()
        far += value**2 if label == 0 else 0
    assert overlap_loss(similarity, overlap).item() == pytest.approx(near / 2 + far / 4, rel=1e-5)


def test_similar_base_crops_are_penalised_and_opposite_ones_are_not():
    one = torch.tensor([1.0, 0.0])
    assert discrepancy_loss(torch.stack([one, one]).unsqueeze(0)) == 1
    assert discrepancy_loss(torch.stack([one, -one]).unsqueeze(0)) == 0
    three = torch.stack([one, one, torch.tensor([0.0, 1.0])]).unsqueeze(0)
    assert discrepancy_loss(three).item() == pytest.approx(1 / 3)


@pytest.mark.parametrize(("dims", "crops"), [(2, 18), (3, 18)])
def test_student_and_teacher_see_base_crops_and_random_crops(dims, crops):
    method, seen = build(dims), []
    for network in (method.encoder, method.encoder_teacher.network):
        network.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    method(torch.randn(2, 1, *[32] * dims), torch.rand(2, *[8] * dims) < 0.5)
    assert seen == [(2 * crops, 1, *(8, 8, 32)[:dims])] * 2


def test_a_perfect_prediction_has_no_overlap_loss():
    overlap = torch.tensor([[[1.0, 0.0]]])
    assert overlap_loss(overlap, overlap).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("options", [{"bases": 1}, {"crops": 0}, {"width": 0}])
def test_impossible_numbers_are_rejected(options):
    with pytest.raises(
        UsageError, match=r"^method_options: expected at least two bases, and crops and width"
    ):
        build(**options)


def test_an_image_smaller_than_its_base_crops_is_rejected():
    with pytest.raises(ShapeError, match="image of 4×4 voxels: expected at least one per base crop"):
        build(bases=8)(torch.randn(2, 1, 4, 4), torch.zeros(2, 1, 1, dtype=torch.bool))
