"""Copies of files and slices are dropped once each; contradicting instances block their series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_maker import make_slice, save_all, write_series
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import RLELossless

from medmim.data.dataset.manifest import DatasetInfo, read_dataset
from medmim.data.ingest.dicom_copies import hash_content, hash_file, hash_pixels
from medmim.errors import DataError
from medmim.stages.ingest import ingest


def run(tmp_path: Path, **options: Any) -> DatasetInfo:
    return ingest(tmp_path / "in", tmp_path / "out", home=tmp_path / "home", workers=1, **options)


def test_hashes_of_content_do_not_depend_on_compression(tmp_path: Path):
    plain, packed = make_slice(0), make_slice(0)
    packed.compress(RLELossless, generate_instance_uid=False)
    paths = [str(path) for path in save_all(tmp_path, [plain, packed, make_slice(1)])]
    assert len({hash_file(path) for path in paths}) == 3
    assert len({hash_content(path) for path in paths}) == 2
    assert hash_pixels(paths[0]) == hash_pixels(paths[1]) != hash_pixels(paths[2])


def test_copies_in_another_compression_and_damaged_copies_are_dropped(tmp_path: Path):
    paths = write_series(tmp_path / "in" / "a")
    (tmp_path / "in" / "b").mkdir()
    dataset = dcmread(paths[2])
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.save_as(tmp_path / "in" / "b" / "packed", enforce_file_format=True)
    (tmp_path / "in" / "b" / "cut").write_bytes(paths[3].read_bytes()[:-20])
    assert run(tmp_path).reasons == {"volume": 6, "duplicate_file": 1, "truncated": 1}


def with_more(places: list[int]) -> list[FileDataset]:
    """Return a series of six slices, and more slices at some of its positions with other instances."""
    made = [make_slice(place) for place in (*range(6), *places)]
    for number, dataset in enumerate(made[6:]):
        dataset.SOPInstanceUID, dataset.InstanceNumber = f"1.2.3.4.9.{number}", 200 + number
    return made


@pytest.mark.parametrize("places", [[2], [0, 1, 2], list(range(6))])
def test_slices_with_equal_pixels_at_one_position_are_dropped(tmp_path: Path, places: list[int]):
    save_all(tmp_path / "in", with_more(places))
    assert run(tmp_path).reasons == {"volume": 6, "duplicate_slice": len(places)}
    (volume,) = read_dataset(tmp_path / "out").volumes
    assert (volume.shape, volume.verdict) == ((10, 8, 6), "right")


def test_slices_with_different_pixels_at_one_position_are_refused(tmp_path: Path):
    made = with_more([2])
    made[-1].PixelData = np.ones((8, 10), np.int16).tobytes()
    save_all(tmp_path / "in", made)
    with pytest.raises(DataError, match=r"duplicate_position \(7\)"):
        run(tmp_path)


def test_slices_with_one_instance_uid_at_different_positions_are_a_volume(tmp_path: Path):
    made = [make_slice(place) for place in range(6)]
    for dataset in made:
        dataset.SOPInstanceUID = "1.2.3.4.7"
    save_all(tmp_path / "in", made)
    assert run(tmp_path).reasons == {"volume": 6}
    (volume,) = read_dataset(tmp_path / "out").volumes
    assert volume.flags == {"repeated_instance_uid": "5"}


def test_two_contents_of_one_instance_at_one_position_block_their_series(tmp_path: Path):
    made = [make_slice(place) for place in (*range(6), 2)]
    made[-1].PixelData = np.ones((8, 10), np.int16).tobytes()
    save_all(tmp_path / "in", made)
    with pytest.raises(DataError, match=r"duplicate_instance \(7\)"):
        run(tmp_path)
