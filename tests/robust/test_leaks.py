"""The same scan under two patients is reported, in the dataset and by the command."""

from __future__ import annotations

import json

from click.testing import CliRunner
from dicom_maker import write_series
from ingest_source import run_ingest

from medmim.cli import main
from medmim.data.dataset.manifest import read_dataset
from medmim.data.ingest.warning_texts import warning_text
from medmim.files import read_jsonl


def test_the_same_pixels_under_two_patients(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDMIM_HOME", str(tmp_path / "home"))
    for number, patient in enumerate(("P1", "P2", "P3")):
        words = {"series": f"1.2.{number}", "study": f"1.3.{number}", "patient": patient}
        write_series(
            tmp_path / "in" / str(number),
            count=6 if number < 2 else 7,
            tweak=lambda dataset, place: setattr(dataset, "InstanceNumber", place + 1),
            **words,
        )
    words = ["ingest", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--workers", "1"]
    ran = CliRunner().invoke(main, [*words, "--json"])
    assert ran.exit_code == 0, ran.output
    (warning,) = json.loads(ran.stdout.splitlines()[-1])["warnings"]
    assert warning["kind"] == "same_pixels_under_two_subjects"
    dataset = read_dataset(tmp_path / "out")
    alike = {volume.id for volume in dataset.volumes if volume.shape[2] == 6}
    assert set(warning["volumes"]) == alike
    assert dataset.info.warnings == (warning,)
    assert "same voxels under 2 patients" in CliRunner().invoke(main, words).output
    files = {row["volume"] for row in read_jsonl(tmp_path / "out" / "ledger.jsonl") if row["volume"]}
    assert alike <= files


def test_patients_with_look_alike_identifiers(tmp_path, sandbox):
    for number, patient in enumerate(("pat-7", "PAT-07", "pat-70")):
        words = {"series": f"1.2.{number}", "study": f"1.3.{number}", "patient": patient}
        write_series(tmp_path / "in" / str(number), count=4 + number, **words)
    dataset = run_ingest(tmp_path, sandbox=sandbox)
    (warning,) = dataset.info.warnings
    assert (warning["kind"], warning["patients"]) == ("patients_look_alike", 2)
    assert "only in case, punctuation or leading zeros" in warning_text(warning)
    assert len({one.subject for one in dataset.volumes}) == 3  # reported, not merged
