import numpy as np
import pytest
import torch
from monai.data.box_utils import box_iou

from medmim.heads.anchors import AnchorGrid, anchor_shapes, coverage, match_anchors


@pytest.mark.parametrize("dims", [2, 3])
def test_anchor_shapes_match_the_boxes_and_are_sorted_by_size(dims):
    rng = np.random.default_rng(0)
    sides = np.concatenate([rng.normal(size, 0.5, size=(30, dims)) for size in (8, 16, 32, 64)])
    shapes = anchor_shapes(sides, levels=2, count=2)
    assert [np.mean(shape) for level in shapes for shape in level] == pytest.approx([8, 16, 32, 64], rel=0.05)


def test_anchor_shapes_are_deterministic():
    sides = np.random.default_rng(0).uniform(5, 50, size=(100, 2))
    assert anchor_shapes(sides, levels=3, count=3) == anchor_shapes(sides, levels=3, count=3)


def test_a_single_box_is_sufficient():
    shapes = anchor_shapes(np.array([[12.0, 7.0]]), levels=2, count=3)
    assert {shape for level in shapes for shape in level} == {(12.0, 7.0)}


@pytest.mark.parametrize("dims", [2, 3])
def test_anchors_are_centred_on_each_grid_position(dims):
    grid = AnchorGrid((((4.0,) * dims, (8.0,) * dims), ((16.0,) * dims, (24.0,) * dims)))
    maps = [torch.zeros(1, 1, *(4,) * dims), torch.zeros(1, 1, *(2,) * dims)]
    anchors = grid(torch.zeros(1, 1, *(16,) * dims), maps)
    assert anchors.shape == (2 * (4**dims + 2**dims), 2 * dims)
    middles = (anchors[:, :dims] + anchors[:, dims:]) / 2
    assert middles[0].tolist() == middles[1].tolist() == [2.0] * dims
    assert middles[-1].tolist() == [12.0] * dims
    assert (anchors[0, dims:] - anchors[0, :dims]).tolist() == [4.0] * dims


def test_each_box_is_matched_to_the_anchors_that_overlap_it_most():
    grid = AnchorGrid((((8.0, 8.0),), ((16.0, 16.0),)))
    maps = [torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 4, 4)]
    anchors = grid(torch.zeros(1, 1, 32, 32), maps)
    boxes = torch.tensor([[2.0, 2, 10, 10], [12, 12, 30, 30]])
    index = match_anchors(boxes, anchors, places=[64, 16], per_place=1)
    for number in range(2):
        overlaps = box_iou(boxes[number : number + 1], anchors)[0]
        assert index[overlaps.argmax()] == number
        assert overlaps[index == number].min() > 0.2


def test_no_anchor_is_matched_without_boxes():
    assert match_anchors(torch.zeros(0, 4), torch.rand(5, 4), places=[5], per_place=1).tolist() == [-1] * 5


def test_coverage_counts_boxes_without_a_matching_anchor():
    grid = AnchorGrid((((8.0, 8.0),),))
    near, lost = torch.tensor([[4.0, 4, 12, 12]]), torch.tensor([[4.0, 4, 12, 12], [4, 4, 12, 12]])
    share = {"size": (32, 32), "strides": ((4, 4),)}
    assert coverage([near, torch.zeros(0, 4)], grid, **share) == 1.0
    assert coverage([lost], grid, **share) == 0.5  # two boxes at one position: one of them has no anchor
