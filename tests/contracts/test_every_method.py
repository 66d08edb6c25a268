"""What every method of the table promises, with every mask, in 2D and 3D."""

import copy

import pytest
import torch

from medmim.encoders import build_encoder
from medmim.errors import MedmimError, ShapeError, UsageError
from medmim.masks import MASKS, build_mask
from medmim.methods import METHODS, Step, build_method

every_method = pytest.mark.parametrize("name", sorted(METHODS))
every_mask = pytest.mark.parametrize("rule", sorted(MASKS))
both_dims = pytest.mark.parametrize("dims", [2, 3])
CELL = 4


def build(name, dims, *, channels=1, width=8):
    torch.manual_seed(0)
    encoder = build_encoder("dynunet", spatial_dims=dims, in_channels=channels, filters=(4, width, 2 * width))
    return build_method(name, encoder=encoder, spatial_dims=dims, cell=(CELL,) * dims)


def batch_for(dims, *, rule="mesh", ratio=0.6, channels=1, space=16, seed=0):
    """Four images, or two views of two: methods that compare images need more than one."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(4, channels, *[space] * dims, generator=generator)
    grid = (space // CELL,) * dims
    return images, build_mask(rule, ratio=ratio).sample(4, grid, generator=generator)


def trained(method):
    """Parameters that learn; a teacher's follow."""
    return [(place, one) for place, one in method.named_parameters() if one.requires_grad]


def covered(images, hidden):
    """True at hidden voxels, shaped as the images."""
    voxels = hidden
    for axis in range(1, hidden.dim()):
        voxels = voxels.repeat_interleave(CELL, dim=axis)
    return voxels.unsqueeze(1).expand_as(images)


@every_method
@every_mask
@both_dims
@pytest.mark.parametrize("channels", [1, 2])
def test_gives_a_finite_loss_whose_gradient_reaches_every_parameter(name, rule, dims, channels):
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


# what holds for the others, which say so with `sees_hidden`, is tested in files of their own
@pytest.mark.parametrize("name", [name for name in sorted(METHODS) if not build(name, 2).sees_hidden])
@every_mask
@both_dims
def test_the_encoder_sees_nothing_hidden(name, rule, dims):
    method = build(name, dims)
    images, hidden = batch_for(dims, rule=rule)
    seen = []
    method.encoder.register_forward_hook(lambda module, inputs, maps: seen.append([m.unpack() for m in maps]))
    first = method(images, hidden).loss
    disturbed = images + 5 * torch.randn_like(images) * covered(images, hidden)
    second = method(disturbed, hidden).loss
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
    if method.views == 1:
        assert first != second  # what is hidden is the target
    else:
        assert first == second  # the target is another view, and the teacher sees no more than the student


@every_method
@both_dims
def test_pictures_are_images_that_need_no_gradient(name, dims):
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
    for (_, ours), (_, theirs) in zip(trained(method), trained(twin), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


@every_method
@both_dims
def test_overfits_one_batch(name, dims):
    method = build(name, dims)
    images, hidden = batch_for(dims, space=16)
    optimiser = torch.optim.Adam([one for _, one in trained(method)], lr=1e-2)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = method(images, hidden).loss
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
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
def test_leaves_its_inputs_alone(name, dims):
    images, hidden = batch_for(dims)
    before = images.clone(), hidden.clone()
    build(name, dims)(images, hidden).loss.backward()
    assert torch.equal(images, before[0])
    assert torch.equal(hidden, before[1])


@every_method
@both_dims
def test_refuses_a_mask_of_another_grid(name, dims):
    images, _ = batch_for(dims)
    grid = (2, 8, 4)[:dims]  # as many cells as 4×4(×4), in another shape
    hidden = build_mask("random", ratio=0.5).sample(4, grid, generator=torch.Generator().manual_seed(0))
    shown = "×".join(map(str, grid))
    with pytest.raises(ShapeError, match=f"mask grid of {shown} cells: expected {'×'.join('4' * dims)}"):
        build(name, dims)(images, hidden)


@every_method
@both_dims
def test_refuses_an_image_that_cells_do_not_divide(name, dims):
    images, hidden = batch_for(dims)
    message = (
        r"image of 14×.* voxels does not divide into mask cells of 4×.*: use --size 16,.* or 12,.*, or an"
    )
    with pytest.raises(ShapeError, match=message):
        build(name, dims)(images[:, :, :14], hidden)


@every_method
def test_says_what_it_is(name):
    assert set(build(name, 2).axes) == {"target", "architecture", "objective"}


@every_method
def test_refuses_an_unknown_option(name):
    encoder = build_encoder("dynunet", spatial_dims=2, in_channels=1, filters=(4, 8))
    with pytest.raises(UsageError, match=f"^method '{name}' does not take the option 'wrongly'; known: "):
        build_method(name, encoder=encoder, spatial_dims=2, cell=(4, 4), wrongly=1)


def test_an_unknown_method_is_told_the_nearest_known_one():
    encoder = build_encoder("dynunet", spatial_dims=2, in_channels=1, filters=(4, 8))
    with pytest.raises(MedmimError, match=r"^unknown method 'sparc'; did you mean 'spark'\?$"):
        build_method("sparc", encoder=encoder, spatial_dims=2, cell=(4, 4))
