"""SOP classes: images of three kinds, images with names in their pixels, and the reason to refuse others."""

import pytest

from medmim.data.dicom.sop_classes import LABEL, content_of, has_burned_in_risk, modality_of, refusal

STORAGE = "1.2.840.10008.5.1.4.1.1."


@pytest.mark.parametrize(
    ("number", "content", "modality", "risk"),
    [
        ("4", "slice", "MR", False),
        ("2.1", "frames", "CT", False),
        ("1.1", "picture", "DX", False),
        ("7", "picture", "SC", True),
    ],
)
def test_images(number, content, modality, risk):
    assert content_of(STORAGE + number) == content
    assert modality_of(STORAGE + number) == modality
    assert has_burned_in_risk(STORAGE + number) is risk
    assert refusal(STORAGE + number) is None


@pytest.mark.parametrize(
    ("sop_class", "reason"),
    [
        (STORAGE + "66.4", LABEL),
        (STORAGE + "66.7", LABEL),
        (STORAGE + "481.3", LABEL),
        (STORAGE + "66.1", "derived_no_image"),
        (STORAGE + "88.11", "report_no_image"),
        (STORAGE + "999", "other_no_image"),
        ("1.2.3", "other_no_image"),
        ("", "missing_sop_class"),
    ],
)
def test_the_longest_known_prefix_gives_the_reason(sop_class, reason):
    assert refusal(sop_class) == reason
