"""DICOM-SEG of an asymmetric phantom lies where the phantom lies, whatever way its slices run."""

import csv
import gzip
import json
import shutil

import highdicom as hd
import numpy as np
import pydicom
import pytest
import threshold
import tiny
from dicom_maker import make_slice, unit
from frames_maker import make_enhanced

from medmim.config.runs import FinetuneSettings
from medmim.data.formats.nifti import read_image
from medmim.stages.finetune.run import finetune
from medmim.stages.predict.run import predict

SHAPE = (30, 26, 18)  # columns, rows, slices
SPACING = (1.5, 1.25, 2.0)  # between columns, rows, slices
CENTRE = np.array([12.0, -31.0, 55.0])  # of the phantom, mm (LPS)

# row direction, column direction (LPS); slices follow the normal, or run against it
STACKS = {
    "axial": ((1, 0, 0, 0, 1, 0), 1),
    "coronal": ((1, 0, 0, 0, 0, -1), 1),
    "oblique": ((0.98, 0.17, 0.1032, -0.19899, 0.888, 0.41459), 1),
    "descending": ((1, 0, 0, 0, 1, 0), -1),
    "feet first": ((-1, 0, 0, 0, 1, 0), -1),
}


def distance(points):
    """Signed distance in mm to the surface of a ball with an arm to one side and a short one upwards."""
    local = points - CENTRE
    ball = np.linalg.norm(local, axis=-1) - 6.0
    arms = [_box(local - [8.0, 2.0, 1.0], [6.0, 2.5, 2.5]), _box(local - [-2.0, -1.0, 9.0], [2.5, 2.5, 4.0])]
    return np.minimum.reduce([ball, *arms])


def _box(points, half):
    beyond = np.abs(points) - half
    return np.linalg.norm(np.maximum(beyond, 0), axis=-1) + np.minimum(beyond.max(axis=-1), 0)


def grid_of(name):
    """(column, row, slice) → mm (LPS), with the phantom in the middle."""
    orientation, way = STACKS[name]
    axes = np.reshape(unit(orientation), (2, 3))
    steps = np.column_stack([*axes, way * np.cross(*axes)]) * SPACING
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = steps, CENTRE - steps @ ((np.array(SHAPE) - 1) / 2) + [1.3, 0.4, -0.7]
    return affine


def points_of(affine, shape):
    return np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]


def write_stack(folder, name, *, rounding=0.0):
    """Write the phantom: bright inside, with a soft edge that is 500 at the surface; return its grid.

    rounding: by how much direction cosines differ from slice to slice, as in real series.
    """
    affine = grid_of(name)
    image = np.clip(500 - 125 * distance(points_of(affine, SHAPE)), 0, 1000)
    folder.mkdir(parents=True)
    for place in range(SHAPE[2]):
        slice_ = make_slice(place, orientation=STACKS[name][0])
        slice_.ImagePositionPatient = (affine[:3, :3] @ [0, 0, place] + affine[:3, 3]).round(6).tolist()
        slice_.ImageOrientationPatient[0] += rounding * (place % 2)
        slice_.Columns, slice_.Rows = SHAPE[:2]
        slice_.PixelSpacing, slice_.SliceThickness = [SPACING[1], SPACING[0]], SPACING[2]
        slice_.InstanceNumber = place + 1
        slice_.PixelData = image[:, :, place].T.astype("<i2").tobytes()
        slice_.save_as(folder / f"im{place * 7 % 19:02d}", enforce_file_format=True)
    return affine, image


def middle(image):
    """The value of the surface, as the network sees it."""
    low, high = np.percentile(image, [0.5, 99.5])
    scaled = np.clip((image - low) / (high - low), 0, 1)
    return float(((500 - low) / (high - low) - scaled.mean()) / scaled.std())


def read_back(path):
    """A segmentation and its marked voxels in mm (LPS)."""
    segmentation = hd.seg.segread(path)
    volume = segmentation.get_volume(combine_segments=True, allow_missing_positions=True)
    marked = np.argwhere(volume.array > 0)
    return segmentation, marked @ volume.affine[:3, :3].T + volume.affine[:3, 3]


def errors(found, affine):
    """How far marked voxels lie beside the source's voxels, in voxels, and beyond the surface, in mm."""
    inverse = np.linalg.inv(affine)
    voxels = found @ inverse[:3, :3].T + inverse[:3, 3]
    mask = np.zeros(SHAPE, bool)
    mask[tuple(np.rint(voxels).astype(int).T)] = True
    away = distance(points_of(affine, SHAPE))
    wrong = mask != (away < 0)
    return float(np.abs(voxels - np.rint(voxels)).max()), float(np.abs(away[wrong]).max(initial=0.0))


def predicted(tmp_path, home, name, **model):
    """The grid of a stack, and what a model that marks the phantom makes of it."""
    affine, image = write_stack(tmp_path / "scans", name)
    weights = threshold.write_model(tmp_path / "model", middle(image), **model)
    made = predict(tmp_path / "scans", tmp_path / "out", home=home, model=str(weights))
    assert list(made.dicom.values()) == ["written"]
    return affine, made


