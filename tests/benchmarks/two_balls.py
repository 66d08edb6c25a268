"""Write volumes with two equal balls, labelled left and right: mirroring left-right destroys these labels.

python -m tests.benchmarks.two_balls /data/two_balls
medmim ingest /data/two_balls --as msd --out two-balls
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import nibabel as nib
import numpy as np

_SHAPE = (40, 32, 32)
_PATIENTS = 60


def write_two_balls(folder: Path, *, patients: int = _PATIENTS, seed: int = 0) -> None:
    """Write images and labels in the layout of the Medical Segmentation Decathlon.

    Args:
        folder: folder to write.
        patients: number of volumes.
        seed: seed of positions, sizes and noise.
    """
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in _SHAPE), indexing="ij"), axis=-1)
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(patients):
        image, label = rng.normal(100, 15, _SHAPE), np.zeros(_SHAPE, dtype=np.uint8)
        shift = rng.uniform(-4, 4, 3)
        for code, across in ((1, 12.0), (2, 28.0)):
            centre = np.array([across, 16.0, 16.0]) + shift + rng.uniform(-2, 2, 3)
            inside = ((grid - centre) ** 2).sum(axis=-1) < rng.uniform(4, 6) ** 2
            image[inside] += 25
            label[inside] = code
        for kind, values in (("imagesTr", image.astype(np.float32)), ("labelsTr", label)):
            nib.save(nib.Nifti1Image(values, np.eye(4)), folder / kind / f"balls_{number:03d}.nii.gz")
    described = {
        "name": "two balls",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "ball one", "2": "ball two"},
        "training": [
            {"image": f"./imagesTr/balls_{n:03d}.nii.gz", "label": f"./labelsTr/balls_{n:03d}.nii.gz"}
            for n in range(patients)
        ],
    }
    (folder / "dataset.json").write_text(json.dumps(described), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    write_two_balls(parser.parse_args().folder)
