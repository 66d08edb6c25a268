"""Volume files with their labels: volumes of the manifest, and the fate of every file."""

from __future__ import annotations

import pytest
from ingest_source import label_array, save_picture, save_volume, scan_array
from inline_context import make_context

from medmim.data.ingest.scan import scan_file
from medmim.data.ingest.volumes import volumes_from_nifti


@pytest.fixture
def read(tmp_path):
    """Ingest the files below `tmp_path`/in; return the volumes and the ledger as {path: (fate, reason)}."""

    def call(**options):
        source = tmp_path / "in"
        paths = dict(enumerate(sorted(path for path in source.rglob("*") if path.is_file())))
        (tmp_path / "staging").mkdir()
        context = make_context(tmp_path / "staging", files=len(paths), **options)
        seen = {number: scan_file(path) for number, path in paths.items()}
        made, _ = volumes_from_nifti(context, source, seen=seen, paths=paths)
        rows = context.ledger.rows()
        return made, {paths[row.number].name: (row.fate, row.reason) for row in rows}

    return call


def test_images_get_their_labels(tmp_path, read):
    for case in "ab":
        save_volume(tmp_path / "in" / "images" / f"{case}.nii.gz", scan_array(ord(case)))
        save_volume(tmp_path / "in" / "labels" / f"{case}_seg.nii.gz", label_array(ord(case)))
    made, fates = read()
    assert [one.classes for one in made] == [(1,), (1,)]
    assert all(one.staged.is_file() and one.staged_label.is_file() for one in made)
    assert set(fates.values()) == {("accepted", "volume"), ("accepted", "label")}


def test_a_refused_label_leaves_its_image_without_one(tmp_path, read):
    for case, shape in (("a", (8, 7, 6)), ("b", (8, 7, 5))):
        save_volume(tmp_path / "in" / "images" / f"{case}.nii.gz", scan_array(ord(case)))
        save_volume(tmp_path / "in" / "labels" / f"{case}.nii.gz", label_array(1, shape))
    made, _ = read()
    assert [one.volume.label is not None for one in made] == [True, False]


def test_the_label_of_an_unreadable_image_is_quarantined(tmp_path, read):
    for case in "ab":
        save_volume(tmp_path / "in" / f"{case}.nii.gz", scan_array(ord(case)))
        save_volume(tmp_path / "in" / f"{case}_seg.nii.gz", label_array(ord(case)))
    image = tmp_path / "in" / "b.nii.gz"
    image.write_bytes(image.read_bytes()[:100])
    made, fates = read()
    assert len(made) == 1
    assert fates["b.nii.gz"] == ("quarantined", "truncated")
    assert fates["b_seg.nii.gz"] == ("quarantined", "label_without_image")


def test_the_spacing_of_a_picture_is_unknown(tmp_path, read):
    save_picture(tmp_path / "in" / "a.png", 1)
    (tmp_path / "in" / "notes.txt").write_text("nothing")
    (made,), fates = read()
    assert (made.volume.flags, made.volume.spatial_dims) == ({"spacing": "unknown"}, 2)
    assert fates == {"a.png": ("accepted", "picture"), "notes.txt": ("skipped", "not_dicom")}
