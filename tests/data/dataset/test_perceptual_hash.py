"""Altered copies of a scan have similar perceptual hashes, other scans do not."""

import io

import numpy as np
import PIL.Image
import pytest

from medmim.data.dataset.perceptual_hash import perceptual_hash, similar_pairs

ALTERATIONS = {
    "offset": lambda scan: scan + 1024,
    "0 to 1": lambda scan: scan / scan.max(),
    "8 bits": lambda scan: (scan / scan.max() * 255).astype(np.uint8),
    "clipped": lambda scan: np.minimum(scan, np.percentile(scan, 99)),
    "one voxel changed": lambda scan: np.where(np.arange(scan.size).reshape(scan.shape) == 7, 5000, scan),
    "mirrored": lambda scan: scan[::-1, ::-1],
    "padded": lambda scan: np.pad(scan, 3),
    "background cropped": lambda scan: scan[(slice(3, -3),) * scan.ndim],
    "twice the size": lambda scan: np.kron(scan, np.ones((2,) * scan.ndim)),
}


def scan_of(seed, dims):
    """Return a smooth object on a dark background."""
    random, side = np.random.default_rng(seed), {2: 128, 3: 32}[dims]
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, side)] * dims, indexing="ij"))
    waves = sum(
        np.cos(np.tensordot(random.uniform(-9, 9, dims), grid, 1) + random.uniform(0, 6)) for _ in range(9)
    )
    return np.where((grid**2).sum(axis=0) < 0.5, 200 + 20 * waves, 0.0)


def are_similar(first, second):
    return bool(list(similar_pairs([perceptual_hash(first)], [perceptual_hash(second)])))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_altered_copies_are_similar(alteration, dims):
    scan = scan_of(0, dims)
    assert are_similar(scan, ALTERATIONS[alteration](scan))


def test_a_jpeg_of_a_picture_is_similar():
    scan, file = scan_of(0, 2), io.BytesIO()
    PIL.Image.fromarray((scan / scan.max() * 255).astype(np.uint8)).save(file, "JPEG", quality=75)
    assert are_similar(scan, np.asarray(PIL.Image.open(file)))


@pytest.mark.parametrize("dims", [2, 3])
def test_different_scans_are_not_similar(dims):
    hashes = [perceptual_hash(scan_of(seed, dims)) for seed in range(20)]
    assert set(similar_pairs(hashes, hashes)) == {(place, place) for place in range(20)}


def test_pictures_are_not_compared_with_volumes():
    assert not are_similar(scan_of(0, 2), scan_of(0, 3))


def test_images_without_structure_have_no_hash():
    assert perceptual_hash(np.zeros((32, 32, 1))) is None
    assert perceptual_hash(np.eye(5)) is None
    assert perceptual_hash(np.arange(9)) is None
