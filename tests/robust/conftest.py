"""What the tests of robustness share."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "data"))  # where the maker of DICOM series lies


@pytest.fixture
def source(tmp_path):
    from small_source import write_source

    return write_source(tmp_path / "in")
