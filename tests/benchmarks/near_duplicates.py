"""Share of altered copies that the perceptual hash finds, and pairs of images that it reports, for a folder.

    python tests/benchmarks/near_duplicates.py FOLDER ['PATIENT_REGEX']

Reads NIfTI, PNG and JPEG. Images whose paths have the same first group of PATIENT_REGEX are of one patient.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import click
import nibabel as nib
import numpy as np
import PIL.Image
from scipy.ndimage import zoom

from medmim.data.dataset.perceptual_hash import perceptual_hash, similar_pairs


def jpeg(image, quality):
    """Return a picture after compression."""
    file = io.BytesIO()
    PIL.Image.fromarray((unit(image) * 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return np.asarray(PIL.Image.open(file))


def unit(image):
    """Return an image scaled to 0 to 1."""
    return (image - image.min()) / max(np.ptp(image), 1e-9)


def cropped(image, share):
    """Return an image without a share of each side."""
    return image[tuple(slice(int(share * side), side - int(share * side)) for side in image.shape)]


def padded(image):
    """Return an image with a tenth of its side before and a fifth after it."""
    return np.pad(image, [(side // 10, side // 5) for side in image.shape], constant_values=image.min())


def noisy(image):
    """Return an image with noise of 6 % of its standard deviation."""
    return image + np.random.default_rng(0).normal(0, 0.06 * image.std(), image.shape)


def one_changed(image):
    """Return an image with one very bright voxel."""
    changed = image.copy()
    changed[tuple(side // 2 for side in image.shape)] = 2 * image.max()
    return changed


ALTERATIONS = {
    "offset": lambda image: image + 1024,
    "0 to 1": unit,
    "8 bits": lambda image: np.round(unit(image) * 255),
    "clipped": lambda image: np.clip(image, *np.percentile(image, (1, 99))),
    "one voxel": one_changed,
    "mirrored": lambda image: image[::-1],
    "padded": padded,
    "half size": lambda image: zoom(image, 0.5, order=1),
    "1.5 times": lambda image: zoom(image, 1.5, order=1),
    "gamma 1.3": lambda image: unit(image) ** 1.3,
    "noise": noisy,
    "crop 2 %": lambda image: cropped(image, 0.02),
    "crop 5 %": lambda image: cropped(image, 0.05),
    "crop 10 %": lambda image: cropped(image, 0.1),
    "JPEG 90": lambda image: jpeg(image, 90),
    "JPEG 50": lambda image: jpeg(image, 50),
}


def read(path):
    """Return an image as an array of 2 or 3 axes."""
    if path.name.endswith((".nii", ".nii.gz")):
        return np.squeeze(np.asarray(nib.load(path).dataobj, np.float64))
    return np.asarray(PIL.Image.open(path).convert("L"), np.float64)


def main(folder, pattern="(.*)"):
    """Print the table of one folder."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.name.endswith((".gz", ".nii", "g")))
    patients = [found.group(1) if (found := re.search(pattern, str(path))) else str(path) for path in paths]
    hashes = [perceptual_hash(read(path)) or "" for path in paths]
    pairs = [(first, second) for first, second in similar_pairs(hashes, hashes) if first < second]
    others = sum(patients[first] != patients[second] for first, second in pairs)
    click.echo(f"{len(paths)} images: {len(pairs)} similar pairs, {others} of them of different patients")
    chosen = range(0, len(paths), max(1, len(paths) // 60))
    for name, alter in ALTERATIONS.items():
        copies = [(read(paths[place]), hashes[place]) for place in chosen]
        copies = [one for one in copies if one[0].ndim == 2 or not name.startswith("JPEG")]
        found = sum(
            bool(list(similar_pairs([perceptual_hash(alter(image)) or ""], [text]))) for image, text in copies
        )
        click.echo(f"{name:10} {found} of {len(copies)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
