import errno
import gzip
import hashlib
import multiprocessing
import os
import random
from pathlib import Path

import pytest
import torch

from medmim.data.dataset.manifest import read_dataset
from medmim.data.loading.disk_cache import DiskCache
from medmim.data.loading.preprocess import VolumeLoader, preprocess
from medmim.data.loading.preprocessing_plan import PreprocessingPlan

KEY = "0" * 32
TENSORS = {"image": torch.arange(24.0).reshape(1, 2, 3, 4), "slice_axis": torch.tensor(2)}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def cache(tmp_path):
    return DiskCache(tmp_path / "prepared", limit_gb=1.0)


def kept(folder):
    return sorted(folder.rglob("*.safetensors"))


def test_what_is_put_is_got(cache):
    assert cache.get(KEY) is None
    cache.put(KEY, TENSORS)
    assert same(cache.get(KEY), TENSORS)
    assert cache.get("1" * 32) is None


def test_200_flipped_bits_and_60_truncations_are_found(cache):
    cache.put(KEY, TENSORS)
    (path,) = kept(cache.folder)
    whole, chance = path.read_bytes(), random.Random(0)
    for number in range(260):
        place = chance.randrange(len(whole))
        flipped = whole[:place] + bytes([whole[place] ^ 1 << chance.randrange(8)]) + whole[place + 1 :]
        path.write_bytes(flipped if number < 200 else whole[:place])
        assert cache.get(KEY) is None
        assert not path.exists()


def test_disk_is_bounded_and_the_longest_unused_go(tmp_path):
    size = len(written(tmp_path / "one"))
    cache = DiskCache(tmp_path / "prepared", limit_gb=2.5 * size / 1e9)
    keys = [digit * 32 for digit in "012"]
    for age, key in enumerate(keys[:2]):
        cache.put(key, TENSORS)
        (path,) = cache.folder.glob(f"*/{key}-*")
        os.utime(path, (age, age))
    held = cache.get(keys[0])  # now the most recently used
    cache.put(keys[2], TENSORS)
    assert cache.get(keys[1]) is None
    assert same(cache.get(keys[0]), TENSORS)
    assert same(held, TENSORS)
    DiskCache(tmp_path / "none", limit_gb=1e-9).put(KEY, TENSORS)
    assert not (tmp_path / "none").exists()


def test_nothing_waits_for_the_disk(cache, monkeypatch):
    monkeypatch.setattr(os, "fsync", None)
    cache.put(KEY, TENSORS)
    assert same(cache.get(KEY), TENSORS)


def test_many_writers_stay_within_the_limit(tmp_path):
    size = len(written(tmp_path / "one"))
    writers = [DiskCache(tmp_path / "prepared", limit_gb=200 * size / 1e9) for _ in range(4)]
    most = 0
    for number in range(600):
        writers[number % 4].put(f"{number % 3:02x}{number:030x}", TENSORS)  # few folders are counted sooner
        most = max(most, sum(1 for _ in (tmp_path / "prepared").glob("*/*")))
    assert 180 <= most <= 200


class CountingPath(type(Path())):
    """A folder that counts how often its cached files are listed."""

    listed = 0

    def glob(self, pattern):
        type(self).listed += pattern.endswith(".safetensors")
        return super().glob(pattern)


def test_the_folder_is_not_looked_through_for_each_file(tmp_path):
    cache = DiskCache(CountingPath(tmp_path / "prepared"), limit_gb=1.0)
    for number in range(100):
        cache.put(f"{number:032x}", TENSORS)
    assert CountingPath.listed == 1


def written(folder):
    DiskCache(folder, limit_gb=1.0).put(KEY, TENSORS)
    return kept(folder)[0].read_bytes()


def test_an_open_map_survives_its_file(cache):
    cache.put(KEY, TENSORS)
    held = cache.get(KEY)
    kept(cache.folder)[0].unlink()
    assert same(held, TENSORS)


