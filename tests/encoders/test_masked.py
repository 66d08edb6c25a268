"""`Masked` as a tensor-like value: supported and rejected operations."""

import copy
import inspect
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from medmim.encoders import mask
from medmim.errors import ShapeError


@pytest.fixture
def hidden():
    return torch.tensor([[[True, False], [False, True]], [[False, False], [True, False]]])


@pytest.fixture
def images():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def value(images, hidden):
    return mask(images, hidden)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 5, 3, padding=1),
        nn.Conv2d(4, 4, 3, padding="same", groups=4),
        nn.MaxPool2d(2),
        nn.AvgPool2d(2),
        nn.BatchNorm2d(4),
        nn.InstanceNorm2d(4),
        nn.InstanceNorm2d(4, affine=True),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.ReLU(inplace=True),
        nn.LeakyReLU(inplace=True),
        nn.ReLU6(),
        nn.SiLU(),
        nn.GELU(),
        nn.ELU(),
        nn.Mish(),
        nn.Hardswish(),
        nn.PReLU(),
        nn.Sigmoid(),
        nn.Tanh(),
        nn.Dropout(),
        nn.Dropout2d(),
        nn.Identity(),
    ],
    ids=repr,
)
def test_hidden_voxels_are_zero_after_every_layer(layer, value):
    result = layer(value)
    assert torch.equal(result.unpack(), result.unpack() * result.visible)
    assert result.unpack().any()


@pytest.mark.parametrize(
    "scale", [torch.full((1, 4, 1, 1), 3.0), nn.Parameter(torch.full((4, 1, 1), 3.0)), 3]
)
def test_scales_and_shifts_by_numbers_and_parameters_from_both_sides(scale, value):
    for result in (scale * value, value * scale):
        assert torch.equal(result.unpack(), value.unpack() * 3)
    for result in (scale + value, value + scale):
        assert torch.equal(result.unpack(), (value.unpack() + 3) * value.visible)


def test_adds_and_concatenates_values_of_one_forward(value):
    assert torch.equal((value + value).unpack(), 2 * value.unpack())
    for joined in (
        torch.cat([value, value], 1),
        torch.cat([value, value], dim=-3),
        torch.concat([value, value], 1),
    ):
        assert torch.equal(joined.unpack(), torch.cat([value.unpack()] * 2, 1))


def test_in_place_addition_makes_a_new_value(value):
    before = value.unpack().clone()
    other = value
    other += value
    assert torch.equal(value.unpack(), before)


def test_mixing_masks_is_rejected(images, hidden, value):
    other = mask(images, ~hidden)
    for mixed in (
        lambda: value + other,
        lambda: torch.cat([value, other], 1),
        lambda: torch.cat([value, images], 1),
    ):
        with pytest.raises(ShapeError, match="expected values of one forward"):
            mixed()


def test_concatenation_along_space_is_rejected(value):
    with pytest.raises(ShapeError, match=r"concatenated along channels \(dim=1\), got dim=2"):
        torch.cat([value, value], 2)


@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("max_pool2d_with_indices", nn.MaxPool2d(2, return_indices=True)),
        ("flatten", lambda x: x.flatten(1)),
        ("reshape", lambda x: x.reshape(2, -1)),
        ("is_contiguous", lambda x: x.is_contiguous()),
        ("numpy.asarray", np.asarray),
    ],
)
def test_an_operation_without_a_masked_form_is_rejected_by_name(name, operation, value):
    with pytest.raises(
        ShapeError, match=f"^'{name}' has no masked form: use an encoder without it .known: abs, adaptive"
    ):
        operation(value)


def test_instance_norm_with_running_statistics_is_rejected(value):
    with pytest.raises(
        ShapeError, match="running statistics has no masked form: use track_running_stats=False"
    ):
        nn.InstanceNorm2d(4, track_running_stats=True)(value)


def test_batch_norm_over_one_voxel_is_rejected():
    lonely = mask(torch.ones(1, 3, 2, 2), torch.tensor([[[True, True], [True, False]]]))
    with pytest.raises(ShapeError, match=r"batch norm over 1 visible voxel .* use a larger --batch-size"):
        nn.BatchNorm2d(3)(lonely)
    nn.BatchNorm2d(3).eval()(lonely)


def test_maps_coarser_than_the_grid_are_rejected(images):
    fine = torch.zeros(2, 4, 4, dtype=torch.bool)
    with pytest.raises(
        ShapeError, match=r"map of 2×2 voxels does not divide into a grid of 4×4 cells: use a --cell"
    ):
        nn.AvgPool2d(4)(mask(images, fine))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 3), "8×8 voxels does not divide into a grid of 3×3 cells"),
        ((2, 2, 2, 2), "8×8 voxels does not divide into a grid of 2×2×2 cells"),
    ],
)
def test_masks_that_do_not_divide_the_images_are_rejected(shape, message, images):
    with pytest.raises(ShapeError, match=message):
        mask(images, torch.zeros(shape, dtype=torch.bool))


def test_one_mask_for_several_images_is_rejected(images, hidden):
    bare = inspect.unwrap(mask)  # outside the tests no annotation stands before it
    with pytest.raises(ShapeError, match="expected one mask per sample, got 1 for 2 images"):
        bare(images, hidden[:1])


@pytest.mark.parametrize("fill", [0.0, -2.5, 7])
def test_unpack_fills_hidden_voxels(fill, value, images):
    dense = value.unpack(float(fill))
    seen = value.visible.bool().expand_as(dense)
    assert torch.equal(dense[seen], images[seen])
    assert (dense[~seen] == fill).all()


def test_shape_dtype_and_device_are_those_of_the_dense_tensor(value, images):
    assert value.shape == images.shape == value.size()
    assert (value.size(-1), value.dim()) == (8, 4)
    assert (value.dtype, value.device) == (images.dtype, images.device)


def test_unknown_attributes_raise_attribute_error(value):
    with pytest.raises(AttributeError, match="'Masked' has no attribute 'nonsense'"):
        _ = value.nonsense
    assert torch.equal(copy.deepcopy(value).unpack(), value.unpack())
    assert torch.equal(pickle.loads(pickle.dumps(value)).unpack(), value.unpack())


def test_images_are_not_modified(images, hidden):
    before = images.clone()
    nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1), nn.LeakyReLU(inplace=True))(mask(images, hidden))
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.Conv2d(4, 4, 1)]
)
def test_bfloat16_stays_bfloat16_and_norms_compute_in_float32(layer, images, hidden):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = layer(mask(images.bfloat16(), hidden))
    assert result.dtype == torch.bfloat16
    reference = layer(mask(images.bfloat16().float(), hidden)).unpack()
    torch.testing.assert_close(result.unpack().float(), reference, rtol=2e-2, atol=2e-2)