def named_positions(segmentation, folder):
    """Where each frame says that it lies, and where the slice that it names lies, in mm (LPS)."""
    slices = {one.SOPInstanceUID: one for one in map(pydicom.dcmread, folder.iterdir())}
    own, named = [], []
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        named.append(slices[source].ImagePositionPatient)
        own.append(frame.PlanePositionSequence[0].ImagePositionPatient)
    return np.array(own, float), np.array(named, float)


# the others run with the slow tests
FAST = ("oblique", "descending")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in STACKS]
)
def test_a_segmentation_lies_where_the_phantom_lies(name, tmp_path, home):
    affine, made = predicted(tmp_path, home, name)
    [path] = (made.out / "dicom").rglob("*.dcm")
    segmentation, found = read_back(path)
    beside, surface = errors(found, affine)
    assert beside < 1e-3
    assert surface < 0.05 * min(SPACING)  # grey values were rounded
    own, named = named_positions(segmentation, tmp_path / "scans")
    np.testing.assert_allclose(own, named, atol=1e-4)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("dims", "name"),
    [
        (2, "descending"),
        (3, "oblique"),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in [(2, "oblique"), (3, "descending")]),
    ],
)
def test_a_segmentation_comes_back_from_another_spacing(name, dims, tmp_path, home):
    spacing = 1.7
    affine, made = predicted(tmp_path, home, name, dims=dims, spacing_mm=[spacing] * 3)
    [path] = (made.out / "dicom").rglob("*.dcm")
    beside, surface = errors(read_back(path)[1], affine)
    assert beside < 1e-3
    assert surface <= 0.5 * spacing  # half a voxel of the grid that the network saw


def test_slices_whose_directions_differ_in_their_last_digits_are_one_volume(tmp_path, home):
    affine, image = write_stack(tmp_path / "scans", "oblique", rounding=2e-6)
    weights = threshold.write_model(tmp_path / "model", middle(image))
    made = predict(tmp_path / "scans", tmp_path / "out", home=home, model=str(weights))
    assert list(made.dicom.values()) == ["written"]
    [path] = (made.out / "dicom").rglob("*.dcm")
    beside, surface = errors(read_back(path)[1], affine)
    assert beside < 1e-3
    assert surface < 0.05 * min(SPACING)


def test_the_nifti_file_and_the_table_hold_the_same_labels(tmp_path, home):
    affine, made = predicted(tmp_path, home, "oblique")
    [path] = (made.out / "segmentations").rglob("*.gz")
    image = read_image(path)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    np.testing.assert_allclose(image.affine, lps, atol=1e-4)
    away = distance(points_of(affine, SHAPE))
    assert np.abs(away[(image.array > 0) != (away < 0)]).max(initial=0.0) < 0.05 * min(SPACING)
    [row] = csv.DictReader((made.out / "volumes.csv").open())
    count = int(np.count_nonzero(image.array))
    assert int(row["voxels"]) == count
    assert float(row["ml"]) == pytest.approx(count * np.prod(SPACING) / 1000, rel=1e-3)


def test_identifiers_are_in_the_dicom_file_only(tmp_path, home):
    _, made = predicted(tmp_path, home, "axial")
    secrets = [b"PAT-7", b"SENTINEL", b"1.2.3.4"]
    for path in made.out.rglob("*"):  # sources.csv is for the user alone and has paths of the source
        if path.is_file() and path.suffix != ".dcm" and path.name != "sources.csv":
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            assert not any(secret in content for secret in secrets), path.name
    assert not [path for path in made.out.iterdir() if path.name.startswith(".")]


def test_frames_of_one_file_are_referred_to(tmp_path, home):
    (tmp_path / "scans").mkdir()
    source = make_enhanced(5)
    source.save_as(tmp_path / "scans" / "frames.dcm", enforce_file_format=True)
    weights = threshold.write_model(tmp_path / "model", 0.0)
    made = predict(tmp_path / "scans", tmp_path / "out", home=home, model=str(weights))
    assert list(made.dicom.values()) == ["written"]
    [path] = (made.out / "dicom").rglob("*.dcm")
    _, found = read_back(path)
    [label] = (made.out / "segmentations").rglob("*.gz")
    image = read_image(label)
    marked = np.argwhere(image.array > 0) @ image.affine[:3, :3].T + image.affine[:3, 3]
    mine, other = (sorted(map(tuple, points.round(3).tolist())) for points in (marked * [-1, -1, 1], found))
    np.testing.assert_allclose(mine, other, atol=2e-3)


