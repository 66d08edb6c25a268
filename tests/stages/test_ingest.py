"""Ingestion from end to end: checked volumes, one fate for every file, no patient identity in the result."""

from __future__ import annotations

import fcntl
import gzip
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_maker import make_slice, pixels_of, write_series
from ingest_source import count_fates, read_ledger, run_ingest
from pydicom.dataset import FileDataset

from medmim.data.dataset.manifest import read_dataset
from medmim.data.dataset.pseudonyms import KEY_FILE, Keys
from medmim.data.formats.nifti import Image
from medmim.data.formats.write_volume import encode_image
from medmim.data.ingest.scan import scan_file_as_json
from medmim.data.sandbox.sandbox import Answer, Sandbox
from medmim.data.synthetic.dicom_phantom import write_phantom
from medmim.errors import DataError, UsageError
from medmim.stages.ingest import ingest

REAL = Path(__file__).parents[3] / "shared" / "data"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the folder with real data is absent")


@pytest.fixture
def run(tmp_path: Path, sandbox: Sandbox) -> Any:
    """Ingest `tmp_path`/in and return the description of the dataset."""

    def call(**options: Any) -> Any:
        return run_ingest(tmp_path, **{"sandbox": sandbox, **options}).info

    return call


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def label_for(folder: Path, shape: tuple[int, ...] = (10, 8, 6), shift: float = 0.0, value: int = 2) -> Image:
    """Return a label on the grid of the series in `folder`."""
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(folder.iterdir())]
    first = next(header for header in headers if header.SOPInstanceUID.endswith(".1"))
    axes = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([axes[0] * 1.25, axes[1] * 1.5, np.cross(*axes) * 3.0], axis=1)
    affine[:3, 3] = np.array(first.ImagePositionPatient, float) + shift
    array = np.zeros(shape, np.uint8)
    array[2:4, 3, 1] = value
    return Image(array, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)


def test_phantom_from_end_to_end(tmp_path: Path, run: Any):
    truth = write_phantom(tmp_path / "in", seed=3, patients=3, size=32, slices=12)
    told: list[tuple[str, int, int]] = []
    info = run(progress=lambda *words: told.append(words))
    found = Counter(row.fate for row in read_ledger(tmp_path))
    assert found["accepted"] == truth.fates["accepted"] + truth.labels
    assert (found["quarantined"], found["skipped"]) == (truth.fates["quarantined"], truth.fates["skipped"])
    assert info.counts["files_seen"] == sum(found.values())
    keys = Keys.load_or_create(tmp_path / "home" / KEY_FILE)
    dataset = read_dataset(tmp_path / "out")
    by_series = {volume.series: volume for volume in dataset.volumes}
    assert len(by_series) == len(truth.shapes) == 3
    for uid, affine in truth.affines.items():
        volume = by_series[keys.key("series", uid)]
        image = nib.load(tmp_path / "out" / volume.image)
        np.testing.assert_allclose(image.affine, affine, atol=1e-3)
        assert image.shape == truth.shapes[uid] == volume.shape
        label = nib.load(tmp_path / "out" / str(volume.label))
        original = nib.load(tmp_path / "in" / "labels" / f"{uid}.nii.gz")
        np.testing.assert_array_equal(np.asanyarray(label.dataobj), np.asanyarray(original.dataobj))
        np.testing.assert_array_equal(label.affine, image.affine)
    assert {phase for phase, _, _ in told} == {"scan", "convert", "labels"}
    assert info.label_names == {1: "class 1", 2: "class 2"}


def test_no_patient_identity_is_written(tmp_path: Path, run: Any):
    def hide(dataset: FileDataset, place: int) -> None:
        dataset.PatientID = "SENTINEL-ID"
        dataset.StudyDescription = dataset.ImageComments = dataset.PatientAddress = "SENTINEL text"
        dataset.PatientBirthDate, dataset.InstitutionName = "19570312", "SENTINEL hospital"

    write_series(tmp_path / "in" / "SENTINEL folder", tweak=hide, series="1.2.840.99.4711")
    (tmp_path / "in" / "SENTINEL.txt").write_text("SENTINEL")
    label = encode_image(label_for(tmp_path / "in" / "SENTINEL folder"))
    (tmp_path / "in" / "1.2.840.99.4711.nii.gz").write_bytes(label)
    info = run()
    assert info.counts["labels"] == 1
    for name, content in contents(tmp_path / "out").items():
        plain = gzip.decompress(content) if name.endswith(".gz") else content
        for word in (b"SENTINEL", b"99.4711", b"19570312", "SENTINEL".encode("utf-16-le")):
            assert word not in name.encode() + plain


