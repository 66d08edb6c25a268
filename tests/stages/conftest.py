"""Lets the tests of stages use the DICOM maker of the tests of data."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "data"))