def test_slices_in_an_archive_are_predicted_without_a_dicom_file(tmp_path, home):
    _, image = write_stack(tmp_path / "scans", "axial")
    shutil.make_archive(str(tmp_path / "packed" / "scans"), "zip", tmp_path / "scans")
    weights = threshold.write_model(tmp_path / "model", middle(image))
    made = predict(tmp_path / "packed", tmp_path / "out", home=home, model=str(weights))
    assert list(made.dicom.values()) == ["source_not_found"]
    assert len(list((made.out / "segmentations").rglob("*.gz"))) == 1


@pytest.mark.parametrize("name", ["oblique", pytest.param("descending", marks=pytest.mark.slow)])
def test_boxes_are_traced_to_the_files_of_their_slices(name, tiny_dataset, tmp_path, home):
    affine, _ = write_stack(tmp_path / "scans", name)
    words = {**tiny.TINY, "data": tiny_dataset, "task": "detect", "dims": 3, "steps": 1, "num_evaluations": 1}
    result = finetune(FinetuneSettings(**words, init="scratch"), home=home, log=lambda line: None)
    described = result.checkpoint.with_suffix(".json")
    chosen = {"thresholds": dict.fromkeys(tiny.NAMES.values(), 0.0)}
    described.write_text(json.dumps({**json.loads(described.read_text()), "chosen": chosen}))
    made = predict(tmp_path / "scans", tmp_path / "out", home=home, model=str(result.checkpoint), force=True)
    rows = list(csv.DictReader((made.out / "boxes.csv").open()))
    walked, normal = sorted((tmp_path / "scans").iterdir()), affine[:3, 2] / SPACING[2]
    assert rows
    for row in rows:
        ends = [np.array([float(row[f"{end}_{axis}_mm"]) for axis in "xyz"]) for end in ("first", "last")]
        for end, corner in zip(("first", "last"), ends, strict=True):
            slice_ = pydicom.dcmread(walked[int(row[f"{end}_file"])])
            away = (np.array(slice_.ImagePositionPatient, float) - corner) @ normal
            inward = np.sign((ends[0] + ends[1] - 2 * corner) @ normal)
            # the corner is on or beyond the slice's outer face
            assert abs(away * inward) <= 0.505 * SPACING[2], (name, end)


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        pytest.param("ISO_IR 100", "Müller^Jörg", marks=pytest.mark.slow),
        ("ISO_IR 192", "Ковалёв^Лев"),
        pytest.param(None, "PLAIN^ANNE", marks=pytest.mark.slow),
    ],
)
def test_names_of_patients_and_classes_keep_their_letters(charset, name, tmp_path, home):
    _, image = write_stack(tmp_path / "scans", "axial")
    for path in (tmp_path / "scans").iterdir():
        slice_ = pydicom.dcmread(path)
        if charset:
            slice_.SpecificCharacterSet = charset
        slice_.PatientName = name
        slice_.save_as(path, enforce_file_format=True)
    weights = threshold.write_model(tmp_path / "model", middle(image))
    described = weights.with_suffix(".json")
    told = json.loads(described.read_text())
    described.write_text(json.dumps({**told, "label_names": {"1": "Ödem\\rechts"}}))
    made = predict(tmp_path / "scans", tmp_path / "out", home=home, model=str(weights))
    [path] = (made.out / "dicom").rglob("*.dcm")
    segmentation = pydicom.dcmread(path)
    assert segmentation.SpecificCharacterSet == "ISO_IR 192"
    assert str(segmentation.PatientName) == name
    assert segmentation.SegmentSequence[0].SegmentLabel == "Ödem/rechts"


def test_labels_of_regions_are_equal_in_both_formats(tmp_path, home):
    affine, image = write_stack(tmp_path / "scans", "oblique")
    stored = image.astype("<i2")
    low, high = np.percentile(stored, [0.5, 99.5])
    scaled = np.clip((stored - low) / (high - low), 0, 1)
    levels = tuple(
        float(((grey - low) / (high - low) - scaled.mean()) / scaled.std()) for grey in (400.5, 550.5)
    )
    weights = threshold.write_model(tmp_path / "model", levels, **threshold.NESTED)
    made = predict(tmp_path / "scans", tmp_path / "out", home=home, model=str(weights))
    expected = np.where(stored > 550, 4, np.where(stored > 400, 9, 0))
    [nifti] = (made.out / "segmentations").rglob("*.gz")
    [dicom] = (made.out / "dicom").rglob("*.dcm")
    np.testing.assert_array_equal(read_image(nifti).array, expected)
    segmentation = hd.seg.segread(dicom)
    code_of = {
        one.SegmentNumber: {"core": 9, "rim": 4}[one.SegmentLabel] for one in segmentation.SegmentSequence
    }
    volume = segmentation.get_volume(combine_segments=True, allow_missing_positions=True)
    marked = np.argwhere(volume.array > 0)
    inverse = np.linalg.inv(affine)
    points = marked @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    voxels = np.rint(points @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
    found = np.zeros(SHAPE, int)
    found[tuple(voxels.T)] = [code_of[one] for one in volume.array[tuple(marked.T)]]
    np.testing.assert_array_equal(found, expected)