def test_the_result_does_not_depend_on_the_number_of_workers(tmp_path: Path, run: Any, home: Path):
    for number in range(3):
        write_series(tmp_path / "in" / f"{number}", series=f"1.2.{number}", patient=f"P{number}")
    run()
    first = contents(tmp_path / "out")
    run()
    assert contents(tmp_path / "out") == first
    ingest(tmp_path / "in", tmp_path / "other", home=home, workers=3)
    assert contents(tmp_path / "other") == first
    assert not list((tmp_path / "out").glob(".*"))


def test_every_file_has_a_fate(tmp_path: Path, run: Any):
    source = tmp_path / "in"
    sound = write_series(source / "a sound")
    shutil.copy(sound[0], source / "copy")
    write_series(source / "b gap", series="1.5", tweak=lambda d, k: None)
    next(p for p in (source / "b gap").iterdir() if pydicom.dcmread(p).SOPInstanceUID == "1.5.3").unlink()
    cut = write_series(source / "c cut", series="1.6")[2]
    cut.write_bytes(cut.read_bytes()[:-9])
    write_series(source / "d two contents", series="1.7")
    other = make_slice(3, series="1.7")
    other.PixelData = bytes(160)
    other.save_as(source / "d two contents" / "again", enforce_file_format=True)
    write_series(source / "e secondary", count=1, series="1.8", sop="1.2.840.10008.5.1.4.1.1.7")
    (source / "note.txt").write_text("text")
    (source / "photo.png").write_bytes(b"\x89PNG\r\n")
    (source / os.fsdecode(b"odd\xff\nname")).write_bytes(b"x")
    os.mkfifo(source / "fifo")
    (source / "link").symlink_to(sound[1])
    (source / "loop").symlink_to(source)
    (source / "broken.nii.gz").write_bytes(b"no gzip")
    info = run()
    assert count_fates(tmp_path) == {
        ("accepted", "volume"): 6,
        ("skipped", "duplicate_file"): 1,
        ("quarantined", "missing_slice"): 5,
        ("quarantined", "truncated"): 1,
        ("quarantined", "damaged_series"): 5,
        ("quarantined", "duplicate_instance"): 7,
        ("quarantined", "burned_in_risk"): 1,
        ("skipped", "not_dicom"): 2,
        ("skipped", "picture_beside_scans"): 1,
        ("skipped", "special_file"): 1,
        ("skipped", "link_duplicate"): 2,
        ("quarantined", "not_nifti"): 1,
    }
    counts = info.counts
    parts = counts["files_accepted"] + counts["files_quarantined"] + counts["files_skipped"]
    assert counts["files_seen"] == parts == 33


def test_slices_are_keys_in_array_order(tmp_path: Path, run: Any):
    paths = write_series(tmp_path / "in")
    run()
    (volume,) = read_dataset(tmp_path / "out").volumes
    keys = Keys.load_or_create(tmp_path / "home" / KEY_FILE)
    files = {keys.key("instance", pydicom.dcmread(path).SOPInstanceUID): path for path in paths}
    array = np.asanyarray(nib.load(tmp_path / "out" / volume.image).dataobj)
    for place, name in enumerate(volume.slices):
        np.testing.assert_array_equal(array[:, :, place], pixels_of(files[name]).T)
    assert volume.tokens == ("t1", "post", "ax")
    assert (volume.modality, volume.verdict, volume.spatial_dims) == ("MR", "right", 3)


def test_patients_keep_their_split_when_patients_are_added(tmp_path: Path, run: Any):
    for number in range(8):
        write_series(
            tmp_path / "in" / f"{number}", series=f"1.2.{number}", patient=f"P{number}", study=f"1.{number}"
        )
    run()
    before = {volume.subject: volume.split for volume in read_dataset(tmp_path / "out").volumes}
    for number in range(8, 14):
        write_series(
            tmp_path / "in" / f"{number}", series=f"1.2.{number}", patient=f"P{number}", study=f"1.{number}"
        )
    run()
    after = {volume.subject: volume.split for volume in read_dataset(tmp_path / "out").volumes}
    assert len(after) == 14
    assert {subject: after[subject] for subject in before} == before


def test_files_of_removed_volumes_are_deleted(tmp_path: Path, run: Any):
    for number in range(3):
        write_series(tmp_path / "in" / f"{number}", series=f"1.2.{number}", study=f"1.{number}")
    run()
    shutil.rmtree(tmp_path / "in" / "1")
    run()
    volumes = read_dataset(tmp_path / "out").volumes
    stored = {
        str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out" / "volumes").rglob("*.gz")
    }
    assert stored == {volume.image for volume in volumes}
    assert len(stored) == 2


