"""Contract of every method of the table, with every mask, in 2D and 3D.

Each promise would have caught a defect of published code: hidden voxels that the first convolution sees, all
samples masked like the last, statistics of one sample mixed with another's, a loss on visible cells, settings
that nothing reads.
"""

import copy
from inspect import signature

import pytest
import torch

from medmim.encoders import build_encoder
from medmim.errors import MedmimError, ShapeError, UsageError
from medmim.masks import MASKS, build_mask
from medmim.methods import METHODS, ON_PATCHES, Step, build_method
from medmim.methods.ema_teacher import EMATeacher
from medmim.methods.mask_any_net import Supervision
from medmim.methods.reconstruction import TARGETS

ON_OTHERS = ["contrastive on vit", "contrastive on swin", "mask_any_net on vit", "simmim on swin"]
NAMES = [*sorted(METHODS), *ON_OTHERS]
every_method = pytest.mark.parametrize("name", NAMES)
every_target = pytest.mark.parametrize("target", sorted(TARGETS))
every_reconstruction = pytest.mark.parametrize(
    "name", ["anatomask", "dense_mae", "mae", "mim_contrast", "simmim", "simmim on swin", "spark"]
)
both_dims = pytest.mark.parametrize("dims", [2, 3])
CELL = 4
# two views of two images make a batch of four: with fewer, nothing could be told apart
BATCH = 4


# small encoders; a mask cell holds several patches
ENCODER_OPTIONS = {
    "dynunet": {"filters": (4, 8, 16)},
    "swin": {"patch": 2, "width": 12, "depths": (2, 2), "heads": (2, 3), "window": 2},
    "vit": {"width": 24, "depth": 2, "heads": 2},
}


def build(name, dims, *, channels=1, vit_patch=2, **options):
    """A method, or `method on encoder`, around a small encoder."""
    torch.manual_seed(0)
    method, _, encoder = name.partition(" on ")
    chosen = encoder or ("vit" if method in ON_PATCHES else "dynunet")
    words = {**ENCODER_OPTIONS[chosen], **({"patch": vit_patch} if chosen == "vit" else {})}
    network = build_encoder(chosen, spatial_dims=dims, in_channels=channels, **words)
    return build_method(method, encoder=network, spatial_dims=dims, cell=(CELL,) * dims, **options)


