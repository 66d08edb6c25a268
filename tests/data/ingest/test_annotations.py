"""Annotation files are assigned to the images they name, with their classes and splits."""

import json

import numpy as np
import PIL.Image
import pytest
from ingest_source import run_ingest, save_json, save_picture

from medmim import files
from medmim.data.dataset.manifest import read_dataset
from medmim.stages.ingest import ingest


@pytest.fixture
def source(tmp_path):
    """Return a function that writes pictures with these paths and returns their folder."""
    chance = np.random.default_rng(0)

    def write(*names):
        for name in names:
            path = tmp_path / "source" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(chance.integers(0, 255, (40, 50), dtype=np.uint8)).save(path)
        return tmp_path / "source"

    return write


def ingested(source, home):
    out = home / "data"
    ingest(source, out, home=home, workers=1)
    rows = {row["reason"]: row for row in files.read_jsonl(out / "ledger.jsonl")}
    return read_dataset(out).volumes, rows


def coco(name, *boxes):
    return {
        "images": [{"id": 1, "file_name": name}],
        "categories": [{"id": 1, "name": "mass"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": box} for box in boxes],
    }


def test_coco_files_of_train_and_val_keep_their_splits(source, tmp_path):
    root = source("train/1.png", "val/1.png")
    (root / "annotations").mkdir()
    for split, box in (("train", [5, 5, 10, 12]), ("val", [7, 7, 10, 12])):
        path = root / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(coco("1.png", box, [1, 1, 0, 2])))
    volumes, rows = ingested(root, tmp_path)
    found = {volume.split: volume.boxes[0].box for volume in volumes}
    assert found == {"train": (5, 5, 15, 17), "val": (7, 7, 17, 19)}
    assert rows["annotations"]["measured"]["entries_empty"] == 1


def test_the_folders_of_a_yolo_dataset_keep_their_splits(source, tmp_path):
    root = source("images/train/a.jpg", "images/val/b.jpg", "images/val/c.jpg")
    for name in ("train/a", "val/b"):
        path = root / "labels" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("0 0.5 0.5 0.2 0.2\n")
    (root / "data.yaml").write_text("train: ../images/train\nval: images/val\nnames: [mass, cyst]\n")
    volumes, _ = ingested(root, tmp_path)
    assert sorted((one.split, [box.name for box in one.boxes]) for one in volumes) == [
        ("train", ["mass"]),
        ("val", []),
        ("val", ["mass"]),
    ]


def test_an_annotation_file_without_usable_entries_is_quarantined(source, tmp_path):
    root = source("a.png")
    (root / "broken.json").write_text(json.dumps({"images": [], "annotations": [{"image_id": 3}]}))
    (root / "other.json").write_text(json.dumps(coco("elsewhere.png", [1, 1, 5, 5])))
    _, rows = ingested(root, tmp_path)
    assert rows["unusable_coco"]["fate"] == rows["annotations_without_image"]["fate"] == "quarantined"


def test_class_tables_give_classes_patients_and_splits(source, tmp_path):
    root = source("images/p1.png", "images/p2.png", "images/p3.png")
    rows = ["p1.png;benign;X;train", "p2;malignant;X;train", "p3.png;malignant;Y;test", "p9.png;benign;Z;val"]
    (root / "labels.csv").write_text("\n".join(["image;label;patient_id;split", *rows]), encoding="utf-16")
    volumes, ledger = ingested(root, tmp_path)
    assert sorted((one.target, one.split) for one in volumes) == [
        ("benign", "train"),
        ("malignant", "test"),
        ("malignant", "train"),
    ]
    assert len({one.subject for one in volumes}) == 2
    assert all((tmp_path / "data" / one.image).is_file() for one in volumes)
    assert ledger["annotations"]["measured"]["images_not_found"] == 1


def test_box_tables_name_images_without_suffix(source, tmp_path):
    root = source("images/p1.png", "images/p2.png")
    (root / "labels.csv").write_text("patientId,x,y,width,height,Target\np1,5,5,10,12,1\np2,,,,,0\n")
    volumes, _ = ingested(root, tmp_path)
    assert sorted([box.box for box in one.boxes] for one in volumes) == [[], [(5, 5, 15, 17)]]


def test_boxes_of_a_picture_of_another_size_are_not_used(tmp_path):
    sizes = {"a.png": {"width": 50, "height": 40}, "b.png": {"width": 100, "height": 80}}
    for number, name in enumerate(sizes):
        save_picture(tmp_path / "in" / name, number)
    boxes = [{"image_id": name, "category_id": 1, "bbox": [4, 5, 20, 10]} for name in sizes]
    images = [{"id": name, "file_name": name, **size} for name, size in sizes.items()]
    categories = [{"id": 1, "name": "mass"}]
    save_json(tmp_path / "in/x.json", {"images": images, "annotations": boxes, "categories": categories})
    dataset = run_ingest(tmp_path)
    assert sorted(len(one.boxes) for one in dataset.volumes) == [0, 1]
    assert {"kind": "boxes_of_another_size", "boxes": 1} in dataset.info.warnings


def test_one_folder_for_two_splits_gives_none(tmp_path):
    for number in range(4):
        save_picture(tmp_path / f"in/images/{number}.png", number)
        path = tmp_path / f"in/labels/{number}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "in/data.yaml").write_text("train: images\nval: images\nnames: [mass]\n")
    assert {one.split for one in run_ingest(tmp_path).volumes} == {"train", "val", "test"}
