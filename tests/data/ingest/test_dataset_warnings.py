"""Checks of a whole ingestion: unmatched labels, unused labels and missing patient information."""

import json

import numpy as np
import PIL.Image
import pytest
from dicom_maker import write_series
from ingest_source import label_array, run_ingest, save_picture, save_volume, scan_array

from medmim.data.formats.images import label_colours
from medmim.data.ingest.dataset_warnings import doubtful_labels
from medmim.data.ingest.warning_texts import warning_text
from medmim.errors import DataError

PET = "1.2.840.10008.5.1.4.1.1.128"


@pytest.fixture
def run(tmp_path, sandbox):
    """Ingest `tmp_path`/in."""
    return lambda **options: run_ingest(tmp_path, sandbox=sandbox, **options)


def test_labels_that_match_nothing_fail_with_expected_and_found_names(tmp_path, run):
    save_volume(tmp_path / "in" / "scan_of_patient_1.nii.gz", scan_array())
    save_volume(tmp_path / "labels" / "lesion_1.nii.gz", label_array())
    with pytest.raises(DataError, match=r"none of 1 label file .*…_patient_1.*…lesion_1") as caught:
        run(labels=tmp_path / "labels")
    assert caught.value.reason == "nothing_usable"
    (tmp_path / "map.csv").write_text("label,image\nlesion_1.nii.gz,scan_of_patient_1.nii.gz\n")
    dataset = run(labels=tmp_path / "labels", label_map=tmp_path / "map.csv")
    assert dataset.info.counts["labels"] == 1


def test_unused_labels_and_nameless_patients_are_reported(tmp_path, run):
    for number in range(3):
        save_picture(tmp_path / "in" / f"{number}.png", number)
    save_picture(tmp_path / "in" / "a_mask.png", 9)
    kinds = [warning["kind"] for warning in run().info.warnings]
    assert kinds == ["no_label_used", "every_image_is_a_patient"]
    texts = [warning_text(warning) for warning in run().info.warnings]
    assert "1 file looks like labels" in texts[0]
    assert "--subject-pattern" in texts[1]


def test_annotations_that_name_no_image_are_reported(tmp_path, run):
    save_picture(tmp_path / "in" / "a.png", 1)
    (tmp_path / "in" / "boxes.csv").write_text("image,x,y,width,height\nother.png,1,2,3,4\n")
    kinds = [warning["kind"] for warning in run().info.warnings]
    assert "annotations_not_used" in kinds
    assert "not used: 1 annotation file," in warning_text({"kind": "annotations_not_used", "files": 1})


@pytest.mark.parametrize(("patients_with_both", "reported"), [(3, True), (2, False)])
def test_a_contrast_without_labels_is_reported(tmp_path, run, patients_with_both, reported):
    for number in range(3):
        folder = tmp_path / "in" / f"patient_{number}"
        save_volume(folder / "image.nii.gz", scan_array(number))
        save_volume(folder / "stem_mask.nii.gz", label_array())
        if number < patients_with_both:
            save_volume(folder / "image_contrast.nii.gz", scan_array(number + 9))
    texts = [warning_text(warning) for warning in run().info.warnings]
    assert any("no label for 3 images of 3 patients" in text for text in texts) == reported


def test_regions_of_nnunet_are_reported_with_the_setting_that_trains_them(tmp_path, run):
    for number in range(2):
        save_volume(tmp_path / "in" / "imagesTr" / f"scan_{number}_0000.nii.gz", scan_array(number))
        save_volume(tmp_path / "in" / "labelsTr" / f"scan_{number}.nii.gz", label_array())
    regions = {"background": 0, "whole": [1, 2], "core": 2}
    content = {"channel_names": {"0": "MR"}, "labels": regions, "regions_class_order": [1, 2]}
    (tmp_path / "in" / "dataset.json").write_text(json.dumps({**content, "file_ending": ".nii.gz"}))
    text = "\n".join(map(warning_text, run().info.warnings))
    assert "--set 'regions={whole: [1, 2], core: [2]}'" in text


