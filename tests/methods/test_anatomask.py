"""AnatoMask: the cells with the largest errors stay hidden, counts are kept, the share follows progress."""

import pytest
import torch

from medmim.encoders import build_encoder
from medmim.errors import UsageError
from medmim.masks import build_mask
from medmim.methods import build_method
from medmim.methods.anatomask import harder_masks

both_dims = pytest.mark.parametrize("dims", [2, 3])


def build(name="anatomask", **options):
    torch.manual_seed(0)
    encoder = build_encoder("dynunet", spatial_dims=2, in_channels=1, filters=(4, 8))
    return build_method(name, encoder=encoder, spatial_dims=2, cell=(4, 4), **options)


def batch():
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(3, 1, 24, 24, generator=generator)
    return images, build_mask("random", ratio=0.6).sample(3, (6, 6), generator=generator)


@both_dims
@pytest.mark.parametrize("rule", ["mesh", "random", "square"])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_hidden_cells_with_the_largest_errors_stay_hidden_and_the_count_is_kept(dims, rule, share):
    generator = torch.Generator().manual_seed(0)
    hidden = build_mask(rule, ratio=0.6).sample(4, (6,) * dims, generator=generator)
    errors = torch.rand(hidden.shape, generator=generator)
    harder = harder_masks(hidden, errors, share=share)
    for before, after, error in zip(hidden, harder, errors, strict=True):
        count = int(before.sum())
        assert int(after.sum()) == count
        hardest = error.masked_fill(~before, -1).flatten().argsort(descending=True)[: int(share * count)]
        assert after.flatten()[hardest].all()
    if share == 1:
        assert torch.equal(harder, hidden)
    else:
        assert not torch.equal(harder, hidden)
        mirrored = hidden.flip(list(range(1, hidden.dim())))
        assert (harder & ~mirrored).sum() <= share * hidden.sum()


def test_the_first_step_and_evaluation_are_those_of_spark():
    method, spark = build(), build("spark")
    images, hidden = batch()
    assert torch.equal(method(images, hidden).loss, spark(images, hidden).loss)
    method.on_step_end(1.0)
    assert torch.equal(method.eval()(images, hidden).loss, spark.eval()(images, hidden).loss)


def test_training_late_in_the_schedule_hides_what_the_teacher_restores_badly():
    method = build()
    images, hidden = batch()
    images[:, :, :8] *= 20  # the upper cells are hard to restore without normalisation
    method = build(target="raw")
    method.on_step_end(1.0)
    errors = method._teacher_errors(images, hidden)
    harder = harder_masks(hidden, errors, share=0.5)
    assert harder[:, :2].float().mean() > hidden[:, :2].float().mean()
    assert method(images, hidden).loss > build("spark", target="raw")(images, hidden).loss


def test_a_share_above_one_is_rejected():
    with pytest.raises(UsageError, match=r"^method_options: expected hardest from 0 to 1, got 2$"):
        build(hardest=2.0)
