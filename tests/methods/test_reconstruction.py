"""The choice of a target, MAE and SimMIM against their formulas written out in float64."""

import numpy as np
import pytest
import torch

from medmim.encoders import build_encoder
from medmim.errors import ShapeError, UsageError
from medmim.masks import build_mask
from medmim.methods import build_method
from medmim.methods.base import relative_error
from medmim.methods.reconstruction import TARGETS, build_target, reconstruction_step
from medmim.methods.targets import NormalisedPixels, RawPixels
from medmim.methods.visible_encoding import hidden_patches

VIT = {"patch": 2, "width": 24, "depth": 1, "heads": 2}


def build(name, dims, *, cell=4, encoder="vit", channels=2, **options):
    torch.manual_seed(0)
    words = VIT if encoder == "vit" else {"patch": 2, "width": 6, "depths": (1, 1), "heads": (1, 1)}
    network = build_encoder(encoder, spatial_dims=dims, in_channels=channels, **words)
    return build_method(name, encoder=network, spatial_dims=dims, cell=(cell,) * dims, **options)


def batch_for(dims, *, cell=4):
    generator = torch.Generator().manual_seed(0)
    grid = (3, 4, 2)[:dims]
    images = torch.randn(2, 2, *[cell * n for n in grid], generator=generator) * 30 + 10
    return images, build_mask("random", ratio=0.6).sample(2, grid, generator=generator)


def window(place, cell):
    return tuple(slice(cell * index, cell * (index + 1)) for index in place)


