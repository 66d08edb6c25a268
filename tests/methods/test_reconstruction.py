"""The choice of a target, and what methods that reconstruct have in common."""

import pytest
import torch
from reconstruction_maker import VIT, batch_for, build

from medmim.encoders import build_encoder
from medmim.errors import ShapeError, UsageError
from medmim.methods.reconstruction import TARGETS, build_target, reconstruction_step
from medmim.methods.targets import NormalisedPixels, RawPixels
from medmim.methods.visible_encoding import hidden_patches


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


def test_spark_rejects_patch_based_encoders():
    with pytest.raises(
        UsageError, match=r"^method 'spark' needs a convolutional encoder, .* --method mae or"
    ):
        build("spark", 2)


def test_the_target_of_one_cell_equals_the_formula():
    cell = torch.arange(4.0).reshape(1, 1, 2, 2)
    normed = NormalisedPixels((2, 2))(cell).flatten().tolist()
    assert normed == pytest.approx([-1.161895, -0.387298, 0.387298, 1.161895], abs=1e-5)
