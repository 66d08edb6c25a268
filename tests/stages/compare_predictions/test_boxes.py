import json

import pytest

from medmim.data.ingest.layout_rules import SubjectRule
from medmim.errors import DataError, UsageError
from medmim.stages.compare_predictions.boxes import score_boxes
from medmim.stages.compare_predictions.cases import PredictionSet

TRUTH = {
    "images": [{"id": 7, "file_name": "a.png"}, {"id": 8, "file_name": "b.png"}],
    "categories": [{"id": 3, "name": "mass"}],
    "annotations": [
        {"image_id": 7, "category_id": 3, "bbox": [1, 2, 10, 20]},
        {"image_id": 8, "category_id": 3, "bbox": [1, 2, 3, 10, 20, 4]},
        {"image_id": 8, "category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 1},
    ],
}


def found(tmp_path, results, truth=TRUTH):
    for name, content in (("truth", truth), ("tool", results)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    sets = [PredictionSet("tool", 0, tmp_path / "tool.json")]
    return score_boxes(sets, tmp_path / "truth.json", SubjectRule())


def detection(**words):
    return {"image_id": 7, "category_id": 3, "bbox": [1, 2, 10, 20], "score": 0.9, **words}


def test_boxes_of_two_and_three_dimensions_are_read(tmp_path):
    scored = found(tmp_path, [detection(), detection(image_id=99)])
    first, second = scored.rows[0]
    assert first["truth"] == [["mass", 1, 2, 0, 11, 22, 1]]
    assert first["found"] == [["mass", 0.9, 1, 2, 0, 11, 22, 1]]
    assert second["truth"] == [["mass", 1, 2, 3, 11, 22, 7]]
    assert second["found"] == []
    assert "crowd annotations are left out: 1" in scored.notes
    assert "tool: no detection in 1 of 2 images" in scored.notes
    assert "tool: detections not used, as their ids are unknown: 1" in scored.notes


@pytest.mark.parametrize(
    ("results", "error", "message"),
    [
        ({"boxes": []}, UsageError, "expected COCO results"),
        ([detection(bbox=[1, 2])], UsageError, "expected COCO results"),
        ([detection(bbox=[1, 2, float("nan"), 20])], UsageError, "expected COCO results"),
        ([detection(score=float("nan"))], UsageError, "expected COCO results"),
        ([detection(score=float("inf"))], UsageError, "expected COCO results"),
        ([detection(category_id=1)], DataError, "no detection has an image and a category"),
    ],
)
def test_results_of_another_form_are_rejected(tmp_path, results, error, message):
    with pytest.raises(error, match=message):
        found(tmp_path, results)


def test_labels_of_another_form_are_rejected(tmp_path):
    with pytest.raises(UsageError, match="expected COCO's images, annotations"):
        found(tmp_path, [detection()], truth={"images": []})


def test_images_of_one_name_in_several_folders_are_several_patients(tmp_path):
    images = [{"id": 7, "file_name": "p1/scan.png"}, {"id": 8, "file_name": "p2/scan.png"}]
    scored = found(tmp_path, [detection()], truth={**TRUTH, "images": images})
    assert len({row["patient"] for row in scored.rows[0]}) == 2


@pytest.mark.parametrize(
    ("twice", "message"),
    [
        ({"images": [*TRUTH["images"], {"id": 7, "file_name": "c.png"}]}, "each id of an image and of a"),
        ({"categories": [{"id": 3, "name": "mass"}, {"id": 3, "name": "cyst"}]}, "each id of an image and"),
        ({"images": [*TRUTH["images"], {"id": 9, "file_name": "a.png"}]}, "expected each file_name once"),
    ],
)
def test_labels_with_an_id_or_a_file_twice_are_rejected(tmp_path, twice, message):
    with pytest.raises(UsageError, match=message):
        found(tmp_path, [detection()], truth={**TRUTH, **twice})
