"""The source that robustness is tried on: a DICOM series, a labelled volume, and a file of no use."""

from pathlib import Path

import numpy as np
from dicom_maker import write_series

from medmim.data.formats.nifti import Image
from medmim.data.formats.write_volume import encode_image


def write_source(folder: Path, *, seed: int = 0) -> Path:
    """Write five files that become two volumes and a label."""
    write_series(folder / "series", count=3, series=f"1.2.{seed + 4}", patient=f"P{seed}", study=f"1.{seed}")
    rng = np.random.default_rng(seed)
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    label = np.zeros((6, 7, 8), np.uint8)
    label[2, 3, 4] = 1
    scan = rng.integers(0, 900, (6, 7, 8)).astype(np.int16)
    for kind, array in {"imagesTr": scan, "labelsTr": label}.items():
        (folder / kind).mkdir(parents=True, exist_ok=True)
        name = f"hippocampus_{seed:03d}.nii.gz"
        (folder / kind / name).write_bytes(encode_image(Image(array, affine)))
    (folder / "note.txt").write_text("no scan")
    return folder
