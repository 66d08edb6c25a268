"""Every change to a dataset is found, and the volume is named."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import tiny

from medmim.data.dataset.manifest import read_dataset
from medmim.errors import DataError
from medmim.stages.verify import verify


def test_an_intact_dataset_has_no_problems(dataset_copy):
    told = []
    result = verify(dataset_copy, progress=lambda *words: told.append(words))
    assert result.problems == ()
    assert told[-1] == ("hash", 20, 20)
    assert result.as_json()["ok"]


def test_changed_and_missing_files_are_listed_by_id(dataset_copy):
    first, second, third = read_dataset(dataset_copy).volumes[:3]
    tiny.flip_a_bit(dataset_copy / first.image, random.Random(0))
    (dataset_copy / second.label).unlink()
    (dataset_copy / third.image).write_bytes(b"")
    found = {(one.what, one.id, one.reason) for one in verify(dataset_copy).problems}
    assert found == {
        ("volume", first.id, "changed since it was written"),
        ("label", second.id, "missing"),
        ("volume", third.id, "changed since it was written"),
    }


def test_extra_files_and_lost_rows_are_found(dataset_copy):
    (dataset_copy / "volumes" / "stray.nii.gz").write_bytes(b"x")
    (dataset_copy / ".staging-old").mkdir()
    lines = (dataset_copy / "ledger.jsonl").read_text().splitlines(keepends=True)
    (dataset_copy / "ledger.jsonl").write_text("".join(lines[1:]))
    found = [str(one) for one in verify(dataset_copy).problems]
    assert "folder: 1 file without a row in the manifest" in found
    assert "folder: the staging folder of a killed or running ingest" in found
    assert "ledger.jsonl: changed since it was written" in found
    assert "ledger.jsonl: gives files_seen 9, expected 10" in found


def test_an_edited_manifest_is_found(dataset_copy):
    path = dataset_copy / "manifest.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["split"] = "test" if rows[0]["split"] != "test" else "train"
    rows[1]["subject"] = rows[2]["subject"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = [str(one) for one in verify(dataset_copy).problems]
    assert "manifest.jsonl: changed since it was written" in found
    assert "manifest.jsonl: does not match the content hash in dataset.json" in found


def is_reported(dataset: Path) -> bool:
    """Return whether damage is reported, by problems or because the dataset cannot be read."""
    try:
        return bool(verify(dataset).problems)
    except DataError:
        return True


@pytest.mark.parametrize("seed", range(5))
def test_bit_flips_and_truncations_are_found(seed, dataset_copy):
    """40 bit flips and 12 truncations per seed: every one is reported and nothing crashes."""
    chance = random.Random(seed)
    files = sorted(path for path in dataset_copy.rglob("*") if path.is_file())
    for number in range(52):
        path = files[number % 3] if number % 4 == 0 else chance.choice(files)
        content = path.read_bytes()
        if number < 40:
            tiny.flip_a_bit(path, chance)
        else:
            path.write_bytes(content[: chance.randrange(len(content))])
        assert is_reported(dataset_copy), path.name
        path.write_bytes(content)
    assert verify(dataset_copy).problems == ()


def test_a_subject_in_two_splits_is_found(tmp_path):
    root = tiny.make_dataset(tmp_path / "data", patients=3)
    found = read_dataset(root)
    moved = [found.volumes[0].model_copy(update={"subject": found.volumes[1].subject, "split": "val"})]
    tiny.write_dataset(root, found.info, [*moved, *found.volumes[1:]], [])
    assert any(one.what == "subject" for one in verify(root).problems)
