"""Names of segments are written unless they may be the name of a person."""

from __future__ import annotations

import pytest
from frames_maker import item
from pydicom.dataset import Dataset

from medmim.data.dicom.segment_names import public_name


def name_of(label: str, **file: str) -> str:
    code = item(CodingSchemeDesignator="SCT", CodeValue="108369006")
    segment = item(SegmentLabel=label, SegmentedPropertyTypeCodeSequence=[code])
    return public_name(item(PatientName="DOE^JOHN", PatientID="PAT-7", **file), segment)


@pytest.mark.parametrize(
    "label",
    ["Tumour core", "whole", "GTV", "PTV 50", "GTVp_1", "LeftKidney", "enhancing", "a", "left hippocampus"],
)
def test_label_of_known_or_lower_case_words_is_the_name(label: str):
    assert name_of(label) == label


@pytest.mark.parametrize(
    "label", ["Smith lesion", "john", "JOHN DOE", "lesion 19700101", "ZQX00017KV", "PAT-7", "DOE^JOHN", ""]
)
def test_other_labels_are_replaced_by_the_meaning_of_their_code(label: str):
    assert name_of(label) == "neoplasm"


def test_own_segmentations_have_the_class_names_of_their_dataset():
    assert name_of("Ödem", Manufacturer="medmim", ManufacturerModelName="medmim") == "Ödem"
    assert name_of("Ödem", Manufacturer="medmim") == "neoplasm"


def test_regions_of_structure_sets_have_their_names():
    assert public_name(Dataset(), item(ROIName="BODY")) == "BODY"
    assert public_name(Dataset(), item(ROIName="Miller")) == ""
