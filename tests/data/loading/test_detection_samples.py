import math

import numpy as np
import pytest
import torch

from medmim.data.loading.detection_samples import (
    PickBoxedSlice,
    RandBoxAffine,
    RandBoxCrop,
    RandMirrorBoxes,
    detection_patches,
    warped,
)
from medmim.data.loading.preprocessing_plan import PreprocessingPlan


def sample(dims, *, shape=20, box=(4, 10)):
    """Return a dark image with one bright box."""
    first, last = box
    image = torch.zeros(1, *(shape,) * 3)
    image[(0, *(slice(first, last),) * 3)] = 1
    boxes = torch.tensor([[first] * 3 + [last] * 3], dtype=torch.float64)
    data = {"image": image, "boxes": boxes, "classes": torch.tensor([1]), "slice_axis": 2}
    return data if dims == 3 else PickBoxedSlice(foreground=1.0)(data)


def around(image):
    """Return the bounding box of the bright voxels."""
    places = np.argwhere(image[0].numpy() > 0.5)
    return [*places.min(axis=0).tolist(), *(places.max(axis=0) + 1).tolist()]


def test_a_slice_with_a_box_is_picked():
    picked = sample(2)
    assert picked["image"].shape == (1, 20, 20)
    assert picked["boxes"].tolist() == [[4, 4, 10, 10]]
    assert picked["image"].sum() == 36


def test_without_foreground_any_slice_is_picked():
    picker = PickBoxedSlice(foreground=0.0)
    picker.set_random_state(0)
    found = [len(picker(sample(3))["boxes"]) for _ in range(40)]
    assert 0 < sum(found) < 40


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_boxes_follow_crops_and_mirroring(dims, seed):
    data = {**sample(dims), "boxes": sample(dims)["boxes"].float()}
    crop, flip = RandBoxCrop((16,) * dims, foreground=1.0), RandMirrorBoxes((0,))
    for transform in (crop, flip):
        transform.set_random_state(seed)
        data = transform(data)
    assert data["image"].shape == (1, *(16,) * dims)
    for box in data["boxes"]:
        assert box.tolist() == around(data["image"])


def test_a_box_mostly_outside_the_crop_is_dropped():
    data = {**sample(2), "image": torch.zeros(1, 20, 20)}
    crop = RandBoxCrop((8, 8), foreground=0.0)
    crop.randomize = lambda _: [9, 9]
    assert len(crop(data)["boxes"]) == 0


@pytest.mark.parametrize("dims", [2, 3])
def test_boxes_follow_scaling_and_shifting(dims):
    data = sample(dims, shape=32, box=(12, 20))
    data["boxes"] = data["boxes"].float()
    warp = RandBoxAffine((32,) * dims, turn=0.0, scale=(0.7, 1.4), shift=0.1, chance=1.0)
    for seed in range(4):
        warp.set_random_state(seed)
        after = warp(data)
        assert after["boxes"][0].numpy() == pytest.approx(np.array(around(after["image"])), abs=1.0)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_rotated_box_bounds_its_inscribed_ellipse(dims):
    """Compare with points on the ellipse, rotated one by one."""
    rng = np.random.default_rng(0)
    size, halves = (40,) * dims, np.array([8.0, 3.0, 5.0])[:dims]
    centre = np.array([15.0, 22.0, 18.0])[:dims]
    linear, _ = np.linalg.qr(rng.normal(size=(dims, dims)))
    matrix = np.eye(dims + 1)
    matrix[:dims, :dims], matrix[:dims, dims] = 1.2 * linear, rng.normal(size=dims)
    points = rng.normal(size=(200_000, dims))
    points = centre + halves * points / np.linalg.norm(points, axis=1, keepdims=True) - 20
    turned = (points - matrix[:dims, dims]) @ np.linalg.inv(matrix[:dims, :dims]).T + 20
    box = torch.tensor([[*(centre - halves), *(centre + halves)]], dtype=torch.float32)
    expected = [*turned.min(axis=0), *turned.max(axis=0)]
    assert warped(box, matrix, size)[0].numpy() == pytest.approx(np.array(expected), abs=0.05)


@pytest.mark.parametrize("dims", [2, 3])
def test_samples_have_one_shape_with_and_without_boxes(dims):
    transform = detection_patches(PreprocessingPlan(dims, (16,) * dims), most=3, foreground=0.5)
    empty = {"boxes": torch.zeros(0, 6, dtype=torch.float64), "classes": torch.zeros(0, dtype=torch.long)}
    for data in (sample(3), {**sample(3), **empty}):
        transform.set_random_state(seed=1)
        found = transform(data)
        assert found["image"].shape == (1, *(16,) * dims)
        assert found["boxes"].shape == (3, 2 * dims)
        assert found["boxes"].dtype == torch.float32
        assert found["classes"].shape == (3,)
    assert found["classes"].tolist() == [-1, -1, -1]


def test_small_images_are_padded_with_their_boxes():
    transform = detection_patches(PreprocessingPlan(2, (48, 48)), most=1, foreground=1.0)
    for seed in range(6):
        transform.set_random_state(seed=seed)
        found = transform({**sample(3)})
        if found["classes"][0] >= 0:
            middle = (found["boxes"][0, :2] + found["boxes"][0, 2:]) / 2
            assert math.dist(middle.tolist(), (24, 24)) < 20
