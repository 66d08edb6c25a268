"""The staging folder: one process at a time, and nothing is left of a killed one."""

import pytest

from medmim.data.ingest.staging import locked_staging_folder
from medmim.errors import UsageError


def test_one_ingestion_at_a_time(tmp_path):
    with (
        locked_staging_folder(tmp_path / "out"),
        pytest.raises(UsageError, match="another ingestion"),
        locked_staging_folder(tmp_path / "out"),
    ):
        pass


def test_leftovers_of_a_killed_run_are_removed_and_the_dataset_stays(tmp_path):
    (tmp_path / ".staging-killed" / "old.work").mkdir(parents=True)
    (tmp_path / ".manifest.jsonl.1.tmp").touch()
    (tmp_path / "manifest.jsonl").touch()
    with locked_staging_folder(tmp_path) as staging:
        assert [path for path in sorted(tmp_path.iterdir()) if path.name != "manifest.jsonl"] == [staging]
        (staging / "volume.nii.gz").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.jsonl"]