def batch_for(dims, *, rule="mesh", ratio=0.6, channels=1, space=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(BATCH, channels, *[space] * dims, generator=generator)
    grid = (space // CELL,) * dims
    return images, build_mask(rule, ratio=ratio).sample(BATCH, grid, generator=generator)


# what holds for the others, with their second branch or second view, is tested in files of their own
BLIND = [name for name in NAMES if (made := build(name, 2)).reconstructs and not made.sees_hidden_content]
every_blind_method = pytest.mark.parametrize("name", BLIND)


def each_with_masks(names):
    """Each method under mesh, and each other mask with one method: a method receives any mask as booleans."""
    others = [(names[turn % len(names)], rule) for turn, rule in enumerate(sorted(MASKS)) if rule != "mesh"]
    return pytest.mark.parametrize(("name", "rule"), [*((name, "mesh") for name in names), *others])


def covered(images, hidden):
    """True at hidden voxels, shaped as the images."""
    voxels = hidden
    for axis in range(1, hidden.dim()):
        voxels = voxels.repeat_interleave(CELL, dim=axis)
    return voxels.unsqueeze(1).expand_as(images)


def trained(method):
    """The parameters that training moves, with their names."""
    return [(place, p) for place, p in method.named_parameters() if p.requires_grad]


def remember(target):
    """Let a target go on giving what it gives first, whatever it is called with."""
    compute, kept = target.forward, []

    def forward(*inputs):
        if not kept:
            kept.append(compute(*inputs).detach())
        return kept[0]

    target.forward = forward


def train(method, images, hidden, *, steps, update_teacher=False, enough=0.0):
    """Take a few steps on one batch, after each of which teachers may follow, and return the losses.

    Training ends early once the loss is below the share `enough` of the first.
    """
    optimiser = torch.optim.Adam([p for _, p in trained(method)], lr=3e-3)
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = method(images, hidden).loss
        loss.backward()
        optimiser.step()
        if update_teacher:
            method.on_step_end(0.0)
        losses.append(loss.item())
        if losses[-1] < enough * losses[0]:
            break
    return losses


@each_with_masks(NAMES)
@both_dims
def test_the_loss_is_finite_and_its_gradient_reaches_every_parameter(name, rule, dims):
    channels = dims - 1
    method = build(name, dims, channels=channels)
    images, hidden = batch_for(dims, rule=rule, channels=channels)
    step = method(images, hidden)
    assert isinstance(step, Step)
    assert step.loss.shape == ()
    assert step.loss.dtype == torch.float32
    assert step.loss.isfinite()
    step.loss.backward()
    for place, parameter in trained(method):
        assert parameter.grad is not None, place
        assert parameter.grad.isfinite().all(), place
        assert parameter.grad.any(), place


@every_method
@both_dims
@pytest.mark.parametrize("ratio", [0.01, 0.99])
def test_trains_at_the_ends_of_the_ratio(name, dims, ratio):
    method = build(name, dims)
    step = method(*batch_for(dims, ratio=ratio))
    step.loss.backward()
    assert step.loss.isfinite()
    assert all(parameter.grad.isfinite().all() for _, parameter in trained(method))


@every_method
@both_dims
def test_a_constant_image_gives_a_finite_loss(name, dims):
    method = build(name, dims)
    images, hidden = batch_for(dims)
    step = method(torch.full_like(images, 3.0), hidden)
    step.loss.backward()
    assert step.loss.isfinite()
    assert all(parameter.grad.isfinite().all() for _, parameter in trained(method))


@each_with_masks(BLIND)
@both_dims
def test_hidden_content_reaches_the_loss_through_the_target_only(name, rule, dims):
    images, hidden = batch_for(dims, rule=rule)
    disturbed = images + 1e3 * torch.randn_like(images) * covered(images, hidden)
    method = build(name, dims)
    assert method(images, hidden).loss != method(disturbed, hidden).loss
    remember(method.target)
    assert torch.equal(method(images, hidden).loss, method(disturbed, hidden).loss)
    images.requires_grad_()
    method(images, hidden).loss.backward()
    assert not images.grad[covered(images, hidden)].any()
    assert images.grad[~covered(images, hidden)].any()


@each_with_masks(
    [name for name in NAMES if not ((made := build(name, 2)).reconstructs or made.sees_hidden_content)]
)
@both_dims
def test_hidden_content_of_a_view_has_no_effect(name, rule, dims):
    images, hidden = batch_for(dims, rule=rule)
    disturbed = images + 1e3 * torch.randn_like(images) * covered(images, hidden)
    method = build(name, dims)
    assert torch.equal(method(images, hidden).loss, method(disturbed, hidden).loss)
    images.requires_grad_()
    method(images, hidden).loss.backward()
    assert not images.grad[covered(images, hidden)].any()
    assert images.grad[~covered(images, hidden)].any()


@every_reconstruction
@every_target
@both_dims
def test_every_target_fits_every_reconstruction(name, target, dims):
    method = build(name, dims, channels=2, target=target)
    images, hidden = batch_for(dims, channels=2)
    disturbed = images + 10 * torch.randn_like(images) * covered(images, hidden)
    step = method(images, hidden)
    assert step.loss != method(disturbed, hidden).loss
    step.loss.backward()
    assert all(parameter.grad.any() for _, parameter in trained(method))
    assert not any(parameter.requires_grad for parameter in method.target.parameters())
    remember(method.target)
    assert torch.equal(method(images, hidden).loss, method(disturbed, hidden).loss)


@every_reconstruction
@every_target
@both_dims
def test_the_loss_covers_every_hidden_cell_and_no_other(name, target, dims):
    method = build(name, dims, target=target)
    images, hidden = batch_for(dims)
    values = method.target(images).requires_grad_()
    method.target.forward = lambda images: values
    method(images, hidden).loss.backward()
    patches = round((values.shape[1] / hidden[0].numel()) ** (1 / dims))  # of a mask cell, along each axis
    expected = hidden
    for axis in range(1, hidden.dim()):
        expected = expected.repeat_interleave(patches, dim=axis)
    assert torch.equal(values.grad.any(dim=-1), expected.flatten(1))


# the loss of Models Genesis covers visible cells too, and a contrast needs other samples
@pytest.mark.parametrize("name", [name for name in BLIND if name not in ("models_genesis", "mim_contrast")])
@both_dims
def test_samples_that_hide_unequal_counts_are_computed_as_if_alone(name, dims):
    method = build(name, dims, **({"similarity": 0.0} if name == "latent_mim" else {})).eval()
    images, hidden = (one[:2] for one in batch_for(dims))
    hidden[:] = False
    counts = torch.tensor([3, 9])
    for sample, count in enumerate(counts.tolist()):
        hidden[sample].view(-1)[torch.randperm(hidden[0].numel())[:count]] = True
    together = method(images, hidden).loss
    alone = [method(images[[sample]], hidden[[sample]]).loss for sample in range(2)]
    expected = (torch.stack(alone) * counts).sum() / counts.sum()
    torch.testing.assert_close(together, expected, rtol=1e-5, atol=1e-6)


@every_method
@both_dims
def test_samples_may_hide_unequal_counts(name, dims):
    method = build(name, dims)
    images, hidden = batch_for(dims)
    hidden[0] = True
    hidden[0].view(-1)[:2] = False
    step = method(images, hidden)
    step.loss.backward()
    assert step.loss.isfinite()
    assert all(parameter.grad.isfinite().all() for _, parameter in trained(method))


@every_method
@both_dims
def test_a_saved_state_continues_exactly(name, dims):
    method, twin = build(name, dims), build(name, dims)
    images, hidden = batch_for(dims)
    for number in range(3):
        train(method, images, hidden, steps=1)
        method.on_step_end((number + 1) / 4)
    twin.load_state_dict(method.state_dict())
    first, second = method(images, hidden), twin(images, hidden)
    assert torch.equal(first.loss, second.loss)
    assert not torch.equal(first.loss, build(name, dims)(images, hidden).loss)


@pytest.mark.parametrize("name", [*sorted(METHODS), "mae ema", "mask_any_net ema", "simmim ema", "spark ema"])
@both_dims
def test_on_step_end_updates_teachers_only_and_by_their_schedule(name, dims):
    name, _, target = name.partition(" ")
    method = build(name, dims, **({"target": target} if target else {}))
    train(method, *batch_for(dims), steps=1)
    before = {place: value.clone() for place, value in method.state_dict().items()}
    method.on_step_end(0.5)
    after = method.state_dict()
    teachers = {place: module for place, module in method.named_modules() if isinstance(module, EMATeacher)}
    assert teachers or not target
    for place, value in method.named_parameters():
        teacher = next((one for prefix, one in teachers.items() if place.startswith(f"{prefix}.")), None)
        if teacher is not None:
            momentum = teacher.momentum_at(0.5)
            assert momentum == pytest.approx(0.9 if name == "voco" else 0.995)  # constant; half-way to 1
            own = place.removeprefix("target.").removeprefix("goal.target.").replace("network.", "")
            student = own.replace("_teacher.", ".").replace("teacher.", "encoder.")
            expected = momentum * before[place] + (1 - momentum) * after[student]
            torch.testing.assert_close(value, expected)
            assert not torch.equal(value, after[student])
        else:
            assert torch.equal(value, before[place]), place


@every_method
@both_dims
def test_reconstructions_are_detached_images(name, dims):
    images, hidden = batch_for(dims)
    step = build(name, dims)(images, hidden)
    for picture in step.pictures.values():
        assert picture.shape == images.shape
        assert picture.isfinite().all()
        assert not picture.requires_grad
    assert not any(part.requires_grad for part in step.parts.values())


@every_method
@both_dims
def test_is_deterministic(name, dims):
    images, hidden = batch_for(dims)
    method = build(name, dims)
    twin = copy.deepcopy(method)
    torch.manual_seed(1)
    first = method(images, hidden)
    torch.manual_seed(2)
    second = twin(images, hidden)
    first.loss.backward(), second.loss.backward()
    assert torch.equal(first.loss, second.loss)
    for (place, ours), (_, theirs) in zip(trained(method), trained(twin), strict=True):
        assert torch.equal(ours.grad, theirs.grad), place


@every_method
@both_dims
def test_overfits_one_batch(name, dims):
    # a queue would hold the batch itself, as something to tell it apart from
    options = {"queue": 0} if "contrast" in name else {}
    method = build(name, dims, vit_patch=CELL, **options)
    images, hidden = batch_for(dims, space=16 if dims == 2 else 8)
    several = BATCH if method.views > 1 else 1
    if name == "volume_fusion":  # mixtures of noise with noise could not be told apart
        images[: BATCH // 2] += 5
    steps = 180 if name == "volume_fusion" else 60
    words = {"steps": steps, "update_teacher": method.views > 1, "enough": 0.5}
    losses = train(method, images[:several], hidden[:several], **words)
    assert losses[-1] < 0.5 * losses[0]


@every_method
@both_dims
def test_bf16_autocast_trains(name, dims):
    method = build(name, dims)
    images, hidden = batch_for(dims)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step = method(images, hidden)
    step.loss.backward()
    assert step.loss.dtype == torch.float32
    assert abs(step.loss - method(images, hidden).loss) < 0.05 * step.loss
    for place, parameter in trained(method):
        assert parameter.grad.dtype == torch.float32, place
        assert parameter.grad.isfinite().all(), place


@every_method
@both_dims
def test_inputs_are_not_modified(name, dims):
    images, hidden = batch_for(dims)
    before = images.clone(), hidden.clone()
    build(name, dims)(images, hidden).loss.backward()
    assert torch.equal(images, before[0])
    assert torch.equal(hidden, before[1])


@every_method
@both_dims
def test_masks_of_another_grid_are_rejected(name, dims):
    images, _ = batch_for(dims)
    grid = (2, 8, 4)[:dims]  # as many cells as 4×4(×4), in another shape
    hidden = build_mask("random", ratio=0.5).sample(BATCH, grid, generator=torch.Generator().manual_seed(0))
    shown = "×".join(map(str, grid))
    with pytest.raises(ShapeError, match=f"mask grid of {shown} cells: expected {'×'.join('4' * dims)}"):
        build(name, dims)(images, hidden)


@every_method
@both_dims
def test_images_that_cells_do_not_divide_are_rejected(name, dims):
    images, hidden = batch_for(dims)
    message = (
        r"image of 14×.* voxels does not divide into mask cells of 4×.*: use --size 16,.* or 12,.*, or an"
    )
    with pytest.raises(ShapeError, match=message):
        build(name, dims)(images[:, :, :14], hidden)


@every_method
def test_the_representation_names_shape_and_layout(name):
    assert set(build(name, 2).axes) == {"target", "architecture", "objective"}


# another value than the default for every option, except `compute`, whose results are equal by design, and
# `embedding_decay`, which the optimizer uses
OTHERWISE = {
    "anatomask": {"hardest": 1.0, "decoder": "official", "decoder_width": 16, "target": "raw"},
    "dense_mae": {"target": "normalised"},
    "mim_contrast": {"weight": 1.0, "temperature": 0.5, "queue": 7, "target": "raw"},
    "models_genesis": {"curve": 0.0, "shuffle": 1.0},
    "voco": {"bases": 2, "crops": 3, "width": 64},
    "volume_fusion": {"coefficients": 2},
    "contrastive": {"teacher": "shared", "temperature": 0.5, "queue": 7},
    "latent_mim": {
        "target": "joint", "objective": "l1", "decoder": "self", "projector": 7, "similarity": 0.9,
    },
    "mae": {"decoder_width": 64, "decoder_depth": 1, "target": "raw"},
    "mask_any_net": {
        "objective": "supervised", "fusion": {"level": "mid"}, "reuse": False, "target": "hog",
    },
    "simmim": {"target": "hog"},
    "spark": {"decoder": "official", "decoder_width": 16, "finest_decoder_stride": 4, "target": "raw"},
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_option_changes_the_loss(name):
    given = {"encoder", "spatial_dims", "cell", "supervision", "compute", "embedding_decay"}
    assert OTHERWISE[name].keys() == signature(METHODS[name]).parameters.keys() - given
    images, hidden = batch_for(2)
    supervision = {"supervision": Supervision("target", 2)} if name == "mask_any_net" else {}
    plain = build(name, 2, **supervision)
    plain.on_step_end(0.5)
    plain_loss = plain(images, hidden).loss
    shapes = {place: tuple(value.shape) for place, value in plain.state_dict().items()}
    for option, value in OTHERWISE[name].items():
        other = build(name, 2, **supervision, **{option: value})
        other.on_step_end(0.5)
        if {place: tuple(value.shape) for place, value in other.state_dict().items()} == shapes:
            assert other(images, hidden).loss != plain_loss, option


@every_method
def test_unknown_options_are_rejected(name):
    method = name.partition(" ")[0]
    with pytest.raises(UsageError, match=f"^method '{method}' does not take the option 'wrongly'; known: "):
        build(name, 2, wrongly=1)


def test_unknown_methods_are_rejected_with_the_nearest_name():
    encoder = build_encoder("dynunet", spatial_dims=2, in_channels=1, filters=(4, 8))
    with pytest.raises(MedmimError, match=r"^unknown method 'sparc'; did you mean 'spark'\?$"):
        build_method("sparc", encoder=encoder, spatial_dims=2, cell=(4, 4))


def test_one_number_is_the_cell_along_every_axis():
    encoder = build_encoder("dynunet", spatial_dims=2, in_channels=1, filters=(4, 8))
    assert build_method("spark", encoder=encoder, spatial_dims=2, cell=4).target.cell == (4, 4)
