"""Tests of the labels that are written from the probabilities of regions."""

import numpy as np
import pytest
import torch
from torch import nn

from medmim.data.loading.preprocess import PreprocessedVolume
from medmim.training.evaluation.postprocessing import apply_postprocessing
from medmim.training.evaluation.regions import (
    RegionProbabilities,
    class_groups,
    class_outside,
    labels_of,
    mean_logits,
    membership,
)
from medmim.training.evaluation.resample_back import on_grid, restored

NESTED = (("whole", (1, 2, 3)), ("core", (2, 3)), ("enhancing", (3,)))
CROSSED = (("left", (1, 2)), ("right", (2, 3)), ("rest", (3,)))


@pytest.mark.parametrize("regions", [NESTED, CROSSED])
def test_labels_of_the_masks_of_regions_are_the_labels(regions):
    label = torch.randint(0, 4, (6, 5, 4), generator=torch.Generator().manual_seed(0))
    masks = membership(regions)[:, label].float()
    assert torch.equal(labels_of(masks, regions), label)
    prepared = PreprocessedVolume(masks, None, np.eye(4), 2)
    np.testing.assert_array_equal(restored(masks, prepared, (6, 5, 4), regions), label)
    assert torch.equal(on_grid(masks, np.eye(4), (6, 5, 4), np.eye(4), regions).long(), label)


def test_later_regions_are_written_over_earlier_ones():
    probabilities = torch.tensor([[0.9, 0.2, 0.6], [0.6, 0.6, 0.5], [0.4, 0.4, 0.9]])
    assert labels_of(probabilities, NESTED).tolist() == [2, 2, 3]
    assert labels_of(probabilities, None).tolist() == [0, 1, 2]


def test_classes_alone_are_scored_without_regions():
    assert class_groups({2: "b", 1: "a"}, None) == {"a": (1,), "b": (2,)}
    assert class_groups({1: "a", 2: "b", 3: "c"}, NESTED) == dict(NESTED)


def test_a_voxel_outside_a_region_belongs_to_the_region_around_it():
    assert [class_outside(number, (2, 3), NESTED) for number in (2, 3)] == [1, 1]
    assert class_outside(3, (1, 2, 3), NESTED) == 0
    assert class_outside(2, (2, 3), CROSSED) == 1
    assert class_outside(2, (2,), None) == 0


def test_removed_components_of_a_region_stay_in_the_region_around_them():
    labels = np.ones((9, 5, 5), np.uint8)
    labels[1:4, 1:4, 1:4], labels[2, 2, 2], labels[7, 2, 2] = 2, 3, 3
    rules = {"core": {"largest_component": 1.0}, "enhancing": {"min_ml": 1.5}}
    found = apply_postprocessing(labels, {1: "a", 2: "b", 3: "c"}, rules, 1.0, NESTED)
    assert found[7, 2, 2] == 1
    assert found[2, 2, 2] == 2
    assert np.count_nonzero(found != labels) == 2


def test_averages_are_of_probabilities():
    scores = torch.tensor([[0.0, 8.0], [4.0, -1.0]])
    mean = torch.sigmoid(scores).mean(dim=0)
    torch.testing.assert_close(torch.sigmoid(mean_logits(scores, NESTED[:2])), mean)
    torch.testing.assert_close(mean_logits(scores, None), scores.mean(dim=0))
    images = torch.randn(1, 1, 3, 3)
    torch.testing.assert_close(RegionProbabilities(nn.Identity())(images), torch.sigmoid(images))
