"""Tests of `medmim/training/evaluation/panels.py`."""

import io

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from medmim.training.evaluation.panels import (
    FigureRow,
    Rectangle,
    boxed_row,
    panel,
    radiological_slice,
    reconstruction_rows,
    segmentation_row,
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
    assert np.array_equal(row.images[0], radiological_slice(image, axis=2, index=7))
    assert row.labels[0] is None
    assert row.labels[1].sum() == 4
    opened(panel([row], ["a", "b", "c"], title="t", names=["core"]))


def test_an_empty_label_can_be_drawn():
    empty = torch.zeros(8, 9, 10, dtype=torch.long)
    row = segmentation_row(torch.zeros(8, 9, 10), empty, empty, axis=0)
    opened(panel([row], ["a", "b", "c"], title="t", names=["core"]))


def test_anterior_is_up_and_the_patients_right_is_on_the_left():
    flat = torch.arange(6).reshape(3, 2)  # x, y
    assert radiological_slice(flat, axis=None).tolist() == [[5, 3, 1], [4, 2, 0]]


def test_a_2d_image_is_drawn_in_the_orientation_of_its_file(tmp_path):
    from medmim.data.formats.images import read_picture

    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    image, _ = read_picture(tmp_path / "p.png")
    turned = nib.orientations.io_orientation(image.affine)  # reoriented to RAS, as `prepare` does
    volume = torch.from_numpy(nib.orientations.apply_orientation(image.array, turned).copy())
    assert radiological_slice(volume, axis=2).tolist() == pixels.tolist()


def test_a_box_encloses_the_marked_object():
    image = torch.zeros(8, 10, 3)
    image[1:3, 5:9, 1] = 1
    row = boxed_row(image, axis=2, index=1, boxes=[(np.array([1, 5, 1, 3, 9, 2.0]), 0, "x")])
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
    assert radiological_slice(torch.zeros(2, 3, 4), axis=axis).shape == shape


def test_rows_of_different_shapes_share_a_panel():
    rows = [
        FigureRow([np.zeros((4, 9))] * 2, [None, np.ones((4, 9), int)]),
        FigureRow([np.ones((9, 4))] * 2, [None, None]),
    ]
    opened(panel(rows, ["a", "b"], title="t", names=["one", "two"]))


def test_text_is_drawn_literally():
    rows = [FigureRow([np.zeros((4, 9))], [np.ones((4, 9), int)])]
    opened(panel(rows, ["$cost$ \\frac"], title="100 % of $\\x$", names=["a_$b$_\\frac{", "_hidden"]))


def pixels(rows, columns=("",), title="", names=()):
    with Image.open(io.BytesIO(panel(rows, columns, title=title, names=names))) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_intensities_hidden_pixels_and_labels_have_their_colours():
    image = np.array([[0.0, 1.0], [0.5, np.nan], [0.0, 0.0], [1.0, 1.0]])
    label = np.array([[0, 0], [0, 0], [1, 2], [0, 9]])  # more classes than colours: the last colour
    drawn = pixels([FigureRow([image], [label])])
    cell = drawn[len(drawn) - 232 * 2 - 12 :]  # 232 pixels wide, 464 high, with gaps and no legend
    found = [[tuple(cell[116 * y + 62, 116 * x + 62]) for x in range(2)] for y in range(4)]
    assert found == [
        [(0, 0, 0), (255, 255, 255)],
        [(128, 128, 128), (59, 91, 140)],
        [(125, 48, 25), (13, 105, 103)],
        [(255, 255, 255), (248, 187, 186)],
    ]


def test_a_box_is_drawn_around_its_pixels():
    row = FigureRow([np.zeros((10, 10))], [None], boxes=[Rectangle(2.0, 3.0, 4.0, 5.0, 0)])
    drawn = pixels([row])
    lines = np.argwhere((drawn == (228, 87, 46)).all(axis=-1))
    (top, left), (bottom, right) = lines.min(axis=0), lines.max(axis=0) + 1
    height = len(drawn) - 432 - 12  # 43.2 screen pixels for a pixel of the image
    assert np.allclose([left - 4, right - 4], [86.4, 259.2], atol=1.5)
    assert np.allclose([top - height, bottom - height], [129.6, 345.6], atol=1.5)


def test_long_titles_are_shrunk_and_not_cut():
    row = FigureRow([np.zeros((4, 4))], [None])
    drawn = pixels([row], title="title " * 20)[:30]
    assert (drawn[:, :4] == 255).all()
    assert (drawn[:, -4:] == 255).all()
    assert (drawn < 255).any()


def test_a_legend_takes_as_many_lines_as_it_needs():
    row = FigureRow([np.zeros((4, 4))], [None])
    heights = [len(pixels([row], names=[f"class {n}" for n in range(count)])) for count in (1, 3, 7)]
    assert heights[0] < heights[1] < heights[2]