def test_doubtful_label_values_are_reported(tmp_path, run):
    for number in range(4):
        label = (label_array() > 0) * (255 if number % 2 else 1)
        save_volume(tmp_path / "in" / "imagesTr" / f"scan_{number}.nii.gz", scan_array())
        save_volume(tmp_path / "in" / "labelsTr" / f"scan_{number}.nii.gz", label.astype("uint8"))
    names = {"labels": {"0": "lesion", "1": "Background"}}
    (tmp_path / "in" / "dataset.json").write_text(json.dumps(names))
    text = "\n".join(map(warning_text, run().info.warnings))
    assert "label 1 is named background, but 0 is the background in every label" in text
    assert "2 labels have the values 0 and 1, 2 have 0 and 255, and none has both" in text
    assert "--set labels={mask: [1, 255]}" in text


def test_labels_without_background_are_reported(tmp_path, run):
    for number in range(2):
        save_volume(tmp_path / "in" / "imagesTr" / f"scan_{number}.nii.gz", scan_array(number))
        save_volume(tmp_path / "in" / "labelsTr" / f"scan_{number}.nii.gz", label_array() + (number == 0))
    text = "\n".join(map(warning_text, run().info.warnings))
    assert "1 of 2 labels without any 0, which stands for background" in text


RED, GREEN, DARK_GREEN = (255, 0, 0), (0, 255, 0), (0, 130, 0)  # red and dark green have the same grey


def colour_warnings(folder, colours, mode):
    """Return the warnings about label pictures whose classes 1 and 2 have these colours in each picture."""
    classes, measured = np.arange(9, dtype=np.uint8).reshape(3, 3) % 3, []
    for number, pair in enumerate(colours):
        table = np.array([(0, 0, 0), *pair], np.uint8)
        picture = PIL.Image.fromarray(classes if mode == "P" else table[classes], mode)
        if mode == "P":
            picture.putpalette(table.ravel().tolist())
        picture.save(folder / f"{number}.png")
        measured.append(label_colours(folder / f"{number}.png"))
    return [warning_text(one) for one in doubtful_labels(measured)]


@pytest.mark.parametrize(
    ("colours", "mode", "message"),
    [
        ([(RED, GREEN)] * 2, "RGB", "76 is #ff0000, 150 is #00ff00; name them, as in --label-name 76=NAME"),
        ([(RED, GREEN), (DARK_GREEN, GREEN)], "RGB", "76 is #ff0000 in 1 label and #008200 in 1 label"),
        ([(RED, GREEN), (GREEN, RED)], "P", "1 is #ff0000 in 1 label and #00ff00 in 1 label; 2 is"),
        ([(RED, GREEN)] * 2, "P", None),
    ],
)
def test_colours_that_stand_for_classes_are_reported(tmp_path, colours, mode, message):
    found = colour_warnings(tmp_path, colours, mode)
    assert message in found[0] if message else not found


def test_entries_of_annotation_files_that_are_not_used_are_reported(tmp_path, run):
    for number in range(4):
        save_picture(tmp_path / "in" / f"0{number}.png", number)
    rows = ["00,mass", "01,cyst", "2,mass", "03,nan"]
    (tmp_path / "in/a.csv").write_text("\n".join(["image,label", *rows]))
    found = {one["kind"]: one for one in run().info.warnings}
    assert found["entries_not_used"]["reasons"] == "class_not_stated 1"
    assert found["images_not_found"]["images"] == 1
    assert warning_text(found["zeros_dropped"]).startswith("1 number in annotation files would name an image")
    assert "1 entry of annotation files not used" in warning_text(found["entries_not_used"])


def test_classes_without_plain_names_and_unknown_columns_of_classes_are_reported(tmp_path, run):
    for number in range(4):
        save_picture(tmp_path / "in" / f"{number}.png", number)
    rows = [f"{number}.png,1,1,{number + 9},9,{'^x' if number % 2 else '^y'}" for number in range(4)]
    (tmp_path / "in/a.csv").write_text("\n".join(["image,xmin,ymin,xmax,ymax,kind", *rows]))
    assert {"kind": "boxes_without_class", "columns": 1} in run().info.warnings
    (tmp_path / "in/a.csv").write_text("\n".join(["image,xmin,ymin,xmax,ymax,class", *rows]))
    dataset = run()
    assert {"kind": "classes_numbered", "classes": 2} in dataset.info.warnings
    assert {box.name for one in dataset.volumes for box in one.boxes} == {"class 1", "class 2"}


