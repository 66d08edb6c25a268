"""Inference of layouts: images, labels, visits and patients of public datasets and of users' own folders."""

import pytest
from layout_maker import assert_stops_with_both_readings, count, infer

from medmim.data.ingest.infer_layout import nnunet_channels
from medmim.data.ingest.layout_rules import InferenceRules
from medmim.data.ingest.path_words import bare_name
from medmim.errors import DataError

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
    "camel case": (["imagesTrain/c{n}.nii.gz", "L:labelsTrain/c{n}.nii.gz"], (4, 4, 4, 4)),
    "camel case of words": (["TrainImages/c{n}.png", "B:TrainGroundTruth/c{n}.png"], (4, 4, 4, 4)),
    "TN3K": (
        [
            f"{kind}{part}-{role}/{place}{{n}}.jpg"
            for part, place in (("trainval", 1), ("test", 2))
            for kind, role in (("", "image"), ("B:", "mask"))
        ],
        (8, 8, 8, 8),
    ),
    "folders of one format": (["image_mha/{n}.mha", "L:label_mha/{n}.mha"], (4, 4, 4, 4)),
    "labels with a version": (["volumes/c{n}.nii.gz", "L:annotations_v2/c{n}.nii.gz"], (4, 4, 4, 4)),
    "MSSEG 2016": (
        [
            f"Center_01/Patient_{{n:02d}}/Preprocessed_Data/{name}_preprocessed.nii.gz"
            for name in ("T1", "GADO")
        ]
        + [f"B:Center_01/Patient_{{n:02d}}/Masks/{name}.nii.gz" for name in ("Consensus", "Brain_Mask")],
        (8, 8, 4, 4),
    ),
    "MSSEG 2": (
        [f"t/{{n:03d}}/flair_time0{time}_on_middle_space.nii.gz" for time in (1, 2)]
        + ["B:t/{n:03d}/ground_truth.nii.gz"],
        (8, 8, 8, 4),
    ),
    "Shifts": (["msseg/flair/{n}_FLAIR.nii.gz", "B:msseg/gt/{n}_gt.nii.gz"], (4, 4, 4, 4)),
    "BraTS 2015": (
        [
            f"HGG/pat{{n:04d}}_1/VSD.O.{name}.5{place}{{n}}/VSD.O.{name}.5{place}{{n}}.mha"
            for place, name in enumerate(("MR_Flair", "MR_T1"))
        ]
        + ["L:HGG/pat{n:04d}_1/VSD.O.OT.59{n}/VSD.O.OT.59{n}.mha"],
        (8, 8, 8, 4),
    ),
    "SegRap": (
        [f"Set_120cases/segrap_{{n:04d}}/{name}.nii.gz" for name in ("image", "image_contrast")]
        + [f"B:Set_120cases_Labels/Task001/segrap_{{n:04d}}/{name}.nii.gz" for name in ("Brain", "Eye_L")],
        (8, 4, 8, 4),
    ),
    "MIMIC-CXR": ([f"files/p1{{n}}/p1{{n}}000032/s5{place}/a.jpg" for place in (1, 2)], (8, 0, 8, 4)),
    "OASIS 3": (
        [f"OAS3000{{n}}_MR_d0{day}/anat1/sub-OAS3000{{n}}_ses-d0{day}_T1w.nii.gz" for day in (129, 757)],
        (8, 0, 8, 4),
    ),
    "visits of patients without numbers": (
        [
            f"{who}/visit{visit}/{name}.nii.gz"
            for who in ("anna", "bert")
            for visit in (1, 2)
            for name in ("T1", "T2", "lesion_mask")
        ],
        (8, 8, 4, 2),
    ),
    "altered copies": (["ISIC_{n}.jpg", "ISIC_{n}_flipped.jpg", "B:ISIC_{n}_segmentation.png"], (8, 4, 8, 4)),
    "slices of patients": ([f"patient{{n}}_slice{part:03d}.png" for part in (1, 2, 3)], (12, 0, 12, 4)),
    "folders of slices": ([f"patient{{n}}/{part:03d}.png" for part in (1, 2, 3)], (12, 0, 12, 4)),
    "sites of patients": ([f"site{site}/sub{{n:02d}}_T1.nii.gz" for site in (1, 2)], (8, 0, 8, 8)),
    "pictures": (["{n}.png"], (4, 0, 4, 4)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout(name):
    templates, expected = LAYOUTS[name]
    found = infer(templates)
    assert count(found) == expected, sorted(
        (str(c.image), c.subject, c.study, len(c.labels)) for c in found.cases
    )


def test_one_mask_file_per_organ_becomes_one_label():
    organs = ("liver", "lung_left")
    found = infer(["s{n:04d}/ct.nii.gz"] + [f"B:s{{n:04d}}/segmentations/{one}.nii.gz" for one in organs])
    assert found.label_names == {1: "liver", 2: "lung left"}
    assert {tuple(number for _, number in case.labels) for case in found.cases} == {(1, 2)}
    assert {case.modality for case in found.cases} == {"CT"}


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
    with pytest.raises(
        DataError, match="folders of classes 'A' and 'a' differ in case only: expected one name"
    ):
        infer(["A/{n}.png", "a/{n}.png", "b/{n}.png"], rules=InferenceRules(class_folders=True))


def test_a_test_folder_without_labels_is_not_a_split():
    found = infer(["Training/img/{n}.nii.gz", "Training/label/{n}.nii.gz", "Testing/img/9{n}.nii.gz"])
    assert {case.split for case in found.cases} == {None}


@pytest.mark.parametrize("names", [("{}Tr", "{}Ts"), ("{}_training", "{}_test"), ("train_{}", "testing_{}")])
def test_labelled_folders_of_images_and_a_split_keep_that_split(names):
    """As in raw folders of nnU-Net, whose labelled test patients were trained on."""
    files = zip(names, ("{n}", "9{n}"), strict=True)
    found = infer([f"{of.format(kind)}/{stem}.nii.gz" for of, stem in files for kind in ("images", "labels")])
    assert {case.split for case in found.cases} == {"train", "test"}
    for case in found.cases:
        assert case.labels
        assert case.split == ("test" if bare_name(case.image.name).startswith("9") else "train")


def test_images_without_patient_information_are_reported():
    assert infer(["{n}.png"]).anonymous
    assert not infer(["patient{n}/T1.nii.gz", "patient{n}/T2.nii.gz"]).anonymous


def test_a_model_of_numbered_channels_knows_what_numbers_mean():
    """One case alone, one that lacks channel 0, and five digits, which are no channel."""
    rules = InferenceRules(expects_labels=False, channels=2)
    found = infer(["a_0000.nii.gz", "a_0001.nii.gz", "b_0000_0001.nii.gz", "c_00001.nii.gz"], rules)
    visits = {}
    for case in found.cases:
        visits.setdefault((case.subject, case.study), set()).add((bare_name(case.image.name), case.tokens))
    assert sorted(map(sorted, visits.values())) == [
        [("a_0000", ("channel0",)), ("a_0001", ("channel1",))],
        [("b_0000_0001", ("channel1",))],
        [("c_00001", ())],
    ]


def test_doubts_about_patients_do_not_stop_predictions():
    names = [f"a_{{n}}_{scan}.nii.gz" for scan in "12"]
    assert_stops_with_both_readings(names, "layout has two readings")
    found = infer(names, InferenceRules(expects_labels=False))
    assert count(found) == (8, 0, 8, 8)


def test_channels_need_a_channel_0_and_labels_without_numbers():
    images = [f"imagesTr/a_{case}_{channel}.nii.gz" for case in (1, 2) for channel in ("0000", "0001")]
    labels = ["labelsTr/a_1.nii.gz", "labelsTr/a_2.nii.gz"]
    assert set(nnunet_channels([*images, *labels], declares=0).values()) == {0, 1}
    assert nnunet_channels(["imagesTr/amos_0001.nii.gz", "labelsTr/amos_0001.nii.gz"], declares=1) == {}
    assert nnunet_channels([f"img_{number:04d}.png" for number in range(9)], declares=0) == {}
