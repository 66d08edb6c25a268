"""Every supported annotation file gives its annotations; other files give none."""

import json

import numpy as np
import pytest

from medmim.data.formats.annotation_files import AnnotationFile, read_annotation_file

SQUARE = [1, 2, 5, 2, 5, 6, 1, 6]
OUTLINE = (((1, 2), (5, 2), (5, 6), (1, 6)),)


def notes(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return AnnotationFile.model_validate(read_annotation_file(str(path)))


def test_coco(tmp_path):
    packed = {"counts": [1, 2], "size": [8, 8]}
    found = notes(
        tmp_path / "instances.json",
        {
            "images": [{"id": 7, "file_name": "a.png"}, {"id": 8, "file_name": "b.png"}],
            "categories": [{"id": 3, "name": "Cyst"}, {"id": 4, "name": "Dr. O'Hara"}],
            "annotations": [
                {"image_id": 7, "category_id": 3, "bbox": [1, 2, 4, 4], "segmentation": [SQUARE]},
                {"image_id": 7, "category_id": 4, "bbox": [1, 2, 3, 4]},
                {"image_id": 8, "category_id": 3, "bbox": [0, 0, 2, 2], "segmentation": packed},
            ],
        },
    )
    first, second = found.images
    assert (found.kind, found.unread, first.image, second.image) == ("coco", 1, "a.png", "b.png")
    assert [(mark.name, mark.box, mark.outlines) for mark in first.marks] == [
        ("cyst", (), OUTLINE),
        ("class 4", (1, 2, 4, 6), ()),
    ]
    assert second.marks[0].box == (0, 0, 2, 2)


@pytest.mark.parametrize("whole", [True, False])
def test_via(tmp_path, whole):
    def region(**shape):
        return {"shape_attributes": shape, "region_attributes": {"class": "mass"} if "r" in shape else {}}

    regions = [
        region(name="polygon", all_points_x=[1, 5, 5, 1], all_points_y=[2, 2, 6, 6]),
        region(name="rect", x=1, y=2, width=3, height=4),
        region(name="circle", cx=4, cy=4, r=2),
        region(name="ellipse", cx=4, cy=4, rx=2, ry=1),
        region(name="point", cx=4, cy=4),
    ]
    content = {"a.jpg100": {"filename": "a.jpg", "size": 100, "regions": regions}}
    found = notes(tmp_path / "via.json", {"_via_img_metadata": content} if whole else content)
    (image,) = found.images
    assert (found.kind, found.unread, image.image) == ("via", 1, "a.jpg")
    assert [mark.name for mark in image.marks] == ["", "", "mass", ""]
    assert image.marks[0].outlines == OUTLINE
    assert image.marks[1].box == (1, 2, 4, 6)
    extent = np.array(image.marks[2].outlines[0])
    assert np.allclose([extent.min(axis=0), extent.max(axis=0)], [[2, 2], [6, 6]])


def test_json_lines(tmp_path):
    rows = [
        {
            "image": "i/1.jpg",
            "class": "Glioma",
            "group": "g1",
            "box_xyxy": [1, 2, 5, 6],
            "polygon_xy": OUTLINE[0],
        },
        {"image": "i/2.jpg", "class": "Glioma", "group": "g1", "box_xyxy": [1, 2, 5, 6]},
        {"image": "i/3.jpg", "class": "none"},
    ]
    found = notes(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert [(one.image, one.target, one.group) for one in found.images] == [
        ("i/1.jpg", "glioma", "g1"),
        ("i/2.jpg", "glioma", "g1"),
        ("i/3.jpg", "none", None),
    ]
    assert [len(one.marks) for one in found.images] == [1, 1, 0]


def test_yolo(tmp_path):
    found = notes(tmp_path / "a.txt", "0 0.5 0.5 0.2 0.4\n1 0.1 0.1 0.5 0.1 0.5 0.6\n")
    (image,) = found.images
    assert (found.kind, image.image) == ("yolo", "a")
    assert np.allclose(image.marks[0].box, (0.4, 0.3, 0.6, 0.7))
    assert image.marks[1].outlines == (((0.1, 0.1), (0.5, 0.1), (0.5, 0.6)),)
    assert notes(tmp_path / "b.txt", "").images[0].marks == []
    assert notes(tmp_path / "data.yaml", "names: {0: cyst, 2: mass}").classes == ["cyst", "class 1", "mass"]
    assert notes(tmp_path / "classes.txt", "cyst\nmass\n").classes == ["cyst", "mass"]


def test_csv_in_world_mm(tmp_path):
    head = "seriesuid,coordX,coordY,coordZ,diameter_mm\n"
    text = head + "1.2,10,20,30,4\n1.2,1,2,3,nan\n1.3,0,0,0,-1\n1.4,a,0,0,1\n"
    found = notes(tmp_path / "annotations.csv", text)
    assert (found.kind, found.unread) == ("world_mm", 3)
    assert found.images[0].image == "1.2"
    assert found.images[0].marks[0].box == (8, 18, 28, 12, 22, 32)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", "{"),
        ("a.json", "[1, 2]"),
        ("a.json", {"labels": {"1": "x"}}),
        ("a.json", {"images": [], "annotations": [{"image_id": 1}]}),
        ("a.json", "[" * 5000),
        ("a.txt", "remember the milk"),
        ("a.yaml", "- 1"),
        ("a.yaml", "names: !!python/object/apply:os.system [ls]"),
        ("a.csv", "name,age\nx,1\n"),
        ("a.jsonl", "{}"),
    ],
)
def test_other_files_are_not_annotations(tmp_path, name, content):
    assert notes(tmp_path / name, content) == AnnotationFile()
