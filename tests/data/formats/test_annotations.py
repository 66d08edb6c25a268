"""Boxes and outlines are half-open, in voxels of the stored array, clipped and counted."""

import numpy as np
import pytest

from medmim.data.formats.annotations import Annotation, boxes_from_label, ellipse, place_annotations
from medmim.data.formats.nifti import Image

PICTURE = Image(np.zeros((10, 8, 1), np.uint8), np.diag([-1.0, -1.0, 1.0, 1.0]))


def test_voxel_and_relative_boxes_agree():
    marks = [
        Annotation(name="a", box=(2, 4, 5, 6)),
        Annotation(name="b", unit="share", box=(0.2, 0.5, 0.5, 0.75)),
    ]
    placed = place_annotations(marks, PICTURE, {})
    assert placed.boxes == (("a", (2, 4, 5, 6)), ("b", (2, 4, 5, 6)))
    assert placed.label is None


def test_an_outline_selects_the_voxels_whose_centres_it_contains():
    square = ((2.0, 4.0), (5.0, 4.0), (5.0, 6.0), (2.0, 6.0))
    placed = place_annotations([Annotation(name="a", outlines=(square,))], PICTURE, {"a": 3})
    assert placed.boxes == (("a", (2, 4, 5, 6)),)
    assert set(map(tuple, np.argwhere(placed.label.array[..., 0] == 3))) == {
        (x, y) for x in (2, 3, 4) for y in (4, 5)
    }


def test_boxes_are_clipped_to_the_image_and_dropped_outside_it():
    marks = [
        Annotation(name="a", box=(-3, 4, 5, 99)),
        Annotation(name="b", box=(20, 20, 30, 30)),
        Annotation(name="c", box=(1, 1, 1, 2)),
    ]
    placed = place_annotations([*marks, Annotation(name="d", box=(float("nan"), 0, 1, 1))], PICTURE, {})
    assert placed.boxes == (("a", (0, 4, 5, 8)),)
    assert placed.measured == {"boxes": 1, "boxes_clipped": 1, "boxes_outside": 3}


def test_an_image_with_a_finding_without_outline_gets_no_label():
    outline = ((1.0, 1.0), (3.0, 1.0), (3.0, 3.0))
    marks = [Annotation(name="a", outlines=(outline,)), Annotation(name="a", box=(5, 5, 7, 7))]
    assert place_annotations(marks, PICTURE, {"a": 1}).label is None


def test_the_extent_of_an_ellipse_matches_its_radii():
    points = np.array(ellipse([4.0, 5.0], [3.0, 1.0]))
    assert np.allclose([points.min(axis=0), points.max(axis=0)], [[1, 4], [7, 6]])
    turned = np.array(ellipse([4.0, 5.0], [3.0, 1.0], np.pi / 2))
    assert np.allclose([turned.min(axis=0), turned.max(axis=0)], [[3, 2], [5, 8]], atol=1e-9)


@pytest.mark.parametrize("flip", [1.0, -1.0])
def test_a_box_in_mm_is_converted_for_any_axis_order(flip):
    affine = np.array([[0, 0, -2.0, 50], [flip * 0.5, 0, 0, -7], [0, 1.0, 0, 3], [0, 0, 0, 1]])
    image = Image(np.zeros((20, 10, 8), np.int16), affine)
    centre = affine @ [12, 4, 5, 1]
    x, y, z = centre[:3] * [-1, -1, 1]  # LPS
    placed = place_annotations(
        [Annotation(name="n", unit="mm", box=(x - 1, y - 1, z - 1, x + 1, y + 1, z + 1))], image, {}
    )
    # 2 mm across: 4 voxels of 0.5 mm, 2 of 1 mm, 1 of 2 mm, around the centre of voxel (12, 4, 5)
    assert placed.boxes == (("n", (10.5, 3.5, 5.0, 14.5, 5.5, 6.0)),)


def test_every_component_of_a_label_except_specks_gets_a_box():
    array = np.zeros((10, 9, 8), np.uint8)
    array[1:3, 2:4, 3:5] = 1
    array[5:9, 5:7, 0:4] = 1
    array[0, 0, 0] = 1
    array[6:8, 0:3, 6:8] = 2
    boxes = boxes_from_label(Image(array, np.eye(4)), {1: "a", 2: "b"})
    assert boxes == [("a", (1, 2, 3, 3, 4, 5)), ("a", (5, 5, 0, 9, 7, 4)), ("b", (6, 0, 6, 8, 3, 8))]


@pytest.mark.parametrize("order", [("core", "whole"), ("whole", "core")])
def test_a_smaller_outline_stays_visible_inside_a_larger_one(order):
    places = {"core": (3, 3, 5, 5), "whole": (1, 1, 7, 7)}
    marks = [
        Annotation(name=name, outlines=(((x, y), (right, y), (right, low), (x, low)),))
        for name in order
        for x, y, right, low in [places[name]]
    ]
    placed = place_annotations(marks, PICTURE, {"core": 1, "whole": 2})
    assert np.bincount(placed.label.array.ravel()).tolist() == [44, 4, 32]
    assert placed.measured["outlines_overlap_voxels"] == 4
