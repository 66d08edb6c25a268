"""Folders of label maps of several tools, as challenges and nnU-Net store them."""

import json

import nibabel as nib
import numpy as np

NAMES = {"background": 0, "front": 1, "back": 2}


def label_map(seed=0, *, errors=0.0, shape=(10, 9, 8), values=(0, 1, 2)):
    """Two boxes of random size; `errors` is the share of their voxels that a tool misses."""
    rng = np.random.default_rng(seed)
    array = np.zeros(shape, dtype=np.uint8)
    low, high = rng.integers(1, 3, 3), rng.integers(6, 8, 3)
    array[low[0] : 5, low[1] : high[1], low[2] : high[2]] = 1
    array[5 : high[0] + 1, low[1] : high[1], low[2] : high[2]] = 2
    array[rng.random(shape) < errors] = 0
    return np.asarray(values, dtype=np.uint16)[array]


def save(folder, name, array, *, shift_mm=0.0, spacing_mm=1.5):
    folder.mkdir(parents=True, exist_ok=True)
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[0, 3] = shift_mm
    nib.save(nib.Nifti1Image(array, affine), folder / name)


def write_names(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps({"labels": names}))


def two_tools(root, *, cases=8, missing=(), shifted=()):
    """labels, a good tool and a worse one; the worse one lacks some cases and shifts others."""
    write_names(root / "labels", NAMES)
    for number in range(cases):
        name = f"case_{number:03d}.nii.gz"
        save(root / "labels", name, label_map(number))
        save(root / "good", name, label_map(number, errors=0.02 + 0.002 * number))
        if number not in missing:
            shift = 4.0 if number in shifted else 0.0
            save(root / "worse", name, label_map(number, errors=0.2 + 0.01 * number), shift_mm=shift)
    return root
