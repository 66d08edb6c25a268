"""Tests of the order of classes and regions, and of regions from which labels cannot be written."""

from pathlib import Path

import pytest

from medmim.data.dataset.manifest import Dataset, DatasetInfo
from medmim.data.loading.fingerprint import ClassStatistics, Fingerprint
from medmim.errors import UsageError
from medmim.training.tasks.label_scheme import label_scheme

NAMES = {1: "necrosis", 2: "edema", 4: "enhancing"}
BRATS = (("whole", (1, 2, 4)), ("core", (1, "enhancing")), ("active", (4,)))


def fingerprint(**options):
    classes = [ClassStatistics(code=one, ml=1.0, components=1.0, sides=(), positions=()) for one in NAMES]
    options |= {"volumes": 1, "shape": (8, 8, 8), "spacing_mm": (1.0, 1.0, 1.0), "anisotropy": 1.0}
    return Fingerprint(**options, intensities={}, classes=tuple(classes), cases=(tuple(NAMES),))


def scheme(regions=(), labels=None):
    dataset = Dataset(Path("data"), DatasetInfo(name="d", label_names=NAMES), ())
    return label_scheme(dataset, fingerprint(), labels=labels or {}, regions=regions)


def test_classes_have_the_order_in_which_regions_are_written():
    found = scheme(BRATS)
    assert found.names == {1: "edema", 2: "necrosis", 3: "enhancing"}
    assert found.codes == (2, 1, 4)
    assert found.regions == (("whole", (1, 2, 3)), ("core", (2, 3)), ("active", (3,)))
    assert found.pairs == ((2, 1), (1, 2), (4, 3))


def test_merged_classes_are_members_of_regions_by_name():
    found = scheme((("whole", ("dead", 2)), ("dead", ("dead",))), labels={"dead": [1, 4], "wet": [2]})
    assert found.names == {1: "wet", 2: "dead"}
    assert found.pairs == ((2, 1), (1, 2), (4, 2))


def test_merged_and_left_out_values_are_named_also_where_no_training_label_has_them():
    lines = scheme(labels={"dead": [1, 4]}).lines(fingerprint())
    assert "classes of several label values: dead (1, 4; written as 1)" in lines
    assert "warning: label values 2 are background: `labels` leaves them out" in lines
    info = DatasetInfo(name="d", label_codes=(0, 1, 2, 4, 9))
    found = label_scheme(Dataset(Path("data"), info, ()), fingerprint(), labels={}, regions=[["all", [1]]])
    assert "warning: label values 2, 4, 9 are background: `regions` leaves them out" in found.lines(
        fingerprint()
    )


def test_merged_classes_are_ordered_by_value_whatever_the_order_of_their_names():
    assert scheme(labels={"z": [1], "a": [2, 4]}).names == {1: "z", 2: "a"}


@pytest.mark.parametrize(
    ("regions", "labels", "message"),
    [
        ((("whole", (1, 2, 3)),), {}, r"no class of 'whole' is 3; expected 1 \(necrosis\), 2 \(edema\)"),
        ((("whole", (1, 2)),), {}, "since necrosis and edema belong to 'whole' but to no later region"),
        (BRATS[::-1], {}, "since no class belongs to 'active'.* from the largest to the smallest"),
        ((("part", (1,)),), {"dead": [1, 4]}, "only a part of the merged class 'dead'; add 4"),
    ],
)
def test_regions_from_which_labels_cannot_be_written_are_refused(regions, labels, message):
    with pytest.raises(UsageError, match=message):
        scheme(regions, labels)


def test_labels_without_background_are_pointed_out_unless_a_value_is_left_out():
    full = fingerprint(without_background=1)
    text = "\n".join(scheme().lines(full))
    assert "1 of 1 training label without any 0" in text
    assert "if 'necrosis' is the background, use --set 'labels={edema: [2], enhancing: [4]}'" in text
    assert "without any 0" not in "\n".join(scheme(labels={"edema": [2]}).lines(full))
    assert "without any 0" not in "\n".join(scheme().lines(fingerprint()))
