"""Roles in undescribed layouts: labels by name or values, files to skip, and layouts with two readings."""

import pytest
from layout_maker import assert_stops_with_both_readings, count, expand, infer, infer_known, make_facts

from medmim.data.ingest.infer_roles import AmbiguousLayoutError
from medmim.data.ingest.layout_rules import InferenceRules

AMBIGUOUS = {
    "only few grey values": (["L:{n}.nii.gz"], "labels without images"),
    "masks whose names no image shares": (
        ["stare-images/im{n:04d}.png", "B:labels-ah/im{n:04d}.ah.png"],
        "labels without images",
    ),
    "labels named like no image": (
        ["images/a{n}.nii.gz", "labels/x{n}b.nii.gz"],
        "belong to none of the images",
    ),
    "labels without background": (["p{n}/image.nii.gz", "N:p{n}/tissue.nii.gz"], "labels without background"),
    "folder of labels without background": (
        ["images/{n}.nii.gz", "N:tissues/{n}.nii.gz"],
        "labels without background",
    ),
    "Pascal VOC": (
        ["JPEGImages/{n}.jpg", "L:SegmentationClass/{n}.png", "L:SegmentationObject/{n}.png"],
        "labels without images",
    ),
    "several readers of MS lesions": (
        [f"P_{{n}}/Preprocessed_Data/{name}_preprocessed.nii.gz" for name in ("T1", "FLAIR")]
        + [f"B:P_{{n}}/Masks/{name}.nii.gz" for name in ("Consensus", "Manual_1", "Manual_2", "Brain_Mask")],
        "several readers",
    ),
    "two readers": (
        ["{n}/t2.nii.gz", "B:{n}/tumor_reader1_seg.nii.gz", "B:{n}/tumor_reader2_seg.nii.gz"],
        "several readers",
    ),
    "two labels of several classes": (
        ["p{n}/ct.nii.gz", "L:p{n}/organs_seg.nii.gz", "L:p{n}/vessels_seg.nii.gz"],
        "several readers",
    ),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_both_readings_are_shown(name):
    templates, match = AMBIGUOUS[name]
    assert_stops_with_both_readings(templates, match)


def test_roles_decide():
    templates = ["{n}/t2.nii.gz", "B:{n}/tumor_reader1_seg.nii.gz", "B:{n}/tumor_reader2_seg.nii.gz"]
    found = infer(templates, rules=InferenceRules(roles=(("*reader2*", "skip"),)))
    assert count(found) == (4, 4, 4, 4)
    assert set(found.other.values()) == {"skipped_by_role"}
    as_images = infer(["L:{n}.nii.gz"], rules=InferenceRules(roles=(("*.nii.gz", "image"),)))
    assert count(as_images) == (4, 0, 4, 4)


def test_brain_masks_are_not_findings():
    found = infer(["p{n:02d}/T1.nii.gz", "p{n:02d}/brain_mask.nii.gz", "p{n:02d}/lesion_mask.nii.gz"])
    assert count(found) == (4, 4, 4, 4)
    assert set(found.other.values()) == {"body_mask"}


def test_previews_in_folders_of_volumes_are_skipped():
    found = infer(["s{n}/ct.nii.gz", "s{n}/preview.png"])
    assert count(found) == (4, 0, 4, 4)
    assert set(found.other.values()) == {"picture_beside_scans"}


def test_a_pair_of_a_scan_and_an_unnamed_mask_stops():
    known = {"scan.nii.gz": make_facts(), "tumor.nii.gz": make_facts("B")}
    with pytest.raises(AmbiguousLayoutError, match="1 file with few different small integers"):
        infer_known(known)


def test_a_blank_image_is_not_a_label():
    known = expand(["p{n:02d}/x.nii.gz", "p{n:02d}/y.nii.gz"])
    known["p12/y.nii.gz"] = make_facts("B")
    found = infer_known(known)
    assert count(found) == (8, 0, 8, 4)


def test_labels_named_like_no_image_belong_to_the_only_visit_of_their_folder():
    found = infer(["{n}XK/lgemri.nrrd", "B:{n}XK/laendo.nrrd"])
    assert count(found) == (4, 4, 4, 4)


def test_a_number_after_a_label_word_is_not_the_number_of_an_image():
    found = infer(["training/images/{n}_training.tif", "B:training/1st_manual/{n}_manual1.gif"])
    assert count(found)[:2] == (4, 4)


def test_digits_of_a_contrast_do_not_find_the_image_of_a_label():
    known = expand(["ldn_{n}_xt1.nii.gz", "L:ldn_{n}_Label.nii.gz"])
    known.pop("ldn_2_Label.nii.gz")
    labels = {case.image.name: [path.name for path, _ in case.labels] for case in infer_known(known).cases}
    assert labels["ldn_1_xt1.nii.gz"] == ["ldn_1_Label.nii.gz"]
    assert labels["ldn_2_xt1.nii.gz"] == []
