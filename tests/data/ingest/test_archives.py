"""Archives: a packed dataset gives the same volumes as the unpacked one."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import PIL.Image
import pytest
import SimpleITK as sitk  # noqa: N813
from dicom_maker import write_series
from ingest_source import run_ingest, save_json

from medmim.data.dataset.manifest import read_dataset
from medmim.files import read_jsonl

AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])


def nifti(path, seed, *, label=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 2 if label else 900, (8, 7, 6))
    nib.save(nib.Nifti1Image(values.astype(np.uint8 if label else np.int16), AFFINE), path)


def write_set(folder, kind):
    """Write a small data set of one kind."""
    folder.mkdir()
    if kind == "decathlon":
        for number in range(3):
            nifti(folder / "Task99" / "imagesTr" / f"SENTINEL_{number}.nii.gz", number)
            nifti(folder / "Task99" / "labelsTr" / f"SENTINEL_{number}.nii.gz", number, label=True)
        content = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver"}}
        save_json(folder / "Task99" / "dataset.json", content)
    elif kind == "volumes":
        image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 900, (5, 6, 7)).astype(np.int16))
        sitk.WriteImage(image, str(folder / "SENTINEL a.nrrd"))
        sitk.WriteImage(image + 1, str(folder / "SENTINEL b.mha"))
        nifti(folder / "SENTINEL c.nii", 3)
    elif kind == "pictures":
        write_pictures(folder)
    elif kind == "series with a label":
        write_series(folder / "SENTINEL", series="1.2.55")
        nifti(folder / "1.2.55.nii.gz", 0)
    else:
        entries = {
            f"{part}_{what}": np.arange(count, dtype=np.uint8).reshape(shape)
            for part in ("train", "val", "test")
            for what, count, shape in (("images", 3 * 28 * 28 % 256 and 48, (3, 4, 4)), ("labels", 3, (3, 1)))
        }
        np.savez(folder / "pneumoniamnist.npz", **entries)


def write_pictures(folder):
    images = []
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 50)).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"SENTINEL {number}.png")
        images.append({"id": number, "file_name": f"SENTINEL {number}.png"})
    marks = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 6, 10, 12]}]
    categories = [{"id": 1, "name": "lesion"}]
    save_json(folder / "coco.json", {"images": images, "annotations": marks, "categories": categories})


def packed(folder, archive, form):
    """Pack a folder as a zip or tar archive."""
    if form == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    made.write(path, str(path.relative_to(folder)))
        return
    with tarfile.open(archive, form) as made:
        made.add(folder, ".")


def facts(root):
    """Return volumes, reasons and label names, without keys that depend on paths."""
    dataset = read_dataset(root / "out")
    names = {"id", "image", "label", "subject", "study", "series", "split", "slices", "group"}
    names.add("loose_subject")
    volumes = sorted(one.model_dump_json(exclude=names) for one in dataset.volumes)
    rows = list(read_jsonl(root / "out" / "ledger.jsonl"))
    reasons = Counter((row["fate"], row["reason"]) for row in rows)
    assert len({row["file"] for row in rows}) == len(rows)
    assert [row["number"] for row in rows] == list(range(len(rows)))
    return volumes, reasons, dict(dataset.info.label_names)


@pytest.fixture
def run(sandbox):
    """Ingest `root`/in and return what is known of its files."""

    def call(root, **options):
        run_ingest(root, sandbox=sandbox, **options)
        return facts(root)

    return call


@pytest.mark.parametrize("form", ["zip", "w:gz"])
@pytest.mark.parametrize("kind", ["decathlon", "volumes", "pictures", "series with a label", "arrays"])
def test_a_packed_dataset_gives_the_same_volumes(tmp_path, run, kind, form):
    (tmp_path / "disk").mkdir()
    write_set(tmp_path / "disk" / "in", kind)
    volumes, reasons, names = run(tmp_path / "disk")
    assert volumes
    root = tmp_path / "packed"
    (root / "in").mkdir(parents=True)
    packed(tmp_path / "disk" / "in", root / "in" / "set.archive", form)
    assert run(root) == (volumes, reasons + Counter({("skipped", "archive_unpacked"): 1}), names)
    assert not list((root / "out").glob(".staging*"))
    written = [path for path in (root / "out").rglob("*") if path.is_file()]
    assert not [path for path in written if "SENTINEL" in str(path) or b"SENTINEL" in path.read_bytes()]


def test_members_with_equal_or_missing_names(tmp_path, run):
    (tmp_path / "in").mkdir()
    made = []
    for number in range(2):
        nifti(tmp_path / f"{number}.nii.gz", number)
        made.append((tmp_path / f"{number}.nii.gz").read_bytes())
    with tarfile.open(tmp_path / "in" / "a.tar", "w") as archive:
        for name, content in [("x.nii.gz", made[0]), ("x.nii.gz", made[1]), ("./x.nii.gz", b""), ("..", b"")]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    shutil.copy(tmp_path / "in" / "a.tar", tmp_path / "in" / "b.tar")
    _, reasons, _ = run(tmp_path)
    assert reasons == {
        ("skipped", "archive_unpacked"): 2, ("accepted", "volume"): 4, ("quarantined", "not_nifti"): 2,
        ("quarantined", "path_outside_archive"): 2,
    }  # fmt: skip


def test_archives_in_the_labels_folder(tmp_path, run):
    write_series(tmp_path / "in", series="1.2.55")
    nifti(tmp_path / "1.2.55.nii.gz", 0)
    (tmp_path / "labels").mkdir()
    packed_label = gzip.decompress((tmp_path / "1.2.55.nii.gz").read_bytes())
    with zipfile.ZipFile(tmp_path / "labels" / "all.zip", "w") as archive:
        archive.writestr("folder/1.2.55.nii", packed_label)
    _, reasons, _ = run(tmp_path, labels=tmp_path / "labels")
    assert reasons["quarantined", "label_shape"] == 1
    assert reasons["accepted", "volume"] == 6


def test_hidden_folders_in_archives_are_skipped(tmp_path, run):
    nifti(tmp_path / "a.nii.gz", 0)
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.nii.gz", "a.nii.gz")
        archive.writestr("__MACOSX/._a.nii.gz", b"\0\5\x16\7")
    _, reasons, _ = run(tmp_path)
    assert reasons["skipped", "hidden_folder"] == 1


def test_a_picture_next_to_dicom_in_an_archive_is_skipped(tmp_path, run):
    write_series(tmp_path / "set" / "series")
    PIL.Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "set" / "screen.png")
    (tmp_path / "in").mkdir()
    packed(tmp_path / "set", Path(tmp_path / "in" / "a.zip"), "zip")
    _, reasons, _ = run(tmp_path)
    assert reasons["skipped", "picture_beside_scans"] == 1
