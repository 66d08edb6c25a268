"""Labelled voxels and draws of them that are balanced over classes."""

import numpy as np
import pytest
import torch

from medmim.data.loading.foreground_sampling import (
    IGNORE,
    foreground_shares,
    labelled_places,
    pick_place,
    unlabelled_voxel,
)
from medmim.data.loading.transforms import PadTo, PickSlice


def corner_label(*space):
    """Return a label of 2 voxels a side in the last corner."""
    label = torch.zeros(1, *space, dtype=torch.uint8)
    label[(0, *[slice(n - 2, n) for n in space])] = 3
    return label


def sample_of(label, slice_axis=2):
    image = torch.arange(label.numel(), dtype=torch.float32).reshape(label.shape)
    return {"image": image, "label": label, "slice_axis": slice_axis, "places": labelled_places(label)}


def test_all_labelled_voxels_are_places():
    label = corner_label(4, 5, 6)
    places = labelled_places(label)
    assert torch.equal(places[:, 1:], label[0].nonzero().int())
    assert (places[:, 0] == 3).all()
    assert labelled_places(torch.zeros(1, 4, 4, 4, dtype=torch.uint8)).shape == (0, 4)


def test_ignored_voxels_are_no_places():
    label = corner_label(4, 5, 6)
    label[label > 0] = IGNORE
    assert len(labelled_places(label)) == 0


def test_large_labels_are_sampled_evenly_in_each_class():
    label = torch.ones(1, 4, 5, 6, dtype=torch.int32)
    label[0, 0, 0, :3] = 2
    found = labelled_places(label, most=10)
    assert (found[:, 0] == 1).sum() == 5
    assert (found[:, 0] == 2).sum() == 3
    assert found[4].tolist() == [1, 3, 4, 5]
    assert len(found.unique(dim=0)) == 8


def test_a_rare_class_is_drawn_as_often_as_a_common_one():
    """A lesion of 251 voxels in a liver: nnU-Net centres a sixth of all patches on it."""
    label = torch.zeros(1, 64, 64, 64, dtype=torch.uint8)
    label[0, 8:56, 8:56, 8:56] = 1
    label[0].view(-1)[32 * 64 * 64 + 20 * 64 :][:251] = 2
    places, stream = labelled_places(label), np.random.RandomState(0)
    classes = [int(label[(0, *pick_place(places, stream))]) for _ in range(2000)]
    assert np.mean(np.equal(classes, 2)) == pytest.approx(0.5, abs=0.04)


def test_shares_count_each_class_of_a_volume_equally():
    assert foreground_shares([(1, 2), (1,), (), (1, 2, 5)]) == pytest.approx(
        {1: (1 / 2 + 1 + 1 / 3) / 3, 2: (1 / 2 + 1 / 3) / 3, 5: 1 / 9}
    )


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_slices_and_padding_keep_the_places(slice_axis):
    label = corner_label(6, 7, 8)
    keys = ["image", "label"]
    pick = PickSlice(keys, foreground=1.0)
    for number in range(20):
        pick.set_random_state(seed=number)
        padded = PadTo(keys, (12, 12))(pick(sample_of(label, slice_axis)))
        assert padded["image"].shape == (1, 12, 12)
        assert padded["axes"] == tuple(axis for axis in range(3) if axis != slice_axis)
        assert torch.equal(padded["places"][:, 1:], torch.as_tensor(padded["label"][0]).nonzero().int())


def test_unlabelled_voxels_are_background_if_there_is_any():
    stream = np.random.RandomState(0)
    label = corner_label(4, 5, 6)
    assert all(label[(0, *unlabelled_voxel(label, stream))] == 0 for _ in range(50))
    full = torch.ones(1, 4, 4, 4, dtype=torch.uint8)
    assert len(unlabelled_voxel(full, stream)) == 3