def test_patient_without_a_number_is_flagged(tmp_path: Path, run: Any):
    write_series(tmp_path / "in", patient="")
    assert run().reasons == {"volume_without_patient": 6}


@pytest.mark.parametrize(
    ("options", "fate", "reason"),
    [
        ({}, "accepted", "label"),
        ({"value": 0}, "accepted", "label_empty"),
        ({"shape": (10, 9, 6)}, "quarantined", "label_shape"),
        ({"shift": 5.0}, "quarantined", "label_offset"),
    ],
)
def test_labels_in_a_separate_folder(
    tmp_path: Path, run: Any, options: dict[str, Any], fate: str, reason: str
):
    write_series(tmp_path / "in")
    (tmp_path / "labels").mkdir()
    content = encode_image(label_for(tmp_path / "in", **options))
    (tmp_path / "labels" / "1.2.3.4.nii.gz").write_bytes(content)
    (tmp_path / "labels" / "9.9.nii.gz").write_bytes(content)
    (tmp_path / "labels" / "readme.txt").write_text("labels")
    info = run(labels=tmp_path / "labels")
    rows = read_ledger(tmp_path)
    assert [(row.fate, row.reason) for row in rows[6:]] == [
        (fate, reason),
        ("quarantined", "label_without_image"),
        ("skipped", "not_dicom"),
    ]
    assert info.counts["labels"] == (fate == "accepted")
    assert info.counts["volumes"] == 1
    if reason == "label_offset":
        assert rows[6].measured["offset_mm"] == pytest.approx(5 * 3**0.5, abs=1e-3)
    if reason == "label_shape":
        assert rows[6].measured["label_1"] == 9
    if reason == "label":
        assert info.label_names == {2: "class 2"}


def test_a_label_is_attached_to_every_volume_on_its_grid(tmp_path: Path, run: Any):
    def set_echo(value: int) -> Any:
        def change(dataset: FileDataset, place: int) -> None:
            dataset.EchoTime = value
            dataset.SOPInstanceUID = f"{dataset.SOPInstanceUID}.{value}"

        return change

    write_series(tmp_path / "in" / "1", tweak=set_echo(10))
    label = label_for_first_echo(tmp_path / "in" / "1")
    write_series(tmp_path / "in" / "2", tweak=set_echo(20))
    write_series(tmp_path / "in" / "3", orientation=(0, 1, 0, 0, 0, -1), tweak=set_echo(30))
    (tmp_path / "in" / "1.2.3.4.nii.gz").write_bytes(encode_image(label))
    info = run()
    assert (info.counts["volumes"], info.counts["labels"]) == (3, 2)
    assert info.reasons == {"label": 1, "volume": 18}


def label_for_first_echo(folder: Path) -> Image:
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        if dataset.SOPInstanceUID == "1.2.3.4.1.10":
            copy = folder.parent / "one"
            copy.mkdir()
            dataset.SOPInstanceUID = "1.2.3.4.1"
            dataset.save_as(copy / "first")
            label = label_for(copy)
            shutil.rmtree(copy)
            return label
    raise AssertionError("no first slice")


