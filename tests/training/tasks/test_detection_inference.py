"""Detection with averages over mirrored images."""

import numpy as np
import pytest
import torch

from medmim.data.loading.preprocess import PreprocessedVolume
from medmim.data.loading.preprocessing_plan import PreprocessingPlan
from medmim.encoders import build_encoder
from medmim.heads import build_head
from medmim.training.tasks.detection_inference import best_of_each_name, detect


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    encoder = build_encoder("dynunet", spatial_dims=2, in_channels=1, filters=[4, 8, 8])
    anchors = [[[4.0, 6.0]], [[9.0, 7.0]]]
    detector = build_head("detect", encoder=encoder, spatial_dims=2, classes=2, anchors=anchors, width=8)
    torch.nn.init.normal_(detector.box.bbox_reg.weight, std=0.3)
    torch.nn.init.normal_(detector.score.cls_logits.weight, std=0.3)
    return detector


def found(network, image, *, mirror):
    plan = PreprocessingPlan(2, (16, 24), mirror_axes=(1,))
    prepared = PreprocessedVolume(image, None, np.eye(4), slice_axis=2)
    (boxes,) = detect(network, prepared, plan, precision="fp32", mirror=mirror)
    return boxes


@pytest.mark.parametrize("mirror", [True, False])
def test_boxes_of_a_mirrored_image_are_mirrored_where_the_average_includes_it(network, mirror):
    image = torch.randn(1, 16, 24, 1, generator=torch.Generator().manual_seed(1))
    plain, flipped = found(network, image, mirror=mirror), found(network, image.flip(2), mirror=mirror)
    back = flipped.boxes.copy()
    back[:, [1, 4]] = 24 - flipped.boxes[:, [4, 1]]
    assert len(plain.boxes) > 3
    same = np.shape(back) == np.shape(plain.boxes) and np.allclose(
        np.sort(back, axis=0), np.sort(plain.boxes, axis=0), atol=1e-3
    )
    assert same == mirror


def test_of_overlapping_boxes_of_one_name_the_best_remains():
    boxes = np.array([[0, 0, 0, 9, 9, 1], [0, 0, 0, 9, 8, 1], [20, 20, 0, 29, 29, 1]], dtype=np.float64)
    scores = np.array([0.8, 0.9, 0.7])
    assert best_of_each_name(boxes, scores, ["a", "b", "b"]) == [0, 1, 2]
    assert best_of_each_name(boxes, scores, ["lesion"] * 3) == [1, 2]
    assert best_of_each_name(boxes[:0], scores[:0], []) == []
