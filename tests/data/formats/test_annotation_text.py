"""YOLO labels, class names and splits, and Pascal VOC files are read."""

import numpy as np
import pytest
from annotation_maker import notes

from medmim.data.formats.annotation_text import read_yolo_yaml
from medmim.data.formats.annotations import AnnotationFile


def test_yolo(tmp_path):
    found = notes(tmp_path / "a.txt", "0 0.5 0.5 0.2 0.4\n1 0.1 0.1 0.5 0.1 0.5 0.6\n")
    (image,) = found.images
    assert (found.kind, image.image) == ("yolo", "a")
    assert np.allclose(image.marks[0].box, (0.4, 0.3, 0.6, 0.7))
    assert image.marks[1].outlines == (((0.1, 0.1), (0.5, 0.1), (0.5, 0.6)),)
    assert notes(tmp_path / "b.txt", "").images[0].marks == []
    assert notes(tmp_path / "data.yaml", "names: {0: cyst, 2: mass}").classes == ["cyst", "class 1", "mass"]
    assert notes(tmp_path / "classes.txt", "cyst\nmass\n").classes == ["cyst", "mass"]


def test_yaml_that_expands_or_nests_too_deeply_is_no_annotation(tmp_path):
    lines = [f"k{number + 1}: &k{number + 1} [*k{number}, *k{number}]" for number in range(30)]
    bomb = "\n".join(["k0: &k0 [x, x]", *lines, "names: [x]", "train: *k30"])
    for text in (bomb, "names: " + "[" * 5000):
        with pytest.raises(ValueError, match="not YAML"):
            read_yolo_yaml(text, tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        "0 5.0E-1 0.5 0.2 4.0e-01",
        "0 0,5 0,5 0,2 0,4",
        "0.0 .5 0.5 0.2 0.4 ",
        "0 0.5 0.5 0.2 0.4 0.93",
        "\ufeff0 0.5 0.5 0.2 0.4\r",
    ],
)
def test_yolo_numbers_as_tools_write_them(tmp_path, line):
    (image,) = notes(tmp_path / "a.txt", (line + "\n").encode()).images
    assert image.marks[0].name == "0"
    assert np.allclose(image.marks[0].box, (0.4, 0.3, 0.6, 0.7))


def test_malformed_yolo_lines_cost_only_themselves(tmp_path):
    text = "0 0.5 0.5 0.2 0.2\n1 0.5 0.5\n1 0.5 0.5 0 0.2\n0.5 0.5 0.5 0.5 0.5\n1 2 3 4 5 6 7 8\n"
    found = notes(tmp_path / "a.txt", text)
    assert len(found.images[0].marks) == 1
    assert found.faults == {"malformed": 3, "empty": 1}
    assert notes(tmp_path / "b.txt", "1 2\n3 4\n") == AnnotationFile(tried="yolo", faults={"malformed": 2})


def test_the_splits_of_data_yaml(tmp_path):
    text = "path: ../data\ntrain: images/train\nval: [images/val, more/val]\ntest:\nnames: [mass, cyst]\n"
    found = notes(tmp_path / "data.yaml", text)
    assert found.classes == ["mass", "cyst"]
    assert found.splits == {
        "train": ["../data/images/train"],
        "val": ["../data/images/val", "../data/more/val"],
    }


def voc(*objects, name="<filename>a.jpg</filename>"):
    entries = "".join(
        f"<object><name>{kind}</name><bndbox>"
        + "".join(
            f"<{key}>{value}</{key}>"
            for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        + "</bndbox></object>"
        for kind, box in objects
    )
    return f"<annotation>{name}<size><width>64</width></size>{entries}</annotation>"


def test_pascal_voc(tmp_path):
    found = notes(
        tmp_path / "b.xml", voc(("Mass", (1, 2, 11, 22)), ("Mass", (1, 2, 1, 3)), ("Cyst", ("", 1, 2, 3)))
    )
    (image,) = found.images
    assert (found.kind, image.image, found.faults) == ("voc", "a.jpg", {"empty": 1, "malformed": 1})
    assert [(mark.name, mark.box) for mark in image.marks] == [("Mass", (1, 2, 11, 22))]
    assert notes(tmp_path / "b.xml", voc(name="")).images[0].image == "b"


@pytest.mark.parametrize(
    "text", ["<a/>", "no xml", '<!DOCTYPE x [<!ENTITY a "b">]><annotation>&a;</annotation>']
)
def test_other_xml_is_not_an_annotation(tmp_path, text):
    assert notes(tmp_path / "a.xml", text) == AnnotationFile()


def test_lists_of_images_give_the_split_of_their_name(tmp_path):
    found = notes(tmp_path / "val.txt", "./images/a.jpg\n/data/b.png\n")
    assert (found.kind, [(one.image, one.split) for one in found.images]) == (
        "list",
        [("./images/a.jpg", "val"), ("/data/b.png", "val")],
    )
    assert [one.image for one in notes(tmp_path / "train.txt", "p1\np2\n").images] == ["p1", "p2"]
    assert notes(tmp_path / "readme.txt", "licence\n").kind == ""


def test_cvat(tmp_path):
    shapes = (
        '<box label="Mass" xtl="1" ytl="2" xbr="20.5" ybr="30"/>'
        '<box label="Mass" xtl="x" ytl="2" xbr="3" ybr="4"/>'
        '<polygon label="Cyst" points="1,1;20,1;20,20"/><ellipse label="Cyst"/><tag label="Abnormal"/>'
    )
    image = f'<image name="sub/a.png" subset="Train" width="48" height="40">{shapes}</image>'
    found = notes(tmp_path / "annotations.xml", f"<annotations>{image}<image name='b.png'/></annotations>")
    first, second = found.images
    assert (found.kind, found.faults) == ("cvat", {"malformed": 1, "unsupported": 1})
    assert (first.image, first.split, first.target) == ("sub/a.png", "train", "Abnormal")
    assert [(one.name, one.box, len(one.outlines)) for one in first.marks] == [
        ("Mass", (1.0, 2.0, 20.5, 30.0), 0),
        ("Cyst", (), 1),
    ]
    assert not second.marks
    assert notes(tmp_path / "other.xml", "<Annotations><Annotation/></Annotations>").tried == "xml"
    assert not notes(tmp_path / "other.xml", "<settings/>").tried


def test_key_points_of_yolo_are_no_outline(tmp_path):
    found = notes(tmp_path / "a.txt", "0 0.5 0.5 0.2 0.4 0.45 0.5 2 0.55 0.5 2\n1 0.5 0.5 0.2 0.4\n")
    assert [mark.name for mark in found.images[0].marks] == ["1"]
    assert found.faults == {"beyond_picture": 1}
