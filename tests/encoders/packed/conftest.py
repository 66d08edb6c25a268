"""Images, a mask, and the images packed with it."""

import pytest
from packed_cells import some

from medmim.encoders import pack


@pytest.fixture
def images():
    return some((4, 4), (2, 3))[0]


@pytest.fixture
def hidden():
    return some((4, 4), (2, 3))[1]


@pytest.fixture
def value(images, hidden):
    return pack(images, hidden)
