"""`medmim ingest --dry-run` previews every series and writes nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from dicom_maker import write_series

from medmim.cli import main
from medmim.data.formats.nifti import Image
from medmim.data.formats.write_volume import encode_image
from medmim.errors import UsageError
from medmim.stages.ingest import preview


@pytest.fixture
def source(tmp_path):
    write_series(tmp_path / "in" / "a sound", series="1.2.1", patient="SENTINEL-A")
    write_series(tmp_path / "in" / "b short", series="1.2.2", patient="SENTINEL-B", study="1.9", count=5)
    gap = sorted((tmp_path / "in" / "b short").iterdir())
    gap[2].unlink()
    (tmp_path / "in" / "note.txt").write_text("text")
    return tmp_path / "in"


def test_rows_of_series(source, tmp_path):
    found = preview(source, tmp_path / "out", workers=1)
    sound, short = found.series
    assert (sound.patient, sound.study, sound.series) == (1, 1, 1)
    assert (short.patient, short.study, short.series) == (2, 2, 2)
    assert (sound.modality, sound.files, sound.outcome) == ("MR", 6, "volume")
    assert sound.shape == (10, 8, 6)
    assert sound.spacing_mm == (1.25, 1.5, 3.0)
    assert sound.tokens == ("t1", "post", "ax")
    assert short.outcome not in ("volume", "picture")
    assert found.others == {"not_dicom": 1}
    assert found.files_seen == 11


def test_nothing_is_written_and_no_patient_identity_is_shown(source, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDMIM_HOME", str(tmp_path / "home"))
    before = sorted(tmp_path.rglob("*"))
    for words in ([], ["--json"]):
        ran = CliRunner().invoke(
            main, ["ingest", str(source), "--out", str(tmp_path / "out"), "--dry-run", *words]
        )
        assert ran.exit_code == 0, ran.output
        assert "SENTINEL" not in ran.output
        assert "1.2.1" not in ran.output
    assert json.loads(ran.stdout.splitlines()[-1])["series"][0]["outcome"] == "volume"
    assert sorted(tmp_path.rglob("*")) == before


def test_images_and_labels_of_a_layout(tmp_path):
    for kind in ("imagesTr", "labelsTr"):
        (tmp_path / "in" / kind).mkdir(parents=True)
        for number in range(2):
            array = np.full((4, 5, 6), number, np.uint8)
            path = tmp_path / "in" / kind / f"hippocampus_00{number}.nii.gz"
            path.write_bytes(encode_image(Image(array, np.eye(4))))
    found = preview(tmp_path / "in", tmp_path / "out", workers=1)
    assert (found.layout, found.images, found.labels) == ("msd", 2, 2)
    assert found.series == ()


def test_labels_named_after_a_series_are_counted_as_labels(source, tmp_path):
    for folder, name in ((source, "1.2.1"), (tmp_path / "labels", "other")):
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.nii.gz").write_bytes(encode_image(Image(np.ones((10, 8, 6), np.uint8), np.eye(4))))
    found = preview(source, tmp_path / "out", workers=1, labels=tmp_path / "labels")
    assert found.others == {"label": 2, "not_dicom": 1}
    assert found.images == 0


def test_paths_are_checked_as_for_ingestion(source):
    with pytest.raises(UsageError, match="contain each other"):
        preview(source, source / "out")