def write_nifti(path: Path, seed: int, *, shape: tuple[int, ...] = (6, 7, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).integers(0, 900, shape).astype(np.int16)
    path.write_bytes(encode_image(Image(array, np.diag([1.0, 1.0, 2.0, 1.0]))))


def test_nifti_folder_with_faults(tmp_path: Path, run: Any):
    for number in range(3):
        write_nifti(tmp_path / "in" / f"sub-{number}" / "scan.nii.gz", number)
    whole = (tmp_path / "in" / "sub-0" / "scan.nii.gz").read_bytes()
    (tmp_path / "in" / "sub-8.nii.gz").write_bytes(whole[:-30])
    write_nifti(tmp_path / "in" / "flat.nii.gz", 1, shape=(1, 7, 8))
    info = run()
    assert count_fates(tmp_path) == {
        ("accepted", "volume"): 3,
        ("quarantined", "truncated"): 1,
        ("quarantined", "too_few_slices"): 1,
    }
    assert (info.name, info.counts["subjects"]) == ("dataset", 3)


def test_decathlon_layout_is_detected(tmp_path: Path, run: Any):
    for number in range(4):
        write_nifti(tmp_path / "in" / "imagesTr" / f"hippocampus_00{number}.nii.gz", number)
        array = np.zeros((6, 7, 8 if number else 9), np.uint8)
        array[2, 3, 4] = 1
        label = encode_image(Image(array, np.diag([1.0, 1.0, 2.0, 1.0])))
        (tmp_path / "in" / "labelsTr").mkdir(exist_ok=True)
        (tmp_path / "in" / "labelsTr" / f"hippocampus_00{number}.nii.gz").write_bytes(label)
    info = run()
    assert info.name == "msd-hippocampus"
    assert info.reasons == {"label": 3, "label_shape": 1, "volume": 4}
    assert info.label_names == {1: "anterior", 2: "posterior"}
    with pytest.raises(
        DataError, match=r"label values 1 and 2 are both named 'posterior', .* pass --label-name 2="
    ):
        run(label_names={1: "Posterior"})


def test_invalid_paths_are_rejected(tmp_path: Path, run: Any, home: Path):
    (tmp_path / "in").mkdir()
    with pytest.raises(UsageError, match=r"source .* does not exist"):
        ingest(tmp_path / "gone", tmp_path / "out", home=home)
    with pytest.raises(UsageError, match="contain each other"):
        ingest(tmp_path / "in", tmp_path / "in" / "out", home=home)
    with pytest.raises(UsageError, match="contain each other"):
        ingest(tmp_path / "in", tmp_path, home=home)
    with pytest.raises(UsageError, match=r"labels folder .* does not exist"):
        run(labels=tmp_path / "gone")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        ingest(tmp_path / "in", tmp_path / "file", home=home)
    with pytest.raises(DataError, match="no files"):
        run()


def test_unknown_layout(tmp_path: Path, run: Any):
    write_nifti(tmp_path / "in" / "a.nii.gz", 0)
    with pytest.raises(UsageError, match="did you mean 'msd'"):
        run(layout="mds")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_nothing_usable_still_gives_a_ledger(tmp_path: Path, run: Any):
    (tmp_path / "in").mkdir()
    for number in range(4):
        (tmp_path / "in" / f"{number}.txt").write_text("text")
    paths = write_series(tmp_path / "in" / "gap", count=3)
    paths[1].write_bytes(paths[1].read_bytes()[:-10])
    with pytest.raises(DataError, match=r"7 files, 3 quarantined and 4 skipped.*not_dicom \(4\)"):
        run()
    assert len(read_ledger(tmp_path)) == 7
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["ledger.jsonl"]


def test_a_failed_run_does_not_change_the_existing_dataset(tmp_path: Path, run: Any):
    paths = write_series(tmp_path / "in")
    run()
    before = contents(tmp_path / "out")
    for path in paths:
        path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="existing dataset is unchanged"):
        run()
    assert contents(tmp_path / "out") == before


def test_dataset_of_another_source_or_key_is_not_overwritten(tmp_path: Path, run: Any):
    write_series(tmp_path / "in")
    run()
    before = contents(tmp_path / "out")
    with pytest.raises(UsageError, match="another project key"):
        ingest(tmp_path / "in", tmp_path / "out", home=tmp_path / "elsewhere")
    write_series(tmp_path / "else", series="1.77")
    with pytest.raises(UsageError, match="contains the dataset of another source"):
        ingest(tmp_path / "else", tmp_path / "out", home=tmp_path / "home")
    assert contents(tmp_path / "out") == before
    (tmp_path / "out" / "dataset.json").write_text("{")
    with pytest.raises(DataError, match="splits would be lost"):
        run()


def test_one_ingestion_at_a_time(tmp_path: Path, run: Any):
    write_series(tmp_path / "in")
    (tmp_path / "out").mkdir()
    lock = os.open(tmp_path / "out", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(UsageError, match="another ingestion"):
        run()
    os.close(lock)
    assert run().counts["volumes"] == 1


def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path, run: Any):
    write_series(tmp_path / "in")
    (tmp_path / "out" / ".staging" / "old.work").mkdir(parents=True)
    run()
    assert not (tmp_path / "out" / ".staging").exists()


class PoisonedSandbox(Sandbox):
    """A sandbox in which scanning a file named `poison` kills the process."""

    def run_each(self, function: Any, tasks: Any, **options: Any) -> list[Answer]:
        scan = function is scan_file_as_json
        return super().run_each(poisoned_scan if scan else function, tasks, **options)


def poisoned_scan(path: str, secret: str) -> dict[str, Any]:
    if path.endswith("poison"):
        os.abort()
    return scan_file_as_json(path, secret)


def test_a_crashing_parser_costs_one_file(tmp_path: Path, run: Any):
    write_series(tmp_path / "in" / "sound")
    (tmp_path / "in" / "poison").write_bytes(b"x")
    with PoisonedSandbox(1) as sandbox:
        assert run(sandbox=sandbox).reasons == {"parser_crash": 1, "volume": 6}


@real
def test_real_studies(tmp_path: Path, home: Path):
    info = ingest(REAL / "dicom" / "studies", tmp_path / "out", home=home, workers=1)
    assert info.reasons == {"volume": 219}
    assert (info.counts["volumes"], info.counts["subjects"]) == (8, 3)
