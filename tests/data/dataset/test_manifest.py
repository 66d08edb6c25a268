"""The dataset folder is written and read back unchanged; damage and newer formats are reported."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from medmim import files
from medmim.data.dataset.manifest import (
    FORMAT_VERSION,
    DatasetInfo,
    LedgerRow,
    VolumeRecord,
    description_hash,
    digest_of,
    read_dataset,
    write_dataset,
)
from medmim.errors import DataError


def volume(name, **changes):
    row = {
        "id": name,
        "subject": f"s-{name}",
        "study": "t",
        "series": "r",
        "image": f"volumes/{name}.nii.gz",
        "modality": "MR",
        "spatial_dims": 3,
        "shape": (4, 5, 6),
        "spacing_mm": (1.0, 1.0, 2.5),
        "orientation": "RAS",
        "sha256": "0" * 64,
        "verdict": "right",
    }
    return VolumeRecord(**(row | changes))


def ledger(number, fate="accepted", reason="volume"):
    return LedgerRow(number=number, file=f"{number:04d}", fate=fate, reason=reason)


@pytest.fixture
def rows():
    volumes = [
        volume("b", split="train", label="labels/b.nii.gz", label_sha256="1" * 64),
        volume("a", split="val", subject="s-b"),
        volume("c", split="test"),
    ]
    ledgers = [ledger(2, "skipped", "not_dicom"), ledger(0), ledger(1), ledger(3, "quarantined", "truncated")]
    return volumes, ledgers


@pytest.fixture
def folder(tmp_path, rows):
    write_dataset(tmp_path, DatasetInfo(name="d", label_names={1: "lesion", 10: "core", 2: "rim"}), *rows)
    return tmp_path


def rewrite(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"image": "../../evil.nii.gz"},
        {"image": "/etc/evil.nii.gz"},
        {"label": "labels/../../../evil.nii.gz"},
        {"id": "../../evil"},
        {"id": ".."},
        {"subject": "a/../../evil"},
        {"study": "a\nb"},
        {"series": "..\\evil"},
    ],
)
def test_paths_that_leave_the_dataset_are_refused(folder, changes):
    """Predictions and exports are named after the keys of a manifest, which may come from others."""
    row = json.loads((folder / "manifest.jsonl").read_text().splitlines()[0]) | changes
    (folder / "manifest.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match="names a file outside of its folder: do not trust it"):
        read_dataset(folder)


def test_a_dataset_is_read_back_unchanged(folder, rows):
    dataset = read_dataset(folder)
    assert dataset.root == folder
    assert dataset.volumes == tuple(sorted(rows[0], key=lambda v: v.id))
    assert dataset.info.label_names == {1: "lesion", 2: "rim", 10: "core"}
    assert [row["number"] for row in files.read_jsonl(folder / "ledger.jsonl")] == [0, 1, 2, 3]


def test_counts_add_up(folder):
    info = read_dataset(folder).info
    assert info.counts == {
        "boxes": 0,
        "targets": 0,
        "files_seen": 4,
        "files_accepted": 2,
        "files_quarantined": 1,
        "files_skipped": 1,
        "volumes": 3,
        "labels": 1,
        "subjects": 2,
        "train": 1,
        "val": 1,
        "test": 1,
    }
    assert info.reasons == {"not_dicom": 1, "truncated": 1, "volume": 2}


def test_volumes_by_split_and_label(folder):
    dataset = read_dataset(folder)
    assert [v.id for v in dataset.in_split("train", "test")] == ["b", "c"]
    assert [v.id for v in dataset.labelled] == ["b"]


def test_label_codes_list_background_first(tmp_path, rows):
    names = {1035: "insula", 17: "hippocampus", 255: "unlabelled"}
    info = DatasetInfo(name="d", label_names=names, ignore_label=255)
    assert write_dataset(tmp_path, info, *rows).label_codes == (0, 17, 1035)
    assert read_dataset(tmp_path).info.label_codes == (0, 17, 1035)


def test_datasets_of_format_1_get_label_codes_and_keep_their_hash(folder):
    path = folder / "dataset.json"
    content = json.loads(path.read_text())
    new = DatasetInfo.model_validate(content | {"format_version": 1})
    newer = ("label_codes", "ignore_label", "regions")
    old = {name: value for name, value in content.items() if name not in newer}
    hashes = {name: value for name, value in old["file_sha256"].items() if name != "dataset.json"}
    old |= {"format_version": 1, "file_sha256": hashes}
    path.write_text(json.dumps(old | {"file_sha256": hashes | {"dataset.json": digest_of(old)}}))
    info = read_dataset(folder).info
    assert info.label_codes == (0, 1, 2, 10)
    assert description_hash(info) == digest_of(old) == description_hash(new)


def test_equal_rows_in_any_order_give_equal_bytes(tmp_path, rows):
    volumes, ledgers = rows
    for name, (first, second) in {"1": (volumes, ledgers), "2": (volumes[::-1], ledgers[::-1])}.items():
        write_dataset(tmp_path / name, DatasetInfo(name="d"), iter(first), iter(second))
    for name in ("dataset.json", "manifest.jsonl", "ledger.jsonl"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


@pytest.mark.parametrize(
    "change", [{"sha256": "2" * 64}, {"split": "test"}, {"label_sha256": "2" * 64}, {"id": "z"}]
)
def test_the_content_hash_depends_on_volumes_labels_and_splits(change, tmp_path, rows):
    volumes, ledgers = rows
    first = write_dataset(tmp_path, DatasetInfo(name="d"), volumes, ledgers)
    changed = [volumes[0].model_copy(update=change), *volumes[1:]]
    assert write_dataset(tmp_path, DatasetInfo(name="d"), changed, ledgers).content_hash != first.content_hash
    assert write_dataset(tmp_path, DatasetInfo(name="other"), volumes, []).content_hash == first.content_hash


def test_the_split_hash_depends_on_splits_only(tmp_path, rows):
    volumes, ledgers = rows
    hashes = []
    for i, change in enumerate([{}, {"sha256": "2" * 64}, {"split": "test"}]):
        rows = [volumes[0].model_copy(update=change), *volumes[1:]]
        write_dataset(tmp_path / str(i), DatasetInfo(name="d"), rows, ledgers)
        hashes.append(read_dataset(tmp_path / str(i)).split_hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_description_is_written_last(tmp_path, rows, monkeypatch):
    replace, order = Path.replace, []

    def broken(self, target):
        order.append(target.name)
        if target.name == "dataset.json":
            raise OSError("the disk is gone")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        write_dataset(tmp_path, DatasetInfo(name="d"), *rows)
    assert order == ["manifest.jsonl", "ledger.jsonl", "dataset.json"]
    with pytest.raises(DataError, match="no dataset at"):
        read_dataset(tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_a_folder_without_dataset_is_rejected(tmp_path):
    with pytest.raises(
        DataError, match=r"expected a folder with dataset\.json; create it with `medmim ingest SRC`"
    ) as e:
        read_dataset(tmp_path / "nowhere")
    assert e.value.reason == "no_dataset"


@pytest.mark.parametrize(
    "damage",
    [
        lambda root: (root / "manifest.jsonl").unlink(),
        lambda root: (root / "manifest.jsonl").write_text('{"id": "half'),
        lambda root: (root / "manifest.jsonl").write_bytes(b"\xff\xfe"),
        lambda root: (root / "manifest.jsonl").write_text("[1, 2]\n"),
        lambda root: (root / "dataset.json").write_text("[]"),
        lambda root: (root / "dataset.json").write_text("{"),
        lambda root: rewrite(root / "dataset.json", colour="blue"),
    ],
)
def test_damaged_datasets_are_reported(damage, folder):
    damage(folder)
    with pytest.raises(DataError, match=r"cannot be read \(\w+\): run `medmim ingest` again") as refused:
        read_dataset(folder)
    assert refused.value.reason == "damaged_dataset"


def test_messages_quote_no_manifest_content(folder):
    (folder / "manifest.jsonl").write_text('{"subject": "Jane Doe"}\n')
    with pytest.raises(DataError, match="cannot be read") as refused:
        read_dataset(folder)
    assert "Jane" not in str(refused.value)


def test_a_newer_format_is_not_reported_as_damage(folder):
    rewrite(folder / "dataset.json", format_version=FORMAT_VERSION + 1, new_field=[1])
    with pytest.raises(
        DataError, match=r"has format 3, this medmim reads up to 2: install a newer medmim"
    ) as refused:
        read_dataset(folder)
    assert refused.value.reason == "newer_format"


def test_rows_are_frozen_and_validated():
    with pytest.raises(ValidationError, match="frozen"):
        volume("a").id = "b"
    with pytest.raises(ValidationError, match="patient_name"):
        volume("a", patient_name="x")
    with pytest.raises(ValidationError, match="split"):
        volume("a", split="holdout")


def test_the_digest_treats_tuples_as_lists_and_ignores_key_order():
    assert digest_of({"a": (1, 2), "b": 3}) == digest_of({"b": 3, "a": [1, 2]})
    assert digest_of([1]) != digest_of(["1"])
