"""COCO, VIA, LabelMe and JSON lines are read entry by entry."""

import json

import numpy as np
import pytest
from annotation_maker import notes

SQUARE = [1, 2, 5, 2, 5, 6, 1, 6]
OUTLINE = (((1, 2), (5, 2), (5, 6), (1, 6)),)


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
    assert (found.kind, found.faults) == ("coco", {"malformed_mask": 1})
    assert (first.image, second.image) == ("a.png", "b.png")
    assert [(mark.name, mark.box, mark.outlines) for mark in first.marks] == [
        ("Cyst", (), OUTLINE),
        ("class 4", (1, 2, 4, 6), ()),
    ]
    assert second.marks[0].box == (0, 0, 2, 2)


def test_categories_of_one_name_are_listed_if_both_have_annotations(tmp_path):
    content = coco(
        {"image_id": 0, "bbox": [3, 3, 9, 9]}, {"image_id": 1, "category_id": 2, "bbox": [3, 3, 9, 9]}
    )
    content["categories"] += [{"id": 2, "name": "mass"}, {"id": 3, "name": "cyst"}, {"id": 4, "name": "cyst"}]
    assert notes(tmp_path / "a.json", content).shared_names == {"mass": ["1", "2"]}


def coco(*annotations, images=3):
    return {
        "images": [{"id": number, "file_name": f"{number}.png"} for number in range(images)],
        "categories": [{"id": 1, "name": "mass"}],
        "annotations": [{"category_id": 1, **one} for one in annotations],
    }


def test_unusable_coco_entries_cost_only_themselves(tmp_path):
    good = {"image_id": 0, "bbox": ["3", "3", "10", "10"]}
    found = notes(
        tmp_path / "a.json",
        coco(
            good,
            {"image_id": 99, "bbox": [1, 1, 2, 2]},
            {"image_id": 1, "bbox": [5, 5, 0, 12]},
            {"image_id": 1, "bbox": []},
            {"image_id": 1, "bbox": [5, 5, float("nan"), 12]},
            {"image_id": 1, "bbox": [5, "x", 3, 12]},
            {"image_id": 2, "bbox": [3, 3, 10, 10], "category_id": 7},
            {"bbox": [1, 1, 2, 2]},
        ),
    )
    assert [[mark.box for mark in one.marks] for one in found.images] == [
        [(3, 3, 13, 13)],
        [],
        [(3, 3, 13, 13)],
    ]
    assert found.images[2].marks[0].name == "finding"
    assert found.faults == {"orphan": 1, "empty": 2, "not_finite": 1, "malformed": 2, "unknown_category": 1}


@pytest.mark.parametrize(
    "twice",
    [
        {"images": [{"id": 0, "file_name": "other.png"}]},
        {"categories": [{"id": 1, "name": "cyst"}]},
    ],
)
def test_coco_files_that_give_an_id_twice_are_not_used(tmp_path, twice):
    """Two files that were joined without new ids: it is unknown which image an annotation belongs to."""
    content = coco({"image_id": 0, "bbox": [3, 3, 10, 10]})
    joined = {key: [*value, *twice.get(key, [])] for key, value in content.items()}
    again = {key: [*value, *content[key][:1]] for key, value in content.items() if key != "annotations"}
    found = notes(tmp_path / "a.json", joined)
    assert (found.images, found.tried, found.faults) == ([], "coco", {"repeated_id": 1})
    same = notes(tmp_path / "b.json", {**content, **again})  # a harmless repetition
    assert same.images == notes(tmp_path / "c.json", content).images


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("instances_train.json", "train"),
        ("instances_val2017.json", "val"),
        ("test/_annotations.coco.json", "test"),
        ("train_and_val.json", None),
        ("a.json", None),
    ],
)
def test_the_name_of_a_coco_file_gives_the_split(tmp_path, name, split):
    assert {one.split for one in notes(tmp_path / "a.json", coco(), name).images} == {split}


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
    assert (found.kind, found.faults, image.image) == ("via", {"shape_not_supported": 1}, "a.jpg")
    assert [mark.name for mark in image.marks] == ["", "", "mass", ""]
    assert image.marks[0].outlines == OUTLINE
    assert image.marks[1].box == (1, 2, 4, 6)
    extent = np.array(image.marks[2].outlines[0])
    assert np.allclose([extent.min(axis=0), extent.max(axis=0)], [[2, 2], [6, 6]])


def test_labelme(tmp_path):
    shapes = [
        {"label": "Mass", "points": [[5, 5], [20, 5], [20, 20]], "shape_type": "polygon"},
        {"label": "Mass", "points": [[20, 30], [5, 10]], "shape_type": "rectangle"},
        {"label": "Mass", "points": [[4, 4], [6, 4]], "shape_type": "circle"},
        {"label": "Mass", "points": [[4, 4]], "shape_type": "point"},
        {"label": "Mass", "points": [[4, 4], [5, 5]], "shape_type": "polygon"},
    ]
    content = {"version": "5.0", "shapes": shapes, "imagePath": "..\\images\\1.png", "imageData": None}
    found = notes(tmp_path / "1.json", content)
    (image,) = found.images
    assert (found.kind, image.image) == ("labelme", "1.png")
    assert image.marks[0].outlines == (((5, 5), (20, 5), (20, 20)),)
    assert image.marks[1].box == (5, 10, 20, 30)
    extent = np.array(image.marks[2].outlines[0])
    assert np.allclose([extent.min(axis=0), extent.max(axis=0)], [[2, 2], [6, 6]])
    assert found.faults == {"shape_not_supported": 1, "empty": 1}
    assert notes(tmp_path / "2.json", {"version": "5", "shapes": []}).images[0].image == "2"


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
        ("i/1.jpg", "Glioma", "g1"),
        ("i/2.jpg", "Glioma", "g1"),
        ("i/3.jpg", "none", None),
    ]
    assert [len(one.marks) for one in found.images] == [1, 1, 0]


def test_a_malformed_line_costs_only_itself(tmp_path):
    lines = [
        '{"image": "a.png", "class": "x", "split": "val"}',
        "{broken",
        '{"image": "b.png", "box_xyxy": [3, 3, 1, 4]}',
    ]
    found = notes(tmp_path / "a.jsonl", "\n".join(lines))
    assert [(one.image, one.target, one.split) for one in found.images] == [
        ("a.png", "x", "val"),
        ("b.png", None, None),
    ]
    assert found.faults == {"malformed": 1, "empty": 1}


def test_json_lines_of_hugging_face(tmp_path):
    rows = [
        {"file_name": "train/a.png", "label": "Cat"},
        {"file_name": "b.png", "label": 3},
        {"label": "dog"},
    ]
    found = notes(tmp_path / "metadata.jsonl", "\n".join(map(json.dumps, rows)))
    assert [(one.image, one.target) for one in found.images] == [("train/a.png", "Cat"), ("b.png", "3")]
    assert found.faults == {"malformed": 1}


def test_an_image_with_boxes_of_several_classes_has_no_class(tmp_path):
    lines = [{"image": "a", "class": name, "box_xyxy": [1, 1, 5, 5]} for name in ("mass", "cyst")]
    (image,) = notes(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines))).images
    assert (image.target, [mark.name for mark in image.marks]) == (None, ["mass", "cyst"])
