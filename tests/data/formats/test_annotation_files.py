"""The suffix selects the reader of an annotation file; other files give no annotations."""

import pytest
from annotation_maker import notes

from medmim.data.formats.annotations import AnnotationFile


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", "{"),
        ("a.json", "[1, 2]"),
        ("a.json", {"labels": {"1": "x"}}),
        ("a.json", "[" * 5000),
        ("a.txt", "remember the milk"),
        ("a.yaml", "- 1"),
        ("a.yaml", "names: !!python/object/apply:os.system [ls]"),
        ("a.csv", "name,age\nx,1\n"),
    ],
)
def test_other_files_are_not_annotations(tmp_path, name, content):
    assert notes(tmp_path / name, content) == AnnotationFile()


def test_a_recognised_file_without_usable_entries_names_its_format(tmp_path):
    found = notes(tmp_path / "a.json", {"images": [], "annotations": [{"image_id": 1}]})
    assert found == AnnotationFile(tried="coco", faults={"orphan": 1})
    assert notes(tmp_path / "a.jsonl", "{}").tried == "json_lines"


def test_boxes_of_at_most_one_pixel_are_fractions_of_the_picture(tmp_path):
    rows = "image,xmin,ymin,xmax,ymax\na.png,0.1,0.1,0.5,0.5\nb.png,0.2,0.2,{},0.9\n"
    units = [
        {mark.unit for image in notes(tmp_path / "a.csv", rows.format(last)).images for mark in image.marks}
        for last in (1.0, 7.0)
    ]
    assert units == [{"share"}, {"voxel"}]


def test_a_table_without_a_header_is_reported(tmp_path):
    assert notes(tmp_path / "a.csv", "a.png,cat\nb.png,dog\n").tried == "table"
