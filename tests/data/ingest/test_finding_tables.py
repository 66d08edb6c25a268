"""Tables of boxes, classes, patients and splits: each entry reaches the volumes that it names."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from inline_context import make_context

from medmim.data.formats.nifti import Image
from medmim.data.formats.write_volume import write_volume
from medmim.data.ingest.context import IngestedVolume
from medmim.data.ingest.finding_tables import add_tables


@pytest.fixture
def add(tmp_path):
    """Apply a table to the volumes of two series, of which the second is the picture b.dcm."""

    def call(text, *, paths=("", "b.dcm")):
        made = []
        for place, path in enumerate(paths):
            staged = tmp_path / f"{place}.nii.gz"
            array = np.arange(480).reshape(12, 10, 4)[..., : 1 if path else 4]
            write_volume(Image(array, np.eye(4)), staged)
            made.append(IngestedVolume(tiny.row(f"p{place}", label=False), f"1.2.{place}", staged, path=path))
        (tmp_path / "table.csv").write_text(text)
        context = make_context(tmp_path)
        result = add_tables(context, made, {0: tmp_path / "table.csv"})
        return [one.volume for one in result], context.ledger.rows()[0]

    return call


def test_a_finding_in_millimetres_becomes_a_box_of_its_series(add):
    (first, second), row = add("seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2.0,-4,-5,2,2\n1.2.9,0,0,0,1\n")
    assert [one.box for one in first.boxes] == [(3.5, 4.5, 1.5, 5.5, 6.5, 3.5)]
    assert second.boxes == ()
    assert (row.fate, row.measured["images"], row.measured["images_not_found"]) == ("accepted", 2.0, 1.0)


@pytest.mark.parametrize("name", ["b", "b.dcm", "train/b.dcm"])
def test_a_picture_is_found_by_its_file_name(add, name):
    (first, second), _ = add(f"image,x,y,width,height\n{name},1,2,4,3\n")
    assert first.boxes == ()
    assert [one.box for one in second.boxes] == [(1.0, 2.0, 5.0, 5.0)]


def test_class_split_and_patient_are_set(add):
    (first, _), _ = add("image,patient,label,split\n1.2.0,A,benign,test\n")
    assert (first.target, first.split) == ("benign", "test")
    assert first.image == f"volumes/{first.subject}/{first.study}/{first.id}.nii.gz"


def test_a_name_of_several_files_finds_none(add):
    volumes, row = add("image,label\nb.dcm,x\n", paths=("one/b.dcm", "two/b.dcm"))
    assert {one.target for one in volumes} == {None}
    assert (row.fate, row.reason) == ("quarantined", "table_without_image")
    (first, second), _ = add("image,label\ntwo/b.dcm,x\n", paths=("one/b.dcm", "two/b.dcm"))
    assert (first.target, second.target) == (None, "x")


def test_a_table_about_something_else_is_skipped(add):
    _, row = add("scanner,software\nA,1\n")
    assert (row.fate, row.reason) == ("skipped", "not_an_image")