def naive_loss(prediction, images, hidden, *, unit, cell, normalised, power):
    """Mean over the units of hidden cells of the mean |prediction - target|^power of their values."""
    prediction, images = prediction.detach().double().numpy(), images.double().numpy()
    errors = []
    grid = [n // unit for n in images.shape[2:]]
    for sample in range(len(images)):
        for place in np.ndindex(*grid):
            if not hidden[(sample, *[index * unit // cell for index in place])]:
                continue
            where = (sample, slice(None), *window(place, unit))
            true = images[where].reshape(-1)
            if normalised:
                true = (true - true.mean()) / np.sqrt(true.var(ddof=1) + 1e-6)
            errors.append((np.abs(prediction[where].reshape(-1) - true) ** power).mean())
    return float(np.mean(errors))


def predictions_of(method):
    seen = []
    method.predict.register_forward_hook(lambda module, inputs, output: seen.append(output))
    return seen


@pytest.mark.parametrize("dims", [2, 3])
def test_maes_loss_is_that_of_normalised_patches_of_hidden_cells(dims):
    method, (images, hidden) = build("mae", dims), batch_for(dims)
    seen = predictions_of(method)
    loss = method(images, hidden).loss.item()
    expected = naive_loss(seen[0], images, hidden, unit=2, cell=4, normalised=True, power=2)
    assert loss == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("encoder", ["vit", "swin"])
def test_simmims_loss_is_the_absolute_error_of_hidden_voxels(dims, encoder):
    method, (images, hidden) = build("simmim", dims, encoder=encoder), batch_for(dims)
    seen = predictions_of(method)
    loss = method(images, hidden).loss.item()
    expected = naive_loss(seen[0], images, hidden, unit=4, cell=4, normalised=False, power=1)
    assert loss == pytest.approx(expected, rel=1e-5)


def test_mae_computes_visible_patches_only():
    method, (images, hidden) = build("mae", 2), batch_for(2)
    lengths = []
    method.encoder.blocks[0].register_forward_hook(lambda module, inputs, out: lengths.append(out.shape[1]))
    method(images, hidden)
    assert lengths == [4 * int((~hidden[0]).sum())]  # four patches a cell


def test_simmim_puts_its_token_where_patches_are_hidden():
    method, (images, hidden) = build("simmim", 2), batch_for(2)
    seen = []
    encode = method.encoder.encode
    method.encoder.encode = lambda patches: seen.append(patches) or encode(patches)
    method(images, hidden)
    covered = hidden.repeat_interleave(2, 1).repeat_interleave(2, 2)
    patches, token = seen[0].movedim(1, -1), method.token.flatten()
    assert torch.equal(patches[covered], token.expand_as(patches[covered]))
    assert torch.equal(patches[~covered], method.encoder.embed(images).movedim(1, -1)[~covered])


@pytest.mark.parametrize("name", ["mae", "simmim"])
@pytest.mark.parametrize("target", ["raw", "normalised"])
@pytest.mark.parametrize("dims", [2, 3])
def test_reconstructions_keep_visible_voxels(name, target, dims):
    images, hidden = batch_for(dims)
    picture = build(name, dims, target=target)(images, hidden).pictures["reconstruction"]
    covered = hidden
    for axis in range(1, hidden.dim()):
        covered = covered.repeat_interleave(4, dim=axis)
    covered = covered.unsqueeze(1).expand_as(images)
    assert torch.equal(picture[~covered], images[~covered])
    assert not (picture[covered] == images[covered]).any()


@pytest.mark.parametrize("target", ["hog", "ema"])
def test_other_targets_return_no_reconstruction(target):
    assert build("mae", 2, target=target)(*batch_for(2)).pictures == {}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("target", ["hog", "ema"])
def test_targets_without_images_report_the_relative_error(target, dims):
    method, (images, hidden) = build("mae", dims, target=target), batch_for(dims)
    step = method(images, hidden)
    unit = tuple(n // u for n, u in zip(images.shape[2:], method.target.cell, strict=True))
    where = hidden_patches(hidden, unit).flatten(1)
    variance = method.target(images)[where].var(dim=0, unbiased=False).mean()
    assert step.parts["hidden_error"].item() == pytest.approx((step.loss / variance).item(), rel=1e-4)


def test_the_relative_error_is_0_for_the_truth_and_1_for_its_mean_or_a_constant_truth():
    truth = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    means = truth.mean(dim=0).expand_as(truth)
    assert relative_error(truth, truth) == 0
    assert relative_error(means, truth).item() == pytest.approx(1)
    assert relative_error(means, means.contiguous()) == 1


def test_simmim_crops_predictions_of_padded_coarse_maps():
    torch.manual_seed(0)
    network = build_encoder(
        "swin", spatial_dims=2, in_channels=1, patch=2, width=6, depths=(1, 1, 1), heads=(1, 1, 1)
    )
    method = build_method("simmim", encoder=network, spatial_dims=2, cell=(2, 2))
    hidden = torch.zeros(1, 5, 3, dtype=torch.bool)
    hidden[0, 4, 2] = True
    images = torch.randn(1, 1, 10, 6)  # no multiple of the total stride of 8
    assert method(images, hidden).pictures["reconstruction"].shape == images.shape


def test_the_axes_name_the_target():
    named = {target: build("mae", 2, target=target).axes["target"] for target in TARGETS}
    assert named == {
        "raw": "raw pixels",
        "normalised": "normalised pixels",
        "hog": "HOG",
        "ema": "EMA features",
    }


def test_a_target_accepts_its_options():
    method = build("mae", 2, target={"hog": {"bins": 6, "pool": 1}})
    assert (method.target.bins, method.target.stride) == (6, (1, 1))
    assert method.target(batch_for(2)[0]).shape == (2, 48, 4 * 12)


@pytest.mark.parametrize("error", ["squared", "absolute"])
def test_the_loss_is_the_mean_over_hidden_cells_of_all_samples(error):
    images, hidden = torch.zeros(2, 1, 2, 4), torch.tensor([[[True, False]], [[True, True]]])
    prediction = torch.ones(2, 1, 2, 4)
    prediction[1] = 3.0
    power = 2 if error == "squared" else 1
    step = reconstruction_step(prediction, RawPixels((2, 2)), images, hidden, error=error)
    assert step.loss.item() == pytest.approx((1 + 2 * 3**power) / 3)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("hogg", r"^unknown target 'hogg'; did you mean 'hog'\?$"),
        ({"hog": {"bin": 6}}, r"^target 'hog' does not take the option 'bin'; did you mean 'bins'\?$"),
        ({"raw": {"bins": 6}}, r"^target 'raw' does not take the option 'bins'; it takes no options$"),
        (
            {"raw": {}, "hog": {}},
            r"^method option target: expected one name, alone or with its options as in ",
        ),
        ({}, r"^method option target: expected one name, .*, got 0$"),
    ],
)
def test_invalid_targets_are_rejected(choice, message):
    with pytest.raises(UsageError, match=message):
        build("mae", 2, target=choice)


def test_normalising_a_cell_of_one_value_is_rejected():
    encoder = build_encoder("vit", spatial_dims=2, in_channels=1, **VIT)
    with pytest.raises(ShapeError, match=r"^mask cell of one voxel: expected at least 2 values"):
        build_target("normalised", cell=(1, 1), encoder=encoder)


def test_features_coarser_than_a_cell_are_rejected():
    with pytest.raises(
        ShapeError, match=r"^mask cell of 2×2 voxels: expected a multiple of the encoder's total "
    ):
        build("simmim", 2, cell=2, encoder="swin", target="ema")


@pytest.mark.parametrize("name", ["mae", "simmim", "latent_mim"])
def test_encoders_without_patches_are_rejected(name):
    encoder = build_encoder("dynunet", spatial_dims=2, in_channels=1, filters=(4, 8))
    with pytest.raises(UsageError, match=f"^method '{name}' needs an? .* got DynUNetEncoder$"):
        build_method(name, encoder=encoder, spatial_dims=2, cell=(4, 4))


@pytest.mark.parametrize("name", ["mae", "latent_mim"])
def test_encoders_that_cannot_drop_patches_are_rejected(name):
    with pytest.raises(
        UsageError, match=f"^method '{name}' needs .* expected --encoder vit, got SwinEncoder$"
    ):
        build(name, 2, encoder="swin")


def test_spark_rejects_patch_based_encoders():
    with pytest.raises(
        UsageError, match=r"^method 'spark' needs a convolutional encoder, .* --method mae or"
    ):
        build("spark", 2)


@pytest.mark.parametrize("name", ["mae", "simmim"])
def test_cells_that_are_not_a_multiple_of_the_patch_are_rejected(name):
    message = r"^mask cell of 3×3 voxels: expected a multiple of the encoder's patch 2×2; use --cell 4,4$"
    with pytest.raises(ShapeError, match=message):
        build(name, 2, cell=3)


def test_the_target_of_one_cell_equals_the_formula():
    cell = torch.arange(4.0).reshape(1, 1, 2, 2)
    normed = NormalisedPixels((2, 2))(cell).flatten().tolist()
    assert normed == pytest.approx([-1.161895, -0.387298, 0.387298, 1.161895], abs=1e-5)
