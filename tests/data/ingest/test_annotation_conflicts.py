"""Annotation files that contradict each other stop the ingestion, with both readings."""

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
