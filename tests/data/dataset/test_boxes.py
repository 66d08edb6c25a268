"""Boxes are validated, converted between grids and cut into slices."""

import numpy as np
import pytest
from tiny import affine_of, row

from medmim.data.dataset.boxes import (
    boxes_in_slice,
    boxes_to_2d,
    boxes_to_3d,
    check_boxes,
    map_boxes,
    stored_boxes,
)
from medmim.data.dataset.manifest import BoxRecord
from medmim.errors import DataError


def boxed(*boxes, shape=(20, 16, 16)):
    found = tuple(BoxRecord.model_validate({"class": "lesion", "box": box}) for box in boxes)
    return row(shape=shape).model_copy(update={"boxes": found})


def test_valid_boxes_are_unchanged():
    rows = (boxed((1, 2, 3, 4, 5, 6)), boxed((0, 0, 20, 16), shape=(20, 16, 1)), boxed())
    assert check_boxes(rows, clip=False) == (rows, [])


@pytest.mark.parametrize(
    ("box", "fault"),
    [
        ((1, 2, 3, 4), "expected 6 numbers, got 4"),
        ((1, 2, 3, float("nan"), 5, 6), "not finite"),
        ((4, 2, 3, 1, 5, 6), "inverted"),
        ((1, 2, 3, 1, 5, 6), "empty"),
        ((1, 2, 3, 4, 5, 17), "outside its image"),
        ((-2, 2, 3, 4, 5, 6), "outside its image"),
    ],
)
def test_invalid_boxes_are_listed(box, fault):
    wrong = boxed((1, 2, 3, 4, 5, 6), box)
    with pytest.raises(DataError, match=f"volume {wrong.id}, box 1: {fault}") as caught:
        check_boxes((wrong,), clip=False)
    assert caught.value.reason == "bad_boxes"
    assert "bad_boxes=clip" in str(caught.value)


def test_only_the_first_invalid_boxes_are_listed():
    with pytest.raises(DataError, match=r"^5 invalid boxes: .* and 2 more; correct"):
        check_boxes((boxed(*[(1, 1, 1, 1, 2, 2)] * 5),), clip=False)


@pytest.mark.parametrize(
    ("box", "left"),
    [
        ((-2, 2, 3, 4, 5, 60), [(0, 2, 3, 4, 5, 16)]),
        ((30, 2, 3, 40, 5, 6), []),
        ((4, 2, 3, 1, 5, 6), []),
        ((1, 2, 3, float("inf"), 5, 6), []),
        ((1, 2), []),
    ],
)
def test_boxes_are_clipped_on_request(box, left):
    (after,), said = check_boxes((boxed(box),), clip=True)
    assert [one.box for one in after.boxes] == left
    assert len(said) == 1


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "SLA", "PIR"])
def test_a_mapped_box_contains_the_same_voxels(orientation):
    """Against the centres of its voxels, moved one by one."""
    spacing, shape = (1.0, 1.2, 1.5), (20, 16, 12)
    source, target = affine_of(orientation, spacing, shape), affine_of("RAS", (0.5, 0.6, 3.0), (40, 40, 9))
    box = np.array([[3.0, 4.0, 5.0, 7.0, 6.0, 11.0]])
    voxels = np.stack(np.meshgrid(np.arange(3, 7), np.arange(4, 6), np.arange(5, 11)), axis=-1).reshape(-1, 3)
    world = voxels @ source[:3, :3].T + source[:3, 3]
    there = (world - target[:3, 3]) @ np.linalg.inv(target[:3, :3]).T
    steps = np.abs(np.linalg.inv(target[:3, :3]) @ source[:3, :3]).sum(axis=1)
    expected = [*(there.min(axis=0) + 0.5 - steps / 2), *(there.max(axis=0) + 0.5 + steps / 2)]
    assert map_boxes(box, source, target)[0] == pytest.approx(expected)
    assert map_boxes(map_boxes(box, source, target), target, source) == pytest.approx(box)


def test_boxes_of_pictures_are_one_slice_thick():
    assert stored_boxes(boxed((1, 2, 4, 5), shape=(20, 16, 1))).tolist() == [[1, 2, 0, 4, 5, 1]]
    assert stored_boxes(boxed()).shape == (0, 6)


def test_slices_contain_the_boxes_across_their_centre():
    boxes = np.array([[0.0, 0, 2, 4, 4, 5], [0, 0, 4.6, 4, 4, 9]])
    assert [boxes_in_slice(boxes, 2, index).tolist() for index in (1, 2, 4, 5)] == [
        [False, False],
        [True, False],
        [True, False],
        [False, True],
    ]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_2d_boxes_convert_back_to_3d(axis):
    boxes = np.array([[1.0, 2, 3, 4, 5, 6]])
    boxes[:, [axis, axis + 3]] = [7, 8]
    assert boxes_to_3d(boxes_to_2d(boxes, axis), axis, 7).tolist() == boxes.tolist()


def test_thin_boxes_belong_to_exactly_one_slice():
    boxes = np.array([[0.0, 0, 4.6, 4, 4, 5.4], [0, 0, 4.1, 4, 4, 4.4], [0, 0, 4.5, 4, 4, 5.5]])
    cut = np.array([boxes_in_slice(boxes, 2, index) for index in range(9)])
    assert cut.sum(axis=0).tolist() == [1, 1, 1]
    assert cut.argmax(axis=0).tolist() == [5, 4, 4]
