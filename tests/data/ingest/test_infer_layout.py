"""Inference of layouts: images, labels, visits and patients of public datasets and of users' own folders.

A layout is a list of path templates; `{n}` is the number of a case. `L:` marks files with few small whole
numbers, `B:` files with one class. No file is written: the facts of volumes are given.
"""

from pathlib import Path

import pytest

from medmim.data.ingest.infer_layout import InferenceRules, infer_cases
from medmim.data.ingest.infer_roles import AmbiguousLayoutError
from medmim.data.ingest.subject_rule import SubjectRule
from medmim.data.ingest.volume_facts import VolumeFacts

ROOT = Path("source")
NUMBERS = (1, 2, 3, 12)


def facts(kind):
    classes = {"": None, "L": (1, 2, 3), "B": (1,)}[kind]
    return VolumeFacts(shape=(8, 7, 6), affine=(1.0, 0, 0, 0, 0, 1.0, 0, 0, 0, 0, 1.0, 0), classes=classes)


def expand(templates, numbers=NUMBERS):
    """Return the paths of a layout with their facts."""
    found = {}
    for template in templates:
        kind, path = (template[0], template[2:]) if template[1] == ":" else ("", template)
        for number in numbers:
            found[path.format(n=number)] = facts(kind)
    return found


def infer(templates, numbers=NUMBERS, rules=None):
    known = expand(templates, numbers)
    paths = {relative: ROOT / relative for relative in known}

    def examine(wanted):
        return {path: known[path.relative_to(ROOT).as_posix()] for path in wanted}

    return infer_cases(paths, examine=examine, declared={}, rules=rules or InferenceRules())


def counts(found):
    """Return the numbers of images, labelled images, visits and patients."""
    visits = {(case.subject, case.study) for case in found.cases}
    labelled = sum(bool(case.labels) for case in found.cases)
    return len(found.cases), labelled, len(visits), len({case.subject for case in found.cases})


