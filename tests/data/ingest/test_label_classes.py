"""Classes of label files: class numbers in one file, or one file for each class or part of a class."""

import pytest
from layout_maker import assert_stops_with_both_readings, count, expand, infer, infer_known, make_facts

NUMBERED = {
    "the same files everywhere": (
        ["s{n}/ct.nii.gz"]
        + [f"B:s{{n}}/segmentations/{name}.nii.gz" for name in ("rib_left_1", "rib_left_2", "aorta")],
        {1: "aorta", 2: "rib left 1", 3: "rib left 2"},
    ),
    "parts of one finding": (["b{n}.png", "B:b{n}_mask.png", "B:b{n}_mask_1.png"], {1: "class 1"}),
}


@pytest.mark.parametrize("name", NUMBERED)
def test_numbers_separate_classes_if_every_image_has_the_same_files(name):
    templates, names = NUMBERED[name]
    assert infer(templates).label_names == names


def test_levels_of_the_spine_are_classes_even_where_some_are_missing():
    known = expand(["s{n}/ct.nii.gz", "B:s{n}/seg/vertebrae_L1.nii.gz", "B:s{n}/seg/vertebrae_L2.nii.gz"])
    known.pop("s3/seg/vertebrae_L2.nii.gz")
    found = infer_known(known)
    assert found.label_names == {1: "vertebrae l1", 2: "vertebrae l2"}
    (single,) = [case.labels for case in found.cases if len(case.labels) == 1]
    assert single[0][1] == 1


def test_a_lone_file_of_a_class_gets_the_number_of_its_class():
    known = expand(["s{n}/ct.nii.gz", "B:s{n}/seg/liver.nii.gz", "B:s{n}/seg/spleen.nii.gz"])
    known.pop("s3/seg/liver.nii.gz")
    numbers = {case.labels[0][1] for case in infer_known(known).cases if len(case.labels) == 1}
    assert numbers == {2}


def test_labels_of_instances_beside_a_whole_label_are_skipped():
    instance = "B:case_{n:05d}/instances/tumor_instance-1_annotation-1.nii.gz"
    found = infer(["case_{n:05d}/imaging.nii.gz", "L:case_{n:05d}/segmentation.nii.gz", instance])
    assert count(found) == (4, 4, 4, 4)
    assert set(found.other.values()) == {"label_of_an_instance"}


def test_a_vessel_label_and_a_mask_of_the_field_of_view_stop():
    assert_stops_with_both_readings(
        ["images/{n}.tif", "B:manual/{n}_manual1.gif", "B:mask/{n}_mask.gif"], "mark different classes"
    )


def test_labels_of_two_contrasts_with_different_meanings_stop():
    assert_stops_with_both_readings(
        ["{n}/t2.nii.gz", "{n}/adc.nii.gz", "L:{n}/t2_anatomy_seg.nii.gz", "B:{n}/adc_tumor_seg.nii.gz"],
        "mark different classes",
    )


@pytest.mark.parametrize("folder", ["predictions", "labels_v2"])
def test_two_files_of_equal_names_for_one_image_stop(folder):
    templates = ["images/c{n}.nii.gz", "B:labels/c{n}.nii.gz", f"B:{folder}/c{{n}}.nii.gz"]
    assert_stops_with_both_readings(templates, "by several readers or with several methods")


def test_folders_of_masks_are_classes_by_their_names():
    masks = [f"B:masks/{side}_lung/c{{n}}.png" for side in ("left", "right")]
    assert infer(["images/c{n}.png", *masks]).label_names == {1: "left lung", 2: "right lung"}


def test_left_and_right_are_no_readers():
    found = infer(["case_{n}/ct.nrrd", *(f"B:case_{{n}}/Parotid_{side}.seg.nrrd" for side in "LR")])
    assert found.label_names == {1: "parotid l", 2: "parotid r"}


def test_masks_whose_names_occur_once_are_instances_of_one_class():
    known = {}
    for case, masks in (("a1f", ("q7z", "k2w")), ("b2e", ("m4x", "h8v"))):
        known |= {f"{case}/images/{case}.png": make_facts()}
        known |= {f"{case}/masks/{mask}{case[::-1]}.png": make_facts("B") for mask in masks}
    found = infer_known(known)
    assert found.label_names == {1: "class 1"}
    assert [len(case.labels) for case in found.cases] == [2, 2]
