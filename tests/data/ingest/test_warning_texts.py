"""Every warning is one sentence with its numbers, in the singular or plural."""

import pytest

from medmim.data.ingest.warning_texts import warning_text


@pytest.mark.parametrize(
    ("warning", "start"),
    [
        ({"kind": "labels_look_smoothed", "labels": 1}, "1 label has values"),
        ({"kind": "labels_look_smoothed", "labels": 2}, "2 labels have values"),
        ({"kind": "white_is_a_class", "labels": 3}, "3 labels have the value 255"),
        ({"kind": "images_not_found", "images": 1}, "annotation files name 1 image that"),
        ({"kind": "boxes_without_class", "columns": 2}, "tables of boxes have no known column"),
        (
            {"kind": "two_columns_of_classes", "used": "label", "others": "'grade'"},
            "classes are those of the column 'label' of the table; 'grade' may hold",
        ),
        (
            {"kind": "doubtful_column_of_classes", "used": "type", "others": ""},
            "classes are those of the column 'type' of the table, which has other",
        ),
        ({"kind": "classes_of_single_images", "classes": 12, "images": 12}, "12 classes for 12 images"),
        ({"kind": "spreadsheets_not_read", "files": 1}, "1 spreadsheet not read: if it is a table"),
        ({"kind": "inverted_display", "volumes": 1, "total": 3}, "1 image of 3 with MONOCHROME1"),
        ({"kind": "mixed_units", "modality": "PT", "listed": "bqml 1, gml 1"}, "values of PT volumes"),
        ({"subjects": ["a", "b"], "splits": ["train"], "volumes": ["v"], "kind": "x"}, "same voxels under 2"),
    ],
)
def test_texts(warning, start):
    assert warning_text(warning).startswith(start)