FLARE = ["images/FLARE22_Tr_{n:04d}_0000.nii.gz", "labels/FLARE22_Tr_{n:04d}.nii.gz"]
LAYOUTS = {
    "KiTS19": (["case_{n:05d}/imaging.nii.gz", "case_{n:05d}/segmentation.nii.gz"], (4, 4, 4, 4)),
    "KiTS21": (
        ["kits/data/case_{n:05d}/imaging.nii.gz", "kits/data/case_{n:05d}/aggregated_MAJ_seg.nii.gz"],
        (4, 4, 4, 4),
    ),
    "LiTS": (["volume-{n}.nii", "segmentation-{n}.nii"], (4, 4, 4, 4)),
    "LiTS in batches": (
        ["Training Batch 1/volume-{n}.nii", "Training Batch 1/segmentation-{n}.nii"],
        (4, 4, 4, 4),
    ),
    "LiTS in ct and seg": (["ct/volume-{n}.nii", "seg/segmentation-{n}.nii"], (4, 4, 4, 4)),
    "CT-ORG": (
        ["OrganSegmentations/volume-{n}.nii.gz", "OrganSegmentations/labels-{n}.nii.gz"],
        (4, 4, 4, 4),
    ),
    "ACDC": (
        [
            f"patient{{n:03d}}/patient{{n:03d}}_frame{frame}{end}.nii.gz"
            for frame in ("01", "12")
            for end in ("", "_gt")
        ],
        (8, 8, 8, 4),
    ),
    "M&Ms": (["A{n}S9V9/A{n}S9V9_sa.nii.gz", "A{n}S9V9/A{n}S9V9_sa_gt.nii.gz"], (4, 4, 4, 4)),
    "M&Ms-2": (
        [
            f"{{n:03d}}/{{n:03d}}_{axis}_{phase}{end}.nii.gz"
            for axis in ("SA", "LA")
            for phase in ("ED", "ES")
            for end in ("", "_gt")
        ],
        (16, 16, 16, 4),
    ),
    "SegTHOR": (
        ["train/Patient_{n:02d}/Patient_{n:02d}.nii.gz", "train/Patient_{n:02d}/GT.nii.gz"],
        (4, 4, 4, 4),
    ),
    "VerSe": (
        [
            "rawdata/sub-verse{n:03d}/sub-verse{n:03d}_ct.nii.gz",
            "derivatives/sub-verse{n:03d}/sub-verse{n:03d}_seg-vert_msk.nii.gz",
        ],
        (4, 4, 4, 4),
    ),
    "PROMISE12": (["Case{n:02d}.mhd", "Case{n:02d}_segmentation.mhd"], (4, 4, 4, 4)),
    "BTCV": (
        ["RawData/Training/img/img{n:04d}.nii.gz", "RawData/Training/label/label{n:04d}.nii.gz"],
        (4, 4, 4, 4),
    ),
    "TotalSegmentator": (
        ["s{n:04d}/ct.nii.gz"]
        + [f"B:s{{n:04d}}/segmentations/{organ}.nii.gz" for organ in ("liver", "lung_left", "brain")],
        (4, 4, 4, 4),
    ),
    "AbdomenAtlas": (
        ["BDMAP_{n:08d}/ct.nii.gz"]
        + [f"B:BDMAP_{{n:08d}}/segmentations/{organ}.nii.gz" for organ in ("aorta", "liver")],
        (4, 4, 4, 4),
    ),
    "WORD": (["imagesTr/word_{n:04d}.nii.gz", "labelsTr/word_{n:04d}.nii.gz"], (4, 4, 4, 4)),
    "AMOS": (
        ["imagesTr/amos_{n:04d}.nii.gz", "labelsTr/amos_{n:04d}.nii.gz", "imagesTs/amos_9{n:03d}.nii.gz"],
        (8, 4, 8, 8),
    ),
    "nnU-Net": (
        ["imagesTr/t_{n:03d}_0000.nrrd", "imagesTr/t_{n:03d}_0001.nrrd", "labelsTr/t_{n:03d}.nrrd"],
        (8, 8, 4, 4),
    ),
    "nnU-Net with PNG": (
        ["Dataset1/imagesTr/t_{n:03d}_0000.png", "Dataset1/labelsTr/t_{n:03d}.png"],
        (4, 4, 4, 4),
    ),
    "FLARE": (FLARE, (4, 4, 4, 4)),
    "images and labels": (["images/case{n}.nii.gz", "labels/case{n}.nii.gz"], (4, 4, 4, 4)),
    "images and labels below train": (
        ["train/images/{n}.png", "train/labels/{n}.png", "test/images/{n}.png", "test/labels/{n}.png"],
        (8, 8, 8, 8),
    ),
    "folders of patients": (
        [f"patient{{n:02d}}/{name}.nii.gz" for name in ("T1", "T2", "FLAIR", "mask")],
        (12, 12, 4, 4),
    ),
    "folders of patients without numbers": (
        [f"{who}/{name}.nii.gz" for who in ("anna", "bert", "carl") for name in ("T1", "T2", "lesion_mask")],
        (6, 6, 3, 3),
    ),
    "unnamed labels in folders": (["{n:04d}/scan.nii.gz", "L:{n:04d}/organs.nii.gz"], (4, 4, 4, 4)),
    "unnamed labels by values": (["brain{n}_T1.nii.gz", "L:brain{n}_T1_lesion.nii.gz"], (4, 4, 4, 4)),
    "visits of patients": (
        [f"P{{n:02d}}/2019010{day}/{name}.nii.gz" for day in (1, 2) for name in ("T1", "T2", "seg")],
        (16, 16, 8, 4),
    ),
    "images and masks of patients": (
        ["images/p{n:02d}/T1.nii.gz", "images/p{n:02d}/T2.nii.gz", "masks/p{n:02d}/mask.nii.gz"],
        (8, 8, 4, 4),
    ),
    "BraTS 2018": (
        [
            f"HGG/Brats18_2013_{{n}}_1/Brats18_2013_{{n}}_1_{name}.nii.gz"
            for name in ("t1", "t1ce", "t2", "flair", "seg")
        ],
        (16, 16, 4, 4),
    ),
    "IXI": (
        ["IXI-T1/IXI{n:03d}-Guys-0{n:03d}-T1.nii.gz", "IXI-T2/IXI{n:03d}-Guys-0{n:03d}-T2.nii.gz"],
        (8, 0, 4, 4),
    ),
    "HECKTOR": (
        ["imagesTr/CHGJ{n:03d}__CT.nii.gz", "imagesTr/CHGJ{n:03d}__PT.nii.gz", "labelsTr/CHGJ{n:03d}.nii.gz"],
        (8, 8, 4, 4),
    ),
    "AutoPET": (
        [f"PETCT_0a{{n}}b2c/01-01-2001-NA-PET/{name}.nii.gz" for name in ("CT", "CTres", "SUV", "SEG")],
        (12, 12, 4, 4),
    ),
    "ISLES 2022": (
        [
            "sub-strokecase{n:04d}/ses-0001/dwi/sub-strokecase{n:04d}_ses-0001_dwi.nii.gz",
            "derivatives/sub-strokecase{n:04d}/ses-0001/sub-strokecase{n:04d}_ses-0001_msk.nii.gz",
        ],
        (4, 4, 4, 4),
    ),
    "LGG slices": (
        [
            f"TCGA_CS_{{n:04d}}_19960909/TCGA_CS_{{n:04d}}_19960909_{part}{end}.tif"
            for part in (1, 2, 3)
            for end in ("", "_mask")
        ],
        (12, 12, 12, 4),
    ),
    "BUSI": (
        [
            "benign/benign ({n}).png",
            "B:benign/benign ({n})_mask.png",
            "malignant/malignant ({n}).png",
            "B:malignant/malignant ({n})_mask.png",
        ],
        (8, 8, 8, 8),
    ),
    "ISIC": (["ISIC_{n:07d}.jpg", "ISIC_{n:07d}_segmentation.png"], (4, 4, 4, 4)),
    "Kvasir": (["Kvasir-SEG/images/cju{n}.jpg", "Kvasir-SEG/masks/cju{n}.jpg"], (4, 4, 4, 4)),
    "DRIVE": (["training/images/2{n}_training.tif", "training/1st_manual/2{n}_manual1.tif"], (4, 4, 4, 4)),
    "HaN-Seg": (
        ["case_{n:02d}/case_{n:02d}_IMG_CT.nrrd"]
        + [f"B:case_{{n:02d}}/case_{{n:02d}}_OAR_{organ}.seg.nrrd" for organ in ("A_Carotid_L", "Brainstem")],
        (4, 4, 4, 4),
    ),
    "WMH": ([f"{{n}}/pre/{name}.nii.gz" for name in ("FLAIR", "T1")] + ["L:{n}/wmh.nii.gz"], (8, 8, 4, 4)),
    "iSeg": (["subject-{n}-T1.hdr", "subject-{n}-T2.hdr", "subject-{n}-label.hdr"], (8, 8, 4, 4)),
    "SPIDER": (
        ["images/{n}_t1.mha", "images/{n}_t2.mha", "masks/{n}_t1.mha", "masks/{n}_t2.mha"],
        (8, 8, 4, 4),
    ),
    "slices of patients": ([f"patient{{n}}_slice{part:03d}.png" for part in (1, 2, 3)], (12, 0, 12, 4)),
    "folders of slices": ([f"patient{{n}}/{part:03d}.png" for part in (1, 2, 3)], (12, 0, 12, 4)),
    "sites of patients": ([f"site{site}/sub{{n:02d}}_T1.nii.gz" for site in (1, 2)], (8, 0, 8, 8)),
    "pictures": (["{n}.png"], (4, 0, 4, 4)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout(name):
    templates, expected = LAYOUTS[name]
    found = infer(templates)
    assert counts(found) == expected, sorted(
        (str(c.image), c.subject, c.study, len(c.labels)) for c in found.cases
    )


AMBIGUOUS = {
    "names with two numbers": (["a{n}_1.png", "a{n}_2.png"], "are 4 patients with several scans each"),
    "folders with numbers and numbered files": (
        [f"x{{n}}/{part}.png" for part in (1, 2)],
        "level 1 are patients",
    ),
    "visits in folder names": (
        [f"OAS{{n}}_MR{visit}/T1.nii.gz" for visit in (1, 2)],
        "are 4 patients with several",
    ),
    "only few grey values": (["L:{n}.nii.gz"], "labels without images"),
    "labels named like no image": (
        ["images/a{n}.nii.gz", "labels/x{n}b.nii.gz"],
        "belong to none of the images",
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
    with pytest.raises(AmbiguousLayoutError, match=match) as caught:
        infer(templates)
    assert caught.value.reason == "ambiguous_layout"
    assert "(1)" in str(caught.value)
    assert "(2)" in str(caught.value)
    assert "--" in str(caught.value)


def test_a_subject_pattern_decides():
    templates = ["a{n}_1.png", "a{n}_2.png"]
    first = infer(templates, rules=InferenceRules(subjects=SubjectRule(pattern=r"([^/]*)_")))
    assert counts(first) == (8, 0, 8, 4)
    second = infer(templates, rules=InferenceRules(subjects=SubjectRule(pattern=r"([^/]+)$")))
    assert counts(second) == (8, 0, 8, 8)


def test_roles_decide():
    templates = ["{n}/t2.nii.gz", "B:{n}/tumor_reader1_seg.nii.gz", "B:{n}/tumor_reader2_seg.nii.gz"]
    found = infer(templates, rules=InferenceRules(roles=(("*reader2*", "skip"),)))
    assert counts(found) == (4, 4, 4, 4)
    assert set(found.other.values()) == {"skipped_by_role"}
    as_images = infer(["L:{n}.nii.gz"], rules=InferenceRules(roles=(("*.nii.gz", "image"),)))
    assert counts(as_images) == (4, 0, 4, 4)


def test_one_mask_file_per_organ_becomes_one_label():
    organs = ("liver", "lung_left")
    found = infer(["s{n:04d}/ct.nii.gz"] + [f"B:s{{n:04d}}/segmentations/{one}.nii.gz" for one in organs])
    assert found.label_names == {1: "liver", 2: "lung left"}
    assert {tuple(number for _, number in case.labels) for case in found.cases} == {(1, 2)}
    assert {case.modality for case in found.cases} == {"CT"}


def test_several_masks_of_one_finding_are_one_class():
    found = infer(["b ({n}).png", "B:b ({n})_mask.png", "B:b ({n})_mask_1.png"])
    assert {len(case.labels) for case in found.cases} == {2}
    assert found.label_names == {1: "class 1"}


def test_brain_masks_are_not_findings():
    found = infer(["p{n:02d}/T1.nii.gz", "p{n:02d}/brain_mask.nii.gz", "p{n:02d}/lesion_mask.nii.gz"])
    assert counts(found) == (4, 4, 4, 4)
    assert set(found.other.values()) == {"body_mask"}


def test_previews_in_folders_of_volumes_are_skipped():
    found = infer(["s{n}/ct.nii.gz", "s{n}/preview.png"])
    assert counts(found) == (4, 0, 4, 4)
    assert set(found.other.values()) == {"picture_beside_scans"}


def test_class_folders_are_classes_if_their_names_cannot_be_patients():
    known = infer(["benign/{n}.png", "malignant/{n}.png"])
    assert {case.target for case in known.cases} == {"benign", "malignant"}
    repeated = infer([f"{part}/{name}/{{n}}.png" for part in ("train", "test") for name in ("aa", "bb")])
    assert {(case.target, case.split) for case in repeated.cases} == {
        (name, part) for name in ("aa", "bb") for part in ("train", "test")
    }
    people = ["smith/{n}.png", "jones/{n}.png"]
    assert {case.target for case in infer(people).cases} == {None}
    asked = infer(people, rules=InferenceRules(class_folders=True))
    assert {case.target for case in asked.cases} == {"smith", "jones"}


def test_a_test_folder_without_labels_is_not_a_split():
    found = infer(["Training/img/{n}.nii.gz", "Training/label/{n}.nii.gz", "Testing/img/9{n}.nii.gz"])
    assert {case.split for case in found.cases} == {None}


def test_images_without_patient_information_are_reported():
    assert infer(["{n}.png"]).anonymous
    assert not infer(["patient{n}/T1.nii.gz", "patient{n}/T2.nii.gz"]).anonymous


def test_a_blank_image_is_not_a_label():
    known = expand(["p{n:02d}/x.nii.gz", "p{n:02d}/y.nii.gz"])
    known["p12/y.nii.gz"] = facts("B")
    paths = {relative: ROOT / relative for relative in known}

    def examine(wanted):
        return {path: known[path.relative_to(ROOT).as_posix()] for path in wanted}

    found = infer_cases(paths, examine=examine, declared={}, rules=InferenceRules())
    assert counts(found) == (8, 0, 8, 4)
