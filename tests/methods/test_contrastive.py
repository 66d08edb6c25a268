"""The contrastive method: loss against its formula, teacher, queue."""

import copy

import numpy as np
import pytest
import torch

from medmim.encoders import build_encoder, mask
from medmim.errors import UsageError
from medmim.masks import build_mask
from medmim.methods import build_method
from medmim.methods.contrastive import Queue, info_nce
from medmim.methods.visible_encoding import pooled

CELL = 4
both_dims = pytest.mark.parametrize("dims", [2, 3])


def build(dims, **options):
    torch.manual_seed(0)
    encoder = build_encoder("dynunet", spatial_dims=dims, in_channels=1, filters=(4, 6, 8))
    return build_method("contrastive", encoder=encoder, spatial_dims=dims, cell=(CELL,) * dims, **options)


def batch_for(dims, *, pairs=3):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2 * pairs, 1, *[8] * dims, generator=generator)
    return images, build_mask("mesh", ratio=0.5).sample(2 * pairs, (2,) * dims, generator=generator)


def unit(count, seed):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, 5))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("extra", [0, 4])
def test_info_nce_equals_the_formula(extra):
    asked, given, others = unit(6, 0), unit(6, 1), unit(extra, 2)
    partner = [3, 4, 5, 0, 1, 2]
    losses = []
    for i in range(6):
        candidates = {j: asked[i] @ given[j] for j in range(6) if j != i}
        rest = [asked[i] @ row for row in others]
        total = sum(np.exp(value / 0.2) for value in [*candidates.values(), *rest])
        losses.append(-np.log(np.exp(candidates[partner[i]] / 0.2) / total))
    tensors = (torch.from_numpy(rows) for rows in (asked, given, others))
    views = {"own": torch.arange(6), "partner": torch.tensor(partner)}
    loss, _ = info_nce(*(one.float() for one in tensors), **views, temperature=0.2)
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_view_is_never_its_own_positive():
    rows = torch.eye(4)
    views = {"own": torch.arange(4), "partner": torch.tensor([2, 3, 0, 1])}
    loss, _ = info_nce(rows, rows, rows[:0], **views, temperature=0.1)
    assert loss.item() == pytest.approx(np.log(3))  # three candidates, all equally unlike


@both_dims
def test_pools_over_visible_voxels_only_and_counts_may_differ(dims):
    encoder = build(dims).encoder
    images, hidden = batch_for(dims)
    hidden[0] = True
    hidden[0, *[0] * dims] = False
    features = encoder(mask(images, hidden))[-1].unpack()
    found = pooled(encoder, images, hidden, compute="packed")
    for sample in range(len(images)):
        seen = ~hidden[sample]
        for axis in range(dims):
            seen = seen.repeat_interleave(features.shape[axis + 2] // hidden.shape[axis + 1], dim=axis)
        torch.testing.assert_close(found[sample], features[sample][:, seen].mean(dim=1), rtol=1e-3, atol=1e-4)


@both_dims
def test_the_teacher_gets_no_gradient_and_is_updated(dims):
    method = build(dims)
    before = copy.deepcopy(method.encoder_teacher.state_dict())
    method(*batch_for(dims)).loss.backward()
    teachers = [*method.encoder_teacher.parameters(), *method.project_teacher.parameters()]
    assert all(parameter.grad is None for parameter in teachers)
    with torch.no_grad():
        for parameter in method.encoder.parameters():
            parameter.add_(1)
    method.on_step_end(0.0)
    for key, value in method.encoder_teacher.state_dict().items():
        torch.testing.assert_close(value, before[key] + 0.01, rtol=1e-4, atol=1e-5)


def test_shared_weights_have_no_teacher_and_gradients_through_both_views():
    method = build(2, teacher="shared")
    assert all(parameter.requires_grad for parameter in method.parameters())
    assert method.axes["architecture"] == "shared weights"
    images, hidden = batch_for(2)
    images.requires_grad_()
    method(images, hidden).loss.backward()
    assert images.grad.flatten(1).any(dim=1).all()


def test_embeddings_enter_the_queue_after_the_step_only():
    method = build(2, queue=8)
    images, hidden = batch_for(2)
    first = method(images, hidden).loss
    method.discard_pending()  # of a step that is not taken
    assert torch.equal(method(images, hidden).loss, first)
    assert method.others.all().shape == (0, 128)
    method.on_step_end(0.0)
    assert method.others.all().shape == (6, 128)
    assert method(images, hidden).loss > first  # more candidates
    method.eval()
    method(images[:2], hidden[:2])
    method.on_step_end(0.0)
    assert method.others.all().shape == (8, 128)  # of the last training step; evaluation leaves no trace


def test_the_queue_keeps_the_newest():
    queue = Queue(3, 1)
    for start in (0, 2):
        queue.add(torch.tensor([[start + 1.0], [start + 2.0]]))
        queue.commit()
    assert queue.all().flatten().tolist() == [3, 4, 1]
    queue.commit()
    assert queue.all().flatten().tolist() == [3, 4, 1]


def test_all_batches_of_a_step_enter_the_queue():
    queue = Queue(5, 1)
    for start in (0, 2):
        queue.add(torch.tensor([[start + 1.0], [start + 2.0]]))
    queue.commit()
    assert queue.all().flatten().tolist() == [3, 4, 1, 2]


def test_discarded_embeddings_do_not_enter_the_queue():
    queue = Queue(2, 1)
    queue.add(torch.tensor([[float("nan")]]))
    queue.discard_pending()
    queue.commit()
    assert len(queue.all()) == 0


def test_the_queue_is_part_of_the_state():
    method, other = build(2), build(2)
    method(*batch_for(2))
    method.on_step_end(0.0)
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.others.all(), method.others.all())


@both_dims
def test_packed_and_masked_agree(dims):
    images, hidden = batch_for(dims)
    packed, masked = (build(dims, compute=word)(images, hidden).loss for word in ("packed", "masked"))
    torch.testing.assert_close(packed, masked, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": "emma"}, r"unknown teacher 'emma'; did you mean 'ema'\?"),
        ({"temperature": 0.0}, r"expected a temperature above 0 .* got 0 and 256"),
        ({"queue": -1}, "got 0.1 and -1"),
    ],
)
def test_invalid_options_are_rejected(options, message):
    with pytest.raises(UsageError, match=message):
        build(2, **options)
