"""A scanned series with its volume, for tests of labels."""

from __future__ import annotations

from pathlib import Path

import pytest
from dicom_maker import stack_of, task_of, write_series

from medmim.data.dicom.convert_uncompressed import convert_uncompressed


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A folder with a series, and its volume beside it."""
    paths = write_series(tmp_path / "scan")
    convert_uncompressed(task_of(stack_of(paths), tmp_path))
    return tmp_path / "scan"
