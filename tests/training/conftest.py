"""Fixtures of the training tests."""

import pytest
from small_training import SmallTraining


@pytest.fixture
def training(tiny_dataset, tmp_path):
    """Return a function that runs a training of a few steps in a new folder."""

    def make(name="run", **settings):
        return SmallTraining(tiny_dataset, tmp_path / name, **settings)

    return make
