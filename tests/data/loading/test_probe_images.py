"""Fixed images with what is known of them."""

import numpy as np
import pytest
import tiny
import torch

from medmim.data.dataset.manifest import read_dataset
from medmim.data.loading.preprocess import PreprocessedVolume, VolumeLoader
from medmim.data.loading.preprocessing_plan import PreprocessingPlan
from medmim.data.loading.probe_images import build_probe_images, stratified_subset


def rows(targets, *, label=False):
    return [
        tiny.row(f"p{number}", label=label).model_copy(update={"target": target})
        for number, target in enumerate(targets)
    ]


def prepared(image, label, axis=2):
    tensor = torch.as_tensor(np.asarray(image), dtype=torch.float32)[None]
    drawn = None if label is None else torch.as_tensor(np.asarray(label), dtype=torch.uint8)[None]
    return PreprocessedVolume(tensor, drawn, np.eye(4), axis)


def test_classes_come_in_turn_and_the_unknown_last():
    volumes = rows(["a"] * 6 + ["b"] * 2 + [None] * 3)
    chosen = [volume.target for volume in stratified_subset(volumes, 11)]
    assert sorted(chosen[:4]) == ["a", "a", "b", "b"]
    assert chosen[-3:] == [None] * 3
    assert len(stratified_subset(volumes, 5)) == 5


def test_the_choice_does_not_depend_on_the_order_of_rows():
    volumes = rows(["a", "b"] * 5)
    assert stratified_subset(volumes, 4) == stratified_subset(volumes[::-1], 4)


def test_a_slice_is_the_one_with_most_label_scaled_as_a_whole_and_padded():
    image, label = np.zeros((32, 16, 5)), np.zeros((32, 16, 5))
    image[:, :, 3], label[8:16, 8:16, 3] = 2.0, 1
    image[0, 0, 3] = 1.0  # the darkest of that slice
    shown = build_probe_images(
        rows(["a"]), lambda _: prepared(image, label), PreprocessingPlan(2, (16, 16)), {"a": 0}
    )
    assert shown.images.shape == shown.labels.shape == (1, 1, 16, 16)
    assert shown.labels[0, 0, :, 4:12].sum() == 16  # half the side, in the middle of the padding
    assert shown.labels.sum() == 16
    assert shown.targets.tolist() == [0]


def test_a_patch_lies_around_the_label_within_the_volume():
    image = np.random.default_rng(0).normal(size=(30, 20, 20))
    label = np.zeros((30, 20, 20))
    label[28:30, 9:11, 9:11] = 2
    shown = build_probe_images(
        rows([None]), lambda _: prepared(image, label), PreprocessingPlan(3, (16, 16, 24)), {}
    )
    assert shown.images.shape == (1, 1, 16, 16, 24)
    assert (shown.labels == 2).sum() == 8
    assert torch.equal(shown.images[0, 0, :, :, 2:22], torch.as_tensor(image[14:, 1:17], dtype=torch.float32))
    assert shown.targets.tolist() == [-1]


@pytest.mark.parametrize("dims", [2, 3])
def test_a_dataset_of_labels_and_none(tiny_dataset, unlabelled_dataset, dims):
    plan = PreprocessingPlan(dims, (16,) * dims)
    for root, known in ((tiny_dataset, True), (unlabelled_dataset, False)):
        volumes = stratified_subset(read_dataset(root).volumes, 3)
        shown = build_probe_images(volumes, VolumeLoader(root, plan, cache_gb=1.0), plan, {})
        again = build_probe_images(volumes, VolumeLoader(root, plan, cache_gb=1.0), plan, {})
        assert torch.equal(shown.images, again.images)
        assert shown.labelled.tolist() == [known] * 3
        assert bool(shown.labels.any()) == known
