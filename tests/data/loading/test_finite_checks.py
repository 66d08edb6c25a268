"""Volumes with NaN or infinity are rejected, or left out with a line that names them."""

import numpy as np
import pytest
import tiny
import torch

from medmim.data.dataset.manifest import read_dataset
from medmim.data.loading.finite_checks import first_finite, load_finite
from medmim.data.loading.preprocess import PreprocessedVolume
from medmim.errors import DataError


@pytest.fixture
def volumes(tiny_dataset):
    return read_dataset(tiny_dataset).volumes[:4]


def loader(volumes, bad):
    """Return a function that gives volumes with the value `bad` for all but the third."""

    def prepare(volume):
        image = torch.zeros(1, *tiny.SHAPE)
        image[0, 0, 0, 0] = 0.0 if volume.id == volumes[2].id else bad
        return PreprocessedVolume(image, None, np.eye(4), 2)

    return prepare


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_volume_with_other_values_is_rejected_by_its_id(volumes, bad):
    prepare = loader(volumes, bad)
    assert load_finite(volumes[2], prepare).image.isfinite().all()
    with pytest.raises(DataError, match=f"volume {volumes[0].id}: its image contains values") as caught:
        load_finite(volumes[0], prepare)
    assert caught.value.reason == "not_finite"


def test_the_first_finite_volumes_are_chosen_and_the_others_logged(volumes, caplog):
    assert first_finite(volumes, loader(volumes, float("nan")), count=1) == [volumes[2]]
    assert [record.args[0] for record in caplog.records] == [volumes[0].id, volumes[1].id]
    assert first_finite(volumes, loader(volumes, 1.0), count=2) == list(volumes[:2])


def test_without_a_finite_volume_there_is_an_error(volumes):
    with pytest.raises(DataError, match="no image for evaluations is finite"):
        first_finite(volumes[:2], loader(volumes, float("nan")), count=1)
