"""Tables of findings, boxes and classes are read row by row."""

import pytest
from annotation_maker import notes

from medmim.data.formats.annotations import AnnotationFile
from medmim.data.formats.class_names import number_classes

HEAD = "seriesuid,coordX,coordY,coordZ,diameter_mm\n"


def test_csv_in_world_mm(tmp_path):
    text = HEAD + "1.2,10,20,30,4\n1.2,1,2,3,nan\n1.3,0,0,0,-1\n1.4,a,0,0,1\n"
    found = notes(tmp_path / "annotations.csv", text)
    assert (found.kind, found.faults) == ("world_mm", {"not_finite": 1, "empty": 1, "malformed": 1})
    assert found.images[0].image == "1.2"
    assert found.images[0].marks[0].box == (8, 18, 28, 12, 22, 32)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
@pytest.mark.parametrize(
    ("delimiter", "point"), [(",", "."), (";", ","), (";", "."), ("\t", "."), ("|", ".")]
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_delimiter_encoding_and_line_ends_are_detected(tmp_path, encoding, delimiter, point, end):
    rows = [
        ["SeriesUID", "coordX", "coordY", "coordZ", "Diameter_mm", "note"],
        ["1.2", "0.5", "-10.5", "8", "4", "größe"],
    ]
    lines = [
        delimiter.join(cell.replace(".", point) if place else cell for place, cell in enumerate(row))
        for row in rows
    ]
    found = notes(tmp_path / "a.csv", (end.join(lines) + end).encode(encoding))
    assert found.images[0].image == "1.2"
    assert found.images[0].marks[0].box == (-1.5, -12.5, 6, 2.5, -8.5, 10)


def test_class_tables(tmp_path):
    rows = ["a.png,Mass,p1,train", "b.png,Cyst,p1,test", ",Mass,p2,", "b.png,Mass,p1,"]
    text = "\n".join(["Image Index,Finding Labels,Patient ID,split", *rows])
    found = notes(tmp_path / "a.csv", text)
    assert [(one.image, one.target, one.group, one.split) for one in found.images] == [
        ("a.png", "Mass", "p1", "train"),
        ("b.png", None, "p1", "test"),
    ]
    assert (found.kind, found.faults) == ("class_table", {"malformed": 1, "several_classes": 1})
    assert [one.targets for one in found.images] == [{"Cyst": 0, "Mass": 1}, {"Cyst": 1, "Mass": 1}]


def test_tables_with_one_column_per_class(tmp_path):
    text = "image,MEL,NV,age\na,1.0,0.0,30\nb,0,1,40\nc,1,1,50\nd,0,0,60\n"
    found = notes(tmp_path / "a.csv", text)
    targets = {one.image: (one.target, one.targets) for one in found.images}
    assert targets == {
        "a": ("MEL", {"MEL": 1, "NV": 0}),
        "b": ("NV", {"MEL": 0, "NV": 1}),
        "c": (None, {"MEL": 1, "NV": 1}),
        "d": (None, {"MEL": 0, "NV": 0}),
    }
    assert found.faults == {"several_classes": 1, "no_class": 1}


def test_uncertain_and_missing_values_are_kept(tmp_path):
    text = "Path,Sex,Edema,Fracture\na,F,1.0,\nb,M,-1.0,1.0\nc,M,,0.0\n"
    found = notes(tmp_path / "a.csv", text)
    assert [one.targets for one in found.images] == [
        {"Edema": 1},
        {"Edema": -1, "Fracture": 1},
        {"Fracture": 0},
    ]


@pytest.mark.parametrize("cell", ["Mass|Heart Failure", "['Mass', 'Heart Failure']"])
def test_several_classes_in_a_cell(tmp_path, cell):
    found = notes(tmp_path / "a.csv", f'image,labels\na,"{cell}"\nb,Mass\nc,No Finding\n')
    assert found.images[0].target is None
    assert [one.targets["Heart Failure"] for one in found.images] == [1, 0, 0]
    assert found.images[2].target == "No Finding"
    assert set(found.images[2].targets.values()) == {0}


@pytest.mark.parametrize(
    ("head", "rows"),
    [
        ("patientId,x,y,width,height,Target", ["a,5,6,10,12,1", "b,,,,,0", "a,1,1,0,2,1"]),
        ("filename,xmin,ymin,xmax,ymax", ["a,5,6,15,18", "b,,,,", "a,1,1,1,3"]),
        ("image_id,x_min,y_min,x_max,y_max,rad", ["a,5,6,15,18,R1", "b,,,,,R1", "a,1,1,1,3,R1"]),
    ],
)
def test_box_tables(tmp_path, head, rows):
    found = notes(tmp_path / "a.csv", "\n".join([head, *rows]))
    assert [(one.image, [mark.box for mark in one.marks]) for one in found.images] == [
        ("a", [(5, 6, 15, 18)]),
        ("b", []),
    ]
    assert (found.kind, found.faults) == ("boxes", {"empty": 1})


def test_rows_with_too_many_cells_cost_only_themselves(tmp_path):
    found = notes(tmp_path / "a.csv", "image,label\na,x\nb,y,z\nc,x\n")
    assert [one.image for one in found.images] == ["a", "c"]
    assert found.faults == {"malformed": 1}


@pytest.mark.parametrize("text", ["", "\n", "image\na\n", "colour,age\nx,1\n", "image,age\na,30\nb,40\n"])
def test_other_tables_are_not_annotations(tmp_path, text):
    assert notes(tmp_path / "a.csv", text) == AnnotationFile()


def test_classes_whose_names_are_no_plain_words_stay_apart(tmp_path):
    found = notes(tmp_path / "a.csv", "image,label\na,Gr\u00e4ser (dry)\nb,^x\nc,^y\nd,p|q\n")
    (numbered,) = number_classes([found])
    assert [one.target for one in numbered.images] == ["graser dry", "class 1", "class 2", None]
    assert found.faults == {"several_classes": 1}


def test_tables_of_via_and_rows_without_a_box(tmp_path):
    shape = '"{""name"":""rect"",""x"":2,""y"":3,""width"":10,""height"":12}"'
    rows = f'a.png,1,0,{shape},"{{""type"":""mass""}}"\nb.png,0,0,{{}},{{}}\n'
    via = notes(
        tmp_path / "via.csv",
        f"filename,region_count,region_id,region_shape_attributes,region_attributes\n{rows}",
    )
    assert [(one.image, len(one.marks)) for one in via.images] == [("a.png", 1), ("b.png", 0)]
    assert via.images[0].marks[0].box == (2, 3, 12, 15)
    boxes = notes(
        tmp_path / "b.csv", "image,x,y,width,height\np1,nan,nan,nan,nan\np2,-1,-1,-1,-1\np3,1,1,2,2\n"
    )
    assert [len(one.marks) for one in boxes.images] == [0, 0, 1]
    assert boxes.faults == {}


def test_a_column_of_file_names_names_the_images(tmp_path):
    text = "Unnamed: 0,filepath,finding\n0,train/a.png,COVID\n1,train/b.PNG,normal\n"
    found = notes(tmp_path / "train.csv", text)
    assert [(one.image, one.target) for one in found.images] == [
        ("train/a.png", "COVID"),
        ("train/b.PNG", "normal"),
    ]


def test_boxes_in_one_cell_are_named_but_not_read(tmp_path):
    found = notes(tmp_path / "train.csv", 'image_id,bbox\na.png,"[1, 2, 10, 10]"\n')
    assert (found.kind, found.tried) == ("", "table")


@pytest.mark.parametrize("column", [" EncodedPixels", "mask_rle"])
def test_tables_of_run_lengths_are_named_but_not_read(tmp_path, column):
    found = notes(tmp_path / "train.csv", f"ImageId,{column}\na,100 5\nb,-1\n")
    assert (found.kind, found.tried) == ("", "run_lengths")


@pytest.mark.parametrize("cell", ["nan", "NaN", "NA", "#N/A", "null", ""])
def test_a_class_that_is_not_stated_is_no_class(tmp_path, cell):
    found = notes(tmp_path / "a.csv", f"image,label\na,yes\nb,{cell}\nc,no\n")
    assert [(one.image, one.target) for one in found.images] == [("a", "yes"), ("c", "no")]
    assert found.faults == {"class_not_stated": 1}


def test_columns_of_true_and_false_are_classes(tmp_path):
    found = notes(tmp_path / "a.csv", "image,mass,cyst\na,True,False\nb,False,True\nc,True,NA\n")
    assert [one.target for one in found.images] == ["mass", "cyst", "mass"]
    found = notes(tmp_path / "a.csv", "image,mass,cyst\na,yes,no\nb,no,\n")
    assert found == AnnotationFile(tried="table")


def test_one_column_of_0_and_1_is_named_but_not_read(tmp_path):
    assert notes(tmp_path / "a.csv", "image,malignant\na,0\nb,1\n") == AnnotationFile(tried="table")


def test_the_table_of_boxes_of_nih(tmp_path):
    head = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
    (image,) = notes(tmp_path / "a.csv", f"{head}\na.png,Mass,5,6,10,12,,,\n").images
    assert [(mark.name, mark.box) for mark in image.marks] == [("Mass", (5, 6, 15, 18))]


def test_columns_of_words_that_may_be_classes_of_boxes_are_counted(tmp_path):
    rows = [f"{name}.png,1,2,9,9,{kind}" for name, kind in zip("abcd", ["mass", "cyst"] * 2, strict=True)]
    found = notes(tmp_path / "a.csv", "\n".join(["image,xmin,ymin,xmax,ymax,kind", *rows]))
    assert (found.kind, found.unread_columns) == ("boxes", 1)
    found = notes(tmp_path / "a.csv", "\n".join(["image,xmin,ymin,xmax,ymax,class", *rows]))
    assert found.unread_columns == 0


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "1.0", "2"], ["1", "1", "2"]),
        (["0,5", "0.5", "2.0"], ["0.5", "0.5", "2"]),
        (["1", "1.0", "two"], ["1", "1", "two"]),
    ],
)
def test_numbers_are_one_class_in_every_spelling(cells, expected, tmp_path):
    text = "image;grade\n" + "".join(f"{place}.png;{cell}\n" for place, cell in enumerate(cells))
    assert [one.target for one in notes(tmp_path / "a.csv", text).images] == expected


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("image,label,note", {}),
        ("image,grade,diagnosis", {"diagnosis": ["grade"]}),
        ("image,type,status", {"type": []}),
        ("image,label,type", {"label": ["type"]}),
    ],
)
def test_a_doubtful_column_of_classes_is_named(head, expected, tmp_path):
    rows = "".join(f"{number}.png,{'ab'[number % 2]},{'xy'[number // 4]}\n" for number in range(8))
    assert notes(tmp_path / "a.csv", f"{head}\n{rows}").class_columns == expected
