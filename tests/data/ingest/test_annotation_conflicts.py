"""Annotation files that contradict each other stop the ingestion, with both readings."""

import json

import pytest
from ingest_source import run_ingest, save_picture

from medmim.data.ingest.layout_rules import InferenceRules
from medmim.errors import DataError


@pytest.fixture
def source(tmp_path):
    """Write six pictures and return their folder."""
    for number in range(6):
        save_picture(tmp_path / f"in/{number}.png", number)
    return tmp_path / "in"


def table(classes):
    return "image,label\n" + "".join(f"{number}.png,{name}\n" for number, name in enumerate(classes))


def test_two_classes_of_one_image(source, tmp_path, sandbox):
    (source / "a.csv").write_text(table("xyxyxy"))
    (source / "b.csv").write_text(table("xyxyxx"))
    with pytest.raises(DataError, match=r"1 image .* 'x' in 'b.csv' and 'y' in 'a.csv'") as caught:
        run_ingest(tmp_path, sandbox=sandbox)
    assert caught.value.reason == "ambiguous_layout"
    rules = InferenceRules(roles=(("b.csv", "skip"),))
    dataset = run_ingest(tmp_path, sandbox=sandbox, rules=rules)
    assert sorted(one.target for one in dataset.volumes) == ["x", "x", "x", "y", "y", "y"]
    assert dataset.info.reasons["skipped_by_role"] == 1


def test_two_patients_of_one_image(source, tmp_path, sandbox):
    (source / "a.csv").write_text("image,patient,label\n0.png,p,x\n1.png,q,y\n")
    (source / "b.csv").write_text("image,patient,label\n0.png,r,x\n")
    with pytest.raises(DataError, match=r"1 image with different patients .* such as in 'a.csv' and 'b.csv'"):
        run_ingest(tmp_path, sandbox=sandbox)


def test_an_image_in_two_lists(source, tmp_path, sandbox):
    (source / "train.txt").write_text("0.png\n1.png\n2.png\n")
    (source / "val.txt").write_text("2.png\n3.png\n4.png\n5.png\n")
    with pytest.raises(DataError, match="1 image into two splits") as caught:
        run_ingest(tmp_path, sandbox=sandbox)
    assert caught.value.reason == "split_overlap"


def test_two_lists_of_class_names(source, tmp_path, sandbox):
    (source / "0.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (source / "data.yaml").write_text("names: [mass, cyst]\n")
    (source / "classes.txt").write_text("mass\ncyst\nnode\n")
    dataset = run_ingest(tmp_path, sandbox=sandbox)
    assert {box.name for one in dataset.volumes for box in one.boxes} == {"mass"}
    (source / "classes.txt").write_text("cyst\nmass\n")
    with pytest.raises(DataError, match=r"class 0 of the YOLO labels is '.*'.* it is"):
        run_ingest(tmp_path, sandbox=sandbox)


def test_two_classes_that_differ_in_case_only(source, tmp_path, sandbox):
    (source / "a.csv").write_text(table("AaxAax"))
    with pytest.raises(
        DataError, match=r"classes 'A' in 'a.csv' and 'a' in 'a.csv' differ in case only"
    ) as caught:
        run_ingest(tmp_path, sandbox=sandbox)
    assert caught.value.reason == "classes_alike"
    (source / "a.csv").write_text("image,A,a\n0.png,1,0\n1.png,0,1\n2.png,1,1\n")
    with pytest.raises(DataError, match=r"'A' .* and 'a' .* differ in case only: expected one spelling"):
        run_ingest(tmp_path, sandbox=sandbox)
    (source / "a.csv").write_text(table("AAxAAx"))
    assert {one.target for one in run_ingest(tmp_path, sandbox=sandbox).volumes} == {"a", "x"}


def test_two_numbers_of_one_class_name(source, tmp_path, sandbox):
    """A name that no box has, such as the second, is no class of the dataset."""
    (source / "0.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (source / "data.yaml").write_text("names: [Mass, mass]\n")
    dataset = run_ingest(tmp_path, sandbox=sandbox)
    assert {box.name for one in dataset.volumes for box in one.boxes} == {"mass"}
    (source / "1.txt").write_text("1 0.5 0.5 0.2 0.2\n")
    with pytest.raises(DataError, match=r"classes 'Mass' and 'mass' of 'data.yaml' have one name"):
        run_ingest(tmp_path, sandbox=sandbox)


def test_two_categories_of_one_name(source, tmp_path, sandbox):
    content = {
        "images": [{"id": 0, "file_name": "0.png"}, {"id": 1, "file_name": "1.png"}],
        "categories": [
            {"id": 3, "name": "lung (left)"},
            {"id": 4, "name": "lung left"},
            {"id": 5, "name": "x"},
        ],
        "annotations": [{"image_id": 0, "category_id": 3, "bbox": [3, 3, 9, 9]}],
    }
    (source / "coco.json").write_text(json.dumps(content))
    dataset = run_ingest(tmp_path, sandbox=sandbox)
    assert {box.name for one in dataset.volumes for box in one.boxes} == {"lung left"}
    content["annotations"].append({"image_id": 1, "category_id": 4, "bbox": [3, 3, 9, 9]})
    (source / "coco.json").write_text(json.dumps(content))
    with pytest.raises(
        DataError, match=r"categories 3 and 4 of 'coco.json' are all named 'lung left': expected"
    ):
        run_ingest(tmp_path, sandbox=sandbox)
