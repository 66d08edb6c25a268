"""Classification: slices of a volume, rare classes, and data without a second class."""

import pytest
import tiny
import torch
from task_scene import scene_for
from torch import nn

from medmim.data.dataset.manifest import read_dataset
from medmim.errors import DataError
from medmim.training.tasks.classification import Classification, classify


class Brightest(nn.Module):
    """Network that scores a slice by its mean."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images):
        mean = images.flatten(1).mean(dim=1, keepdim=True) * self.weight
        return torch.cat([mean, -mean], dim=1)


def test_a_volume_is_classified_by_the_mean_of_its_slices(tiny_dataset):
    task = Classification()
    volumes, scene = scene_for(task, tiny_dataset, 2)
    prepared = scene.volumes(volumes[0])
    scores = classify(Brightest(), prepared, scene.plan, precision="fp32", mirror=False)
    axis = prepared.slice_axis
    padded = 16 * 16 / (prepared.image.numel() / prepared.image.shape[axis + 1])
    slices = prepared.image.movedim(axis + 1, 0).flatten(1).mean(dim=1)
    expected = slices / padded + prepared.background * (1 - 1 / padded)
    assert scores[0] == pytest.approx(float(expected.mean()), abs=1e-4)


def test_rare_classes_are_drawn_more_often(tiny_dataset):
    volumes = read_dataset(tiny_dataset).volumes
    rare = [one for one in volumes if one.target == tiny.CLASSES[0]][:1]
    some = (*rare, *(one for one in volumes if one.target == tiny.CLASSES[1]))
    _, scene = scene_for(Classification(), tiny_dataset, 2)
    for balance, times in ((1.0, len(some) - 1), (0.0, 1.0)):
        lesson = Classification(balance=balance).training_samples(some, scene, foreground=0.0)
        assert lesson.weights[0] / lesson.weights[1] == pytest.approx(times)


def test_a_single_class_is_rejected(tiny_dataset):
    volumes = [one.model_copy(update={"target": "a"}) for one in read_dataset(tiny_dataset).volumes]
    with pytest.raises(DataError, match=r"all training images have one class \(a\)"):
        Classification().names(read_dataset(tiny_dataset), volumes, None)
