"""Tests of `medmim/training/evaluation/figures.py`."""

import io

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from medmim.training.evaluation.figures import (
    FigureRow,
    Rectangle,
    boxed_row,
    classification_figure,
    panel,
    reconstruction_rows,
    segmentation_row,
    upright,
)


def opened(png):
    with Image.open(io.BytesIO(png)) as picture:
        picture.load()
        assert picture.format == "PNG"
        return picture.size, picture.info


@pytest.mark.parametrize("space", [(16, 12), (16, 12, 8)])
def test_reconstructions_are_drawn(space):
    images = torch.rand(3, 1, *space)
    hidden = torch.rand(3, 1, *space) > 0.5
    rows = reconstruction_rows(images, hidden, images * 2)
    assert [len(row.images) for row in rows] == [3, 3, 3]
    assert rows[0].images[0].shape == (12, 16)
    size, info = opened(panel(rows, ["a", "b", "c"], title="t"))
    assert min(size) > 200
    assert "Software" not in info


def test_hidden_voxels_are_blank_in_the_masked_input():
    images, hidden = torch.rand(1, 1, 4, 6), torch.zeros(1, 1, 4, 6, dtype=torch.bool)
    hidden[0, 0, 1, 2] = True
    seen = reconstruction_rows(images, hidden, images)[0].images[1]
    assert np.isnan(seen).sum() == 1
    assert not torch.isnan(images).any()


def test_without_a_reconstruction_two_columns_are_drawn():
    images, hidden = torch.rand(2, 1, 4, 6), torch.zeros(2, 1, 4, 6, dtype=torch.bool)
    rows = reconstruction_rows(images, hidden, None)
    assert [len(row.images) for row in rows] == [2, 2]
    opened(panel(rows, ["a", "b"], title="t"))


def test_segmentations_are_drawn_in_the_slice_with_the_largest_label():
    image = torch.rand(8, 9, 10)
    label = torch.zeros(8, 9, 10, dtype=torch.long)
    label[2:4, 3:5, 7] = 1
    row = segmentation_row(image, label, label, axis=2)
    assert np.array_equal(row.images[0], upright(image, axis=2, index=7))
    assert row.labels[0] is None
    assert row.labels[1].sum() == 4
    opened(panel([row], ["a", "b", "c"], title="t", names=["core"]))


def test_an_empty_label_can_be_drawn():
    empty = torch.zeros(8, 9, 10, dtype=torch.long)
    row = segmentation_row(torch.zeros(8, 9, 10), empty, empty, axis=0)
    opened(panel([row], ["a", "b", "c"], title="t", names=["core"]))


def test_anterior_is_up_and_the_patients_right_is_on_the_left():
    flat = torch.arange(6).reshape(3, 2)  # x, y
    assert upright(flat, axis=None).tolist() == [[5, 3, 1], [4, 2, 0]]


def test_a_2d_image_is_drawn_in_the_orientation_of_its_file(tmp_path):
    from medmim.data.formats.images import read_picture

    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    image, _ = read_picture(tmp_path / "p.png")
    turned = nib.orientations.io_orientation(image.affine)  # reoriented to RAS, as `prepare` does
    volume = torch.from_numpy(nib.orientations.apply_orientation(image.array, turned).copy())
    assert upright(volume, axis=2).tolist() == pixels.tolist()


def test_a_box_encloses_the_marked_object():
    image = torch.zeros(8, 10, 3)
    image[1:3, 5:9, 1] = 1
    row = boxed_row(image, axis=2, index=1, boxes=[(np.array([1, 5, 1, 3, 9, 2.0]), 0, "x")], text="")
    (box,) = row.boxes
    rows, columns = np.nonzero(row.images[0])
    assert (box.left, box.left + box.width) == (columns.min(), columns.max() + 1)
    assert (box.top, box.top + box.height) == (rows.min(), rows.max() + 1)


def test_captions_of_boxes_at_one_place_do_not_cover_each_other():
    def drawn(*captions):
        boxes = [Rectangle(20.0, 0.0, 50.0, 60.0, 1, text) for text in captions]
        row = FigureRow([np.zeros((100, 100))], [None], boxes=boxes)
        return np.asarray(Image.open(io.BytesIO(panel([row], [""], title="t"))), float)

    one, two = (
        np.abs(drawn(*captions) - drawn("")).sum() for captions in (["lesion 0.5"], ["lesion 0.5"] * 2)
    )
    assert two > 1.8 * one > 0


@pytest.mark.parametrize(("axis", "shape"), [(0, (4, 3)), (1, (4, 2)), (2, (3, 2)), (None, (3, 2))])
def test_volumes_are_drawn_at_their_middle_slice(axis, shape):
    assert upright(torch.zeros(2, 3, 4), axis=axis).shape == shape


def test_rows_of_different_shapes_share_a_panel():
    rows = [
        FigureRow([np.zeros((4, 9))] * 2, [None, np.ones((4, 9), int)]),
        FigureRow([np.ones((9, 4))] * 2, [None, None]),
    ]
    opened(panel(rows, ["a", "b"], title="t", names=["one", "two"]))


def test_text_is_drawn_literally():
    rows = [FigureRow([np.zeros((4, 9))], [np.ones((4, 9), int)])]
    opened(panel(rows, ["$cost$ \\frac"], title="100 % of $\\x$", names=["a_$b$_\\frac{", "_hidden"]))


NAMES = ["calm", "odd", "$rare"]


def rows(names, truth):
    draws = np.random.default_rng(0).dirichlet(np.ones(len(names)), len(truth))
    return [
        {"class": name, "subject": str(number), "probabilities": dict(zip(names, shares, strict=True))}
        for number, (name, shares) in enumerate(zip(truth, draws, strict=True))
    ]


@pytest.mark.parametrize(
    ("names", "truth"),
    [
        (NAMES, NAMES * 12),
        (NAMES[:2], ["calm"] * 3 + ["odd"] * 9),
        (NAMES[:2], ["calm"] * 3),
        (NAMES, [*NAMES, "not trained on"]),
        ([f"c{n}" for n in range(12)], [f"c{n}" for n in range(12)] * 2),
    ],
    ids=["three", "two", "one in test", "unknown", "twelve"],
)
def test_the_three_plots_are_drawn(names, truth):
    png = classification_figure(rows(names, truth), names, title="test, macro-F1 0.500")
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.size == (1210, 484)