def test_what_is_done_to_a_volume_does_not_reach_the_disk(cache):
    cache.put(KEY, TENSORS)
    cache.get(KEY)["image"].zero_()
    assert same(cache.get(KEY), TENSORS)


def test_prepared_volumes_come_from_disk_as_they_were_made(dataset_copy, cache):
    plan, row = PreprocessingPlan(3, (16, 16, 16)), read_dataset(dataset_copy).volumes[0]
    made = preprocess(dataset_copy, row, plan)
    VolumeLoader(dataset_copy, plan, cache_gb=1.0, disk=cache)(row)
    (dataset_copy / row.image).unlink()
    again = VolumeLoader(dataset_copy, plan, cache_gb=1.0, disk=cache)(row)
    assert torch.equal(again.image, made.image)
    assert torch.equal(again.label, made.label)
    assert torch.equal(again.places, made.places)
    assert (again.affine == made.affine).all()
    assert again.slice_axis == made.slice_axis


def test_a_full_disk_costs_the_cache_and_not_the_run(tiny_dataset, cache, monkeypatch, caplog):
    def full(temporary, place):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    plan, rows = PreprocessingPlan(3, (16, 16, 16)), read_dataset(tiny_dataset).volumes[:2]
    volumes = VolumeLoader(tiny_dataset, plan, cache_gb=1.0, disk=cache)
    for row in rows:
        assert torch.equal(volumes(row).image, preprocess(tiny_dataset, row, plan).image)
    [said] = caplog.messages
    assert said.startswith("preprocessed volumes are not cached: ")
    assert said.endswith("No space left on device; free disk space, or --set cache_disk_gb=0")


def test_what_a_killed_writer_left_is_removed_when_it_is_old(cache):
    cache.put(KEY, TENSORS)
    folder = kept(cache.folder)[0].parent
    old, new = folder / ".a.tmp", folder / ".b.tmp"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    DiskCache(cache.folder, limit_gb=1.0).put("1" * 32, TENSORS)
    assert not old.exists()
    assert new.exists()


def rewritten(path):
    """Compress a file differently and return its new hash."""
    content = gzip.compress(gzip.decompress(path.read_bytes()), 1)
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("change", ["sha256", "label_sha256", "modality", "spacing_mm", "dims"])
def test_another_source_or_preparation_has_another_key(dataset_copy, cache, change):
    plan, row = PreprocessingPlan(3, (16, 16, 16)), read_dataset(dataset_copy).volumes[0]
    others = {
        "spacing_mm": PreprocessingPlan(3, (16, 16, 16), (1.0, 1.0, 1.0)),
        "dims": PreprocessingPlan(2, (16, 16)),
    }
    VolumeLoader(dataset_copy, plan, cache_gb=1.0, disk=cache)(row)
    if change not in others:
        written = {"sha256": row.image, "label_sha256": row.label}.get(change)
        row = row.model_copy(update={change: rewritten(dataset_copy / written) if written else "CT"})
    VolumeLoader(dataset_copy, others.get(change, plan), cache_gb=1.0, disk=cache)(row)
    assert len(kept(cache.folder)) == 2


def test_patches_of_other_sizes_share_prepared_volumes(tiny_dataset, cache):
    row = read_dataset(tiny_dataset).volumes[0]
    for size in (8, 16):
        VolumeLoader(tiny_dataset, PreprocessingPlan(3, (size,) * 3), cache_gb=1.0, disk=cache)(row)
    assert len(kept(cache.folder)) == 1


def test_two_processes_may_put_the_same_volume(tiny_dataset, cache):
    plan, rows = PreprocessingPlan(3, (16, 16, 16)), read_dataset(tiny_dataset).volumes[:3]

    def work():
        volumes = VolumeLoader(tiny_dataset, plan, cache_gb=1.0, disk=cache)
        for row in rows:
            volumes(row)

    workers = [multiprocessing.get_context("fork").Process(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(kept(cache.folder)) == 3
