"""Class names of plain words of any language are kept; others stay apart as `class` and a number."""

import pytest

from medmim.data.formats.annotations import Annotation, AnnotationFile, ImageAnnotation
from medmim.data.formats.class_names import clean_class_name, number_classes, plain_class_name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Gräser (dry)", "graser dry"),
        ("опухоль", "опухоль"),
        ("肿瘤", "肿瘤"),
        ("край", "край"),
        ("ट्यूमर", "ट्यूमर"),
        ("T1/T2", "t1 t2"),
        ("0.5", "0.5"),
        ("-2.5", "-2.5"),
        ("", ""),
        (None, ""),
    ],
)
def test_plain_words_and_numbers_are_kept(name, expected):
    assert clean_class_name(name) == expected


def test_a_class_with_a_number_of_its_own_gets_it():
    assert clean_class_name("Dr. O'Hara", 4) == "class 4"
    assert clean_class_name(None, 4) == "class 4"


def test_other_names_are_numbered_in_order_over_all_files():
    later, sooner = (
        clean_class_name("≥3"),
        clean_class_name("a sentence of many words about one patient's scan"),
    )
    files = [
        AnnotationFile(
            kind="voc", images=[ImageAnnotation(image="a", marks=[mark(sooner), mark("class 1")])]
        ),
        AnnotationFile(kind="voc", images=[ImageAnnotation(image="b", target=later, targets={sooner: 1.0})]),
    ]
    first, second = number_classes(files)
    assert [one.name for one in first.images[0].marks] == ["class 2", "class 1"]
    assert (second.images[0].target, second.images[0].targets) == ("class 3", {"class 2": 1.0})
    assert [one.numbered_classes for one in (first, second)] == [1, 1]


def test_readers_keep_the_case_that_a_dataset_does_not():
    assert plain_class_name("Gräser (dry)") == "Graser dry"
    image = ImageAnnotation(image="a", target="Mass", targets={"Mass": 1.0}, marks=[mark("Cyst")])
    [file] = number_classes([AnnotationFile(kind="voc", images=[image], classes=["Mass", ""])])
    assert (file.images[0].target, file.images[0].targets, file.classes) == (
        "mass",
        {"mass": 1.0},
        ["mass", ""],
    )
    assert file.images[0].marks[0].name == "cyst"


def mark(name):
    return Annotation(name=name, box=(1, 1, 2, 2))
