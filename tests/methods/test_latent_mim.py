"""Latent MIM: targets, similarity constraint, non-contiguous patches, options."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from medmim.encoders import build_encoder
from medmim.encoders.patch_tokens import select_patches
from medmim.errors import ShapeError, UsageError
from medmim.masks import build_mask
from medmim.methods import build_method
from medmim.methods.latent_mim import crop_patches
from medmim.methods.latent_objectives import LATENT_TARGETS, OBJECTIVES
from medmim.methods.token_decoder import DECODERS

every_target = pytest.mark.parametrize("target", sorted(LATENT_TARGETS))
both_dims = pytest.mark.parametrize("dims", [2, 3])
SMALL = {"projector": 16, "decoder": {"cross": {"width": 32, "depth": 1}}}


def build(dims=2, *, cell=4, vit=(), **options):
    torch.manual_seed(0)
    sizes = {"patch": 4, "width": 24, "depth": 2, "heads": 2, **dict(vit)}
    encoder = build_encoder("vit", spatial_dims=dims, in_channels=1, **sizes)
    words = {**SMALL, **options}
    return build_method("latent_mim", encoder=encoder, spatial_dims=dims, cell=(cell,) * dims, **words)


def batch_for(dims=2, *, cell=4):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 1, *[4 * cell] * dims, generator=generator)
    return images, build_mask("random", ratio=0.6).sample(2, (4,) * dims, generator=generator)


@every_target
@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
@pytest.mark.parametrize("decoder", sorted(DECODERS))
@both_dims
def test_every_choice_trains_every_parameter(target, objective, decoder, dims):
    method = build(dims, target=target, objective=objective, decoder=decoder)
    step = method(*batch_for(dims))
    step.loss.backward()
    for place, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad.any(), place
    cosines = {"cosine_predictions", "cosine_visible", "cosine_targets"}
    assert set(step.parts) == cosines | {"hidden_error"}
    assert all(-1 <= step.parts[name] <= 1 for name in cosines)
    assert step.parts["hidden_error"] > 0.1  # nothing is known yet


@every_target
@pytest.mark.parametrize("whole", [False, True])
def test_only_the_joint_target_passes_gradients(target, whole):
    method = build(target={target: {"whole": whole}})
    images, hidden = batch_for()
    latents = method.target(method.encoder, method.projector, images, select_patches(hidden))
    assert latents.requires_grad == (target == "joint")


@every_target
def test_all_targets_are_equal_at_first_and_only_the_average_lags(target):
    method, reference = build(target=target), build(target="stop_gradient")
    images, hidden = batch_for()
    wanted = select_patches(hidden)
    before = method.target(method.encoder, method.projector, images, wanted)
    assert torch.equal(before, reference.target(reference.encoder, reference.projector, images, wanted))
    with torch.no_grad():
        for parameter in [*method.encoder.parameters(), *method.projector.parameters()]:
            parameter.add_(0.1 * torch.randn_like(parameter))
    after = method.target(method.encoder, method.projector, images, wanted)
    assert torch.equal(before, after) == (target == "ema")


@every_target
def test_the_target_sees_hidden_patches_only_by_default(target):
    images, hidden = batch_for()
    covered = hidden.repeat_interleave(4, 1).repeat_interleave(4, 2).unsqueeze(1)
    repainted = torch.where(covered, images, torch.randn_like(images))
    for whole in (False, True):
        method = build(target={target: {"whole": whole}})
        first, second = (
            method.target(method.encoder, method.projector, x, select_patches(hidden))
            for x in (images, repainted)
        )
        assert torch.equal(first, second) != whole


def test_encoder_and_projector_both_have_an_updated_average():
    method = build()
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
    before = {place: value.clone() for place, value in method.target.named_parameters()}
    method.on_step_end(0.0)
    for place, value in method.target.named_parameters():
        torch.testing.assert_close(value - before[place], torch.full_like(value, 0.01), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("progress", "held"), [(0.0, 0.75), (0.5, 0.5), (1.0, 0.25)])
def test_the_constraint_follows_its_cosine_schedule(progress, held):
    images, hidden = batch_for()
    method, plain = build(similarity=0.3), build(similarity=0.0)
    method.on_step_end(progress), plain.on_step_end(progress)
    step = method(images, hidden)
    constraint = sum((step.parts[name] - held) ** 2 for name in ("cosine_predictions", "cosine_visible"))
    assert (step.loss - plain(images, hidden).loss).item() == pytest.approx(0.3 * constraint.item(), abs=1e-5)


def test_the_progress_is_part_of_the_state():
    method, other = build(), build()
    method.on_step_end(0.625)
    other.load_state_dict(method.state_dict())
    assert other.progress.item() == 0.625


@both_dims
def test_a_cell_larger_than_a_patch_leaves_a_gap(dims):
    method = build(dims, cell=6)
    images, hidden = batch_for(dims, cell=6)
    seen = []
    method.encoder.patches.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    first = method(images, hidden).loss
    assert {tuple(x.shape[2:]) for x in seen} == {(16,) * dims}
    assert all(torch.equal(x, seen[0]) for x in seen)  # target and encoder see the same patches
    assert torch.equal(method(images, hidden).loss, first)


def test_a_cell_of_several_patches_has_no_gap():
    method, seen = build(cell=8), []
    method.encoder.patches.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    images, hidden = batch_for(cell=8)
    method(images, hidden)
    assert torch.equal(seen[0], images)


@pytest.mark.parametrize("cell", [3, 9])
def test_cells_that_are_neither_multiples_nor_patches_with_gaps_are_rejected(cell):
    message = (
        r"^mask cell of \d×\d voxels: expected a multiple of the encoder's patch, or a patch and a smaller "
    )
    with pytest.raises(ShapeError, match=message):
        build(cell=cell)


def test_the_projector_is_three_layers_without_bias_that_end_in_a_norm():
    layers = list(build(projector=16).projector)
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(24, 16), (16, 16), (16, 24)]
    assert all(layer.bias is None for layer in linear)
    assert isinstance(layers[-1], nn.LayerNorm)
    assert isinstance(build(projector=0).projector, nn.Identity)
    assert build(projector=None).projector[0].out_features == 96


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"target": "emma"}, r"^unknown target 'emma'; did you mean 'ema'\?$"),
        ({"objective": "info"}, r"^unknown objective 'info'; did you mean 'infonce'\?$"),
        ({"decoder": "crosss"}, r"^unknown decoder 'crosss'; did you mean 'cross'\?$"),
        (
            {"objective": {"infonce": {"temperature": 1}}},
            r"^objective 'infonce' does not take .*; known: tau$",
        ),
        ({"similarity": -1.0}, r"^method_options: expected similarity and projector of at least 0$"),
    ],
)
def test_invalid_choices_are_rejected(words, message):
    with pytest.raises(UsageError, match=message):
        build(**words)


def test_the_axes_name_the_choices():
    axes = build(target="joint", objective="mse", decoder="self").axes
    assert axes["target"] == "joint latents"
    assert axes["objective"] == "latent MSE"
    assert axes["architecture"] == "ViT on visible patches, self-attention decoder"


def test_the_initial_loss_is_that_of_guessing():
    loss = build(similarity=0.0)(*batch_for()).loss.item()
    assert loss == pytest.approx(2 * 0.2 * math.log(10), rel=0.5)  # ten hidden patches


def test_embeddings_have_no_weight_decay_on_request():
    assert build().undecayed == ()
    method = build(embedding_decay=False)
    assert [name for name, one in method.named_parameters() if any(one is p for p in method.undecayed)] == [
        "encoder.patches.weight",
        "decoder.embed.weight",
    ]


def test_the_cross_decoders_token_starts_at_zero_and_decoders_share_the_encoders_options():
    method = build(vit={"norm_eps": 1e-6, "position_stretch": True})
    assert not method.decoder.token.any()
    assert method.decoder.stretch
    assert {norm.eps for norm in method.modules() if isinstance(norm, torch.nn.LayerNorm)} == {1e-5, 1e-6}
    assert {norm.eps for norm in method.decoder.modules() if isinstance(norm, torch.nn.LayerNorm)} == {1e-6}


def cut(grid, cell, patch, *, seed=0):
    """Images whose voxels are their own numbers, and what is cut out of them."""
    space = [g * c for g, c in zip(grid, cell, strict=True)]
    count = int(np.prod(space))
    images = torch.arange(2.0 * 2 * count).reshape(2, 2, *space)
    hidden = torch.rand(2, *grid, generator=torch.Generator().manual_seed(seed)) < 0.5
    return images, crop_patches(images, hidden, cell=cell, patch=patch)


@pytest.mark.parametrize(
    ("grid", "cell", "patch"),
    [((3, 4), (5, 5), (4, 4)), ((2, 3), (7, 4), (4, 4)), ((2, 3, 2), (6, 5, 5), (4, 4, 3))],
)
def test_each_patch_is_one_window_of_its_cell(grid, cell, patch):
    images, apart = cut(grid, cell, patch)
    assert apart.shape == (2, 2, *[g * p for g, p in zip(grid, patch, strict=True)])
    seen = [set() for _ in grid]
    for sample in range(2):
        for place in np.ndindex(*grid):
            window = apart[
                (sample, slice(None), *[slice(p * i, p * (i + 1)) for i, p in zip(place, patch, strict=True)])
            ]
            first = int(window[0].flatten()[0]) % int(np.prod(images.shape[2:]))
            start = np.unravel_index(first, images.shape[2:])
            offsets = [s - c * i for s, c, i in zip(start, cell, place, strict=True)]
            for axis, offset in enumerate(offsets):
                assert 0 <= offset < max(cell[axis] - patch[axis], 1)
                seen[axis].add(int(offset))
            there = tuple(slice(s, s + p) for s, p in zip(start, patch, strict=True))
            assert torch.equal(window, images[(sample, slice(None), *there)])
    for axis, offsets in enumerate(seen):
        assert len(offsets) == max(cell[axis] - patch[axis], 1)


def test_equal_masks_give_equal_crops_and_others_differ():
    first, again, other = (cut((4, 4), (6, 6), (4, 4), seed=seed)[1] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_global_random_state_is_not_changed():
    before = torch.get_rng_state()
    cut((3, 3), (6, 6), (4, 4))
    assert torch.equal(torch.get_rng_state(), before)
