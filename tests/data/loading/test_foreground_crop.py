"""Crops around labels whose voxels were looked up before: MONAI's crops, without looking for them."""

import numpy as np
import pytest
import torch
from monai.transforms.croppad.array import RandCropByPosNegLabel

from medmim.data.loading import foreground_crop
from medmim.data.loading.foreground_crop import CropAroundLabel, labelled_places
from medmim.data.loading.transforms import PadTo, PickSlice


def corner_label(*space):
    """A label of 2 voxels a side in the last corner."""
    label = torch.zeros(1, *space, dtype=torch.uint8)
    label[(0, *[slice(n - 2, n) for n in space])] = 3
    return label


def sample_of(label, slice_axis=2):
    image = torch.arange(label.numel(), dtype=torch.float32).reshape(label.shape)
    return {"image": image, "label": label, "slice_axis": slice_axis, "places": labelled_places(label)}


def test_all_labelled_voxels_are_places():
    label = corner_label(4, 5, 6)
    assert torch.equal(labelled_places(label), label[0].nonzero().int())
    assert labelled_places(torch.zeros(1, 4, 4, 4, dtype=torch.uint8)).shape == (0, 3)


def test_of_many_some_are_kept_from_first_to_last(monkeypatch):
    monkeypatch.setattr(foreground_crop, "_MOST", 10)
    found = labelled_places(torch.ones(1, 4, 5, 6, dtype=torch.int32))
    assert found.shape == (10, 3)
    assert found[0].tolist() == [0, 0, 0]
    assert found[-1].tolist() == [3, 4, 5]
    assert len(found.unique(dim=0)) == 10


@pytest.mark.parametrize("foreground", [0.25, 1.0])
def test_crops_are_those_of_monai(foreground):
    """Where crops begin, how often: the first voxel of a crop is its number, since images count voxels."""
    label = torch.zeros(1, 9, 7, dtype=torch.uint8)
    label[0, 2:4, 5] = 1
    sample = sample_of(label[..., None]) | {"slice_axis": 2}
    sample = PickSlice(["image", "label"], foreground=0.0)(sample)
    ours = CropAroundLabel(["image", "label"], (4, 4), foreground=foreground)
    theirs = RandCropByPosNegLabel((4, 4), pos=foreground, neg=1 - foreground, num_samples=1)
    ours.set_random_state(seed=0)
    theirs.set_random_state(seed=0)
    counts = np.zeros((2, label.numel()))
    for _ in range(4000):
        counts[0, int(ours(sample)["image"][0, 0, 0])] += 1
        counts[1, int(theirs(sample["image"], sample["label"])[0][0, 0, 0])] += 1
    assert ((counts[0] > 0) == (counts[1] > 0)).all()
    assert np.abs(counts[0] - counts[1]).max() < 4 * np.sqrt(2 * counts.max())


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_slices_and_padding_take_places_along(slice_axis):
    label = corner_label(6, 7, 8)
    keys = ["image", "label"]
    size = (12, 12)
    pick, crop = PickSlice(keys, foreground=1.0), CropAroundLabel(keys, (3, 3), foreground=1.0)
    for number in range(20):
        pick.set_random_state(seed=number)
        crop.set_random_state(seed=number)
        padded = PadTo(keys, size)(pick(sample_of(label, slice_axis)))
        assert padded["image"].shape == (1, *size)
        assert torch.equal(padded["places"], torch.as_tensor(padded["label"][0]).nonzero().int())
        patch = crop(padded)
        assert patch["label"][0, 1, 1] == 3  # the middle
        assert "places" not in patch


def test_a_volume_full_of_labels_is_cropped_too():
    sample = sample_of(torch.ones(1, 4, 4, 4, dtype=torch.uint8))
    crop = CropAroundLabel(["image", "label"], (2, 2, 2), foreground=0.0)
    crop.set_random_state(seed=0)
    assert crop(sample)["label"].shape == (1, 2, 2, 2)


def test_a_volume_without_labels_is_cropped_anywhere():
    sample = sample_of(torch.zeros(1, 4, 4, 4, dtype=torch.uint8))
    crop = CropAroundLabel(["image"], (2, 2, 2), foreground=1.0)
    crop.set_random_state(seed=0)
    assert len({float(crop(sample)["image"].min()) for _ in range(60)}) > 8