def test_spreadsheets_are_reported(tmp_path, run):
    for number in range(3):
        save_picture(tmp_path / "in" / f"{number}.png", number)
    (tmp_path / "in/labels.xlsx").write_bytes(b"PK\x03\x04" + bytes(99))
    info = run().info
    assert {"kind": "spreadsheets_not_read", "files": 1} in info.warnings
    assert info.reasons["spreadsheet"] == 1


def test_doubtful_classes_are_reported(tmp_path, run):
    for number in range(12):
        save_picture(tmp_path / "in" / f"{number}.png", number)
    rows = [f"{number}.png,{'ab'[number % 2]},{number / 3}" for number in range(12)]
    (tmp_path / "in/a.csv").write_text("\n".join(["image,label,grade", *rows]))
    assert {"kind": "two_columns_of_classes", "used": "label", "others": "'grade'"} in run().info.warnings
    (tmp_path / "in/a.csv").write_text("\n".join(["image,type,x", *rows]))
    warnings = run().info.warnings
    assert not [one for one in warnings if one["kind"] == "doubtful_column_of_classes"]  # x has no words
    (tmp_path / "in/a.csv").write_text("\n".join(["image,x,grade", *rows]))
    assert {"kind": "classes_of_single_images", "classes": 12, "images": 12} in run().info.warnings


def test_overlapping_outlines_are_reported(tmp_path, run):
    save_picture(tmp_path / "in/0.png", 0)
    ends = {"a": 6, "b": 9}
    shapes = [
        {"label": name, "points": [[2, 2], [end, 2], [end, end], [2, end]]} for name, end in ends.items()
    ]
    (tmp_path / "in/0.json").write_text(json.dumps({"imagePath": "0.png", "shapes": shapes}))
    assert {"kind": "outlines_overlap", "images": 1, "voxels": 16} in run().info.warnings


def test_255_beside_consecutive_classes_is_reported_unless_it_is_ignored(tmp_path, run):
    for number in range(3):
        save_picture(tmp_path / f"in/images/{number}.png", number)
        mask = np.zeros((40, 50), np.uint8)
        mask[4:11, 4:11], mask[5:10, 5:10], mask[20:30, 20:30] = 255, 1, 2
        path = tmp_path / f"in/masks/{number}.png"
        path.parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(mask).save(path)
    warning = {"kind": "white_is_a_class", "labels": 3}
    assert warning in run().info.warnings
    assert warning not in run(ignore_label=255).info.warnings


def test_labels_that_look_smoothed_or_lost_parts_are_reported():
    measured = [
        {"values_at_edges": 2.0},
        {"contours_outside": 3.0},
        {"outside_voxels": 5.0, "hidden_segments": 1.0},
    ]
    smoothed, lost = doubtful_labels([*measured, {"overlap_voxels": 4.0}])
    assert smoothed == {"kind": "labels_look_smoothed", "labels": 1}
    assert lost["labels"] == 2
    assert lost["listed"].startswith("contours outside the image or between its slices 3, voxels outside")


def test_values_of_several_units_are_reported(tmp_path, run):
    for number, unit in enumerate(("BQML", "GML")):

        def tweak(dataset, _, unit=unit, number=number):
            dataset.Units, dataset.PatientID = unit, f"P{number}"

        write_series(tmp_path / f"in/{number}", sop=PET, series=f"1.2.7.{number}", tweak=tweak)
    warnings = {one["kind"]: one for one in run().info.warnings}
    assert warnings["mixed_units"]["listed"] == "bqml 1, gml 1"


def test_tables_whose_names_lack_leading_zeros_are_reported(tmp_path, run):
    for number in range(3):
        save_picture(tmp_path / "in" / f"00{number}.png", number)
    (tmp_path / "in/a.csv").write_text("image,xmin,ymin,xmax,ymax\n1,1,1,9,9\n2,1,1,9,9\n7,1,1,9,9\n")
    found = {one["kind"]: one for one in run().info.warnings}
    assert found["annotations_not_used"]["files"] == 1
    assert found["zeros_dropped"] == {"kind": "zeros_dropped", "files": 2}
