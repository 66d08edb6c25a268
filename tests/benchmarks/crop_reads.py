"""How fast random crops are read from a prepared volume: memory map, blosc2, zarr.

python tests/benchmarks/crop_reads.py [VOLUME.nii.gz] [CROP]

blosc2 and zarr are no dependencies: `pip install blosc2 zarr` in an environment of its own. The volume is
repeated to at least 256 voxels along each axis, or made of smooth noise. Formats take turns; medians.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import blosc2
import numpy as np
import safetensors.torch
import torch
import zarr
from scipy.ndimage import gaussian_filter

LONGEST, CHUNK, CROPS, ROUNDS = 256, 64, 40, 7


def volume(path):
    """A float32 volume of at least 256 voxels along each axis."""
    if path is None:
        smooth = gaussian_filter(np.random.default_rng(0).normal(size=(LONGEST,) * 3), 1.5)
        return (smooth / smooth.std()).astype(np.float32)
    import nibabel

    image = np.asarray(nibabel.load(path).dataobj, dtype=np.float32)
    image = (image - image.mean()) / image.std()
    return np.ascontiguousarray(np.tile(image, [-(-LONGEST // length) for length in image.shape]))


def readers(image, folder):
    """A function for each format that reads a crop, and the bytes that the format takes."""
    chunks = (CHUNK,) * 3
    safetensors.torch.save_file({"image": torch.from_numpy(image)}, folder / "map.safetensors")
    mapped = safetensors.torch.load_file(folder / "map.safetensors")["image"]
    blosc2.asarray(image, urlpath=str(folder / "image.b2nd"), chunks=chunks)
    packed = blosc2.open(str(folder / "image.b2nd"), mmap_mode="r")
    stored = zarr.create_array(folder / "image.zarr", shape=image.shape, chunks=chunks, dtype=image.dtype)
    stored[:] = image
    found = {"memory map": mapped, "blosc2": packed, "zarr": stored}
    sizes = [
        sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file())
        for pattern in ("map.safetensors", "image.b2nd", "image.zarr/**/*")
    ]
    return {
        name: (lambda where, source=source: np.ascontiguousarray(source[where]), size)
        for (name, source), size in zip(found.items(), sizes, strict=True)
    }


def main(path=None, crop=64):
    image, rng = volume(path), np.random.default_rng(1)
    starts = [[rng.integers(0, length - crop + 1) for length in image.shape] for _ in range(CROPS)]
    crops = [tuple(slice(start, start + crop) for start in one) for one in starts]
    with tempfile.TemporaryDirectory() as folder:
        formats = readers(image, Path(folder))
        spent = {name: [] for name in formats}
        for _ in range(ROUNDS):
            for name, (read, _) in formats.items():
                begun = time.perf_counter()
                read_crops = [read(where) for where in crops]
                spent[name].append((time.perf_counter() - begun) / CROPS * 1000)
                assert all(
                    np.array_equal(one, image[where]) for one, where in zip(read_crops, crops, strict=True)
                )
        for name, (_, size) in formats.items():
            median = statistics.median(spent[name])
            line = f"{name:<12} {median:7.2f} ms a crop of {crop}³  {size / 2**20:7.1f} MiB on disk"
            sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]))
