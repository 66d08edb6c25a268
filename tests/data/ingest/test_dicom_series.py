"""DICOM files become volumes and single images; each file has one row of the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_maker import write_series
from frames_maker import make_enhanced, make_picture

from medmim.data.dataset.manifest import DatasetInfo, read_dataset
from medmim.errors import DataError
from medmim.files import read_jsonl
from medmim.stages.ingest import ingest

US = "1.2.840.10008.5.1.4.1.1.6.1"
PIXELS = np.random.default_rng(0).integers(0, 255, (12, 9)).astype(np.uint8)


def run(tmp_path: Path, **options: Any) -> DatasetInfo:
    return ingest(tmp_path / "in", tmp_path / "out", home=tmp_path / "home", workers=1, **options)


def test_classes_with_burned_in_risk_need_the_users_consent(tmp_path: Path):
    (tmp_path / "in").mkdir()
    make_picture(US, PIXELS).save_as(tmp_path / "in" / "us", enforce_file_format=True)
    with pytest.raises(DataError, match=r"burned_in_risk \(1\)"):
        run(tmp_path)
    assert run(tmp_path, allow_burned_in=True).reasons == {"picture": 1}
    (volume,) = read_dataset(tmp_path / "out").volumes
    assert (volume.spatial_dims, volume.shape, volume.modality) == (2, (9, 12, 1), "US")
    assert volume.flags["burned_in_text"] == "possible"
    assert volume.flags["spacing"] == "unknown"


def test_a_file_with_several_volumes_has_one_row(tmp_path: Path):
    (tmp_path / "in").mkdir()
    make_enhanced(4, times=3).save_as(tmp_path / "in" / "file", enforce_file_format=True)
    assert run(tmp_path).counts["volumes"] == 3
    (row,) = read_jsonl(tmp_path / "out" / "ledger.jsonl")
    assert (row["fate"], row["reason"], row["measured"]["volumes"]) == ("accepted", "volume", 3)
    volumes = read_dataset(tmp_path / "out").volumes
    assert len({volume.id for volume in volumes}) == 3
    assert len({volume.pixels_sha256 for volume in volumes}) == 3


def test_a_series_of_a_mask_is_not_ingested_as_an_image(tmp_path: Path):
    """As in 3D-IRCADb, whose masks are DICOM images on the grid of their scan."""

    def mask(dataset: Any, place: int) -> None:
        dataset.PixelData = (np.indices((8, 10)).sum(axis=0) < 2 * place).astype(np.int16).tobytes()

    write_series(tmp_path / "in" / "scan")
    write_series(tmp_path / "in" / "liver", series="1.2.3.5", tweak=mask)
    info = run(tmp_path)
    assert info.reasons == {"volume": 6, "looks_like_label": 6}
    assert info.counts["volumes"] == 1
    assert info.warnings == ({"kind": "no_label_used", "files": 6},)
