"""Words of paths: roles, contrasts, and the tokens that identify patient and visit."""

import pytest

from medmim.data.ingest.path_words import PathWords, bare_name, contrast_of, folder_role, split_words


@pytest.mark.parametrize(
    ("path", "role", "key"),
    [
        ("case_00000/imaging.nii.gz", "image", ("case", "00000")),
        ("case_00000/segmentation.nii.gz", "label", ("case", "00000")),
        ("patient001/patient001_frame01_gt.nii.gz", "label", ("patient", "001", "frame", "01")),
        ("imagesTr/amos_0001.nii.gz", "image", ("amos", "0001")),
        ("RawData/Training/label/label0001.nii.gz", "label", ("training", "0001")),
        ("volume-0.nii", "image", ("0",)),
        ("p1/T1.nii.gz", "image", ("p", "1")),
        ("p1/T1_lesion.nii.gz", None, ("p", "1", "lesion")),
        ("1.3.6.1.4.1.14519.5.nii.gz", None, ("136141145195",)),
    ],
)
def test_role_and_key(path, role, key):
    words = PathWords(path)
    assert (words.role, words.key) == (role, key)


def test_words_of_names():
    assert split_words("Case00_T1ce") == ["case", "00", "t1ce"]
    assert split_words("A0S9V9") == ["a0s9v9"]
    assert contrast_of("t1ce") == ("t1", "post")
    assert contrast_of("liver") == ()
    assert bare_name("a.b.NII.GZ") == "a.b"


@pytest.mark.parametrize(
    ("folder", "role"),
    [
        ("labelsTr", "label"),
        ("images", "image"),
        ("BrainSegmentationChallenge", None),
        ("lungmask", "label"),
        ("imagesTrain", "image"),
        ("TestGroundTruth", "label"),
        ("ground truths", "label"),
        ("p1", None),
    ],
)
def test_role_of_folders(folder, role):
    assert folder_role(folder) == role


def test_folders_of_roles_are_not_units_of_patients():
    words = PathWords("derivatives/masks/sub-01/sub-01_mask.nii.gz")
    assert words.unit == ("sub-01",)
    neutral = PathWords("masks/a.nii.gz", folders={"masks": (None, "masks")})
    assert (neutral.unit, neutral.role) == (("masks",), None)
