"""Affine crops."""

import numpy as np
import pytest
import torch

from medmim.data.loading.affine_crop import RandAffineCrop
from medmim.data.loading.augmentation import PRESETS, Augmentation
from medmim.data.loading.foreground_sampling import labelled_places

AFFINE = Augmentation(rotation=1.0, rotation_deg=30, scaling=1.0, scale=(0.7, 1.4))
KEYS = ["image", "label"]


def ramp(*space):
    """Return a sample whose image is the sum of the coordinates, labelled in one half."""
    image = sum(torch.meshgrid(*[torch.arange(float(n)) for n in space], indexing="ij"))[None]
    label = (image > sum(space) / 2).to(torch.uint8)
    return {"image": image, "label": label, "slice_axis": 2, "places": torch.zeros(0, 1 + len(space)).int()}


def crop(sample, size, seed, *, augmentation=AFFINE, foreground=None):
    transform = RandAffineCrop(KEYS, size, foreground=foreground, augmentation=augmentation)
    transform.set_random_state(seed=seed)
    return transform(sample)


@pytest.mark.parametrize("space", [(60, 64), (60, 64, 56)])
def test_no_voxel_of_a_patch_is_a_copy_of_the_border(space):
    """On a ramp, two neighbours are equal only where a border is repeated."""
    size = (16,) * len(space)
    inner = {key: value for key, value in ramp(*space).items() if key != "places"}
    for seed in range(20):
        patch = crop(inner, size, seed)["image"][0]
        assert patch.shape == size
        step = torch.stack([(patch.diff(dim=axis) == 0).float().mean() for axis in range(len(size))])
        # parts beyond the image are constant; inside it, no direction of a ramp is flat
        assert (step < 0.02).all() or patch.min() <= float(inner["image"].min()) + 40


@pytest.mark.parametrize("space", [(40, 44), (40, 44, 36)])
def test_labels_follow_the_image(space):
    agree = []
    for seed in range(10):
        patch = crop(ramp(*space), (20,) * len(space), seed, augmentation=AFFINE)
        inside = patch["image"] > 0
        guess = patch["image"] > sum(space) / 2
        agree.append(((patch["label"] > 0) == guess)[inside].float().mean().item())
    assert min(agree) > 0.95


@pytest.mark.parametrize("dims", [2, 3])
def test_an_affine_crop_samples_the_image_where_the_matrix_says(dims):
    """A linear function stays linear: its gradient is the transposed matrix times the old one."""
    sample = ramp(*(64,) * dims)
    transform = RandAffineCrop(KEYS, (16,) * dims, foreground=None, augmentation=AFFINE)
    for seed in range(6):
        transform.set_random_state(seed=seed)
        first, matrix = transform._start(sample), transform._matrix()
        first = [24] * dims
        patch = transform._crop(sample["image"], first, matrix, image=True)[0]
        grid = np.stack(np.indices(patch.shape), axis=-1) + 0.5 - 8
        expected = (grid @ matrix.T + np.array(first) + 8 - 0.5).sum(axis=-1)
        assert patch.numpy() == pytest.approx(expected, abs=1e-3)


def test_crops_without_a_change_are_exact():
    sample = ramp(20, 22, 24)
    patch = crop(sample, (8, 8, 8), 3, augmentation=PRESETS["none"])
    first = int(patch["image"].min())
    assert torch.equal(patch["image"] - first, ramp(8, 8, 8)["image"])


@pytest.mark.parametrize("foreground", [0.25, 1.0])
def test_a_share_of_crops_is_centred_on_foreground(foreground):
    label = torch.zeros(1, 24, 24, dtype=torch.uint8)
    label[0, 12, 13] = 1
    places = torch.tensor([[1, 12, 13]], dtype=torch.int32)
    sample = {"image": label.float(), "label": label, "slice_axis": 2, "places": places}
    centred = [
        bool(
            crop(sample, (8, 8), seed, augmentation=PRESETS["none"], foreground=foreground)["label"][0, 4, 4]
        )
        for seed in range(200)
    ]
    assert np.mean(centred) == pytest.approx(foreground, abs=0.1)


def test_places_of_a_crop_are_dropped():
    label = torch.ones(1, 12, 12, 12, dtype=torch.uint8)
    sample = {"image": label.float(), "label": label, "slice_axis": 2, "places": labelled_places(label)}
    assert "places" not in crop(sample, (8, 8, 8), 0, foreground=1.0)
