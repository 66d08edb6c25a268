"""Detection: anchors, true and predicted boxes, and images without boxes."""

import numpy as np
import pytest
import tiny
import torch
from task_scene import network_for, scene_for
from torch import nn

from medmim.data.dataset.manifest import read_dataset
from medmim.data.loading.preprocess import VolumeLoader
from medmim.data.loading.preprocessing_plan import plan_for
from medmim.encoders import build_encoder
from medmim.heads import build_head
from medmim.training.tasks.detection import Detection
from medmim.training.tasks.detection_inference import detect


@pytest.mark.parametrize("dims", [2, 3])
def test_the_fraction_of_boxes_matched_to_anchors_is_reported(tiny_dataset, dims):
    task, lines = Detection(), []
    volumes, scene = scene_for(task, tiny_dataset, dims)
    network_for("detect", task, volumes, scene, lines)
    assert len(lines) == 1
    assert lines[0].endswith("training boxes are matched to an anchor")


@pytest.mark.parametrize("dims", [2, 3])
def test_true_boxes_are_returned_in_the_grid_of_the_file(varied_dataset, dims):
    task = Detection()
    volumes, scene = scene_for(task, varied_dataset, dims)
    network = network_for("detect", task, volumes, scene)
    for case in volumes[:4]:
        rows = task.evaluate(network, [case], scene, final=True)
        expected = {(one.name, *one.box) for one in case.boxes}
        if dims == 3:
            assert {tuple(box) for row in rows for box in row["truth"]} == expected
            continue
        axis = max(range(3), key=lambda a: case.spacing_mm[a])
        for name in {one.name for one in case.boxes}:
            whole = next(one.box for one in case.boxes if one.name == name)
            slices = [box[1:] for row in rows for box in row["truth"] if box[0] == name]
            assert len(slices) == round(whole[axis + 3] - whole[axis]) or axis != 2


def test_predicted_boxes_lie_in_the_image(tiny_dataset):
    task = Detection()
    for dims in (2, 3):
        volumes, scene = scene_for(task, tiny_dataset, dims)
        network = network_for("detect", task, volumes, scene)
        nn.init.constant_(network.score.cls_logits.bias, 0.0)  # so that boxes are predicted
        prepared = scene.volumes(volumes[0])
        found = detect(network, prepared, scene.plan, precision="fp32")
        assert len(found) == (prepared.image.shape[prepared.slice_axis + 1] if dims == 2 else 1)
        assert sum(len(one.boxes) for one in found)
        for one in found:
            assert (one.boxes[:, 3:] > one.boxes[:, :3]).all()
            assert (one.scores[:-1] >= one.scores[1:]).all()


def test_negatives_are_images_with_a_label_and_no_box(tiny_dataset):
    volume = read_dataset(tiny_dataset).volumes[0]
    bare = volume.model_copy(update={"boxes": ()})
    unknown = bare.model_copy(update={"label": None})
    assert [Detection().usable(one) for one in (volume, bare, unknown)] == [True, True, False]
    assert Detection(negatives="all").usable(unknown)


@pytest.mark.parametrize("dims", [2, 3])
def test_predicted_boxes_lie_in_their_padded_image(dims, tmp_path):
    image, _ = tiny.blob(np.random.default_rng(0), (12, 14, 10))
    row = tiny.write_volume(tmp_path, "p", image, np.eye(4))
    plan = plan_for([row], dims=dims, size=(32,), multiple=(4,) * dims)  # mostly padding
    encoder = build_encoder("dynunet", spatial_dims=dims, in_channels=1, filters=[4, 8, 8])
    anchors = [[[4.0] * dims], [[12.0] * dims]]
    torch.manual_seed(0)
    network = build_head("detect", encoder=encoder, spatial_dims=dims, classes=2, anchors=anchors)
    network.score.cls_logits.bias.data.zero_()  # high enough scores to be reported
    prepared = VolumeLoader(tmp_path, plan, cache_gb=1.0)(row)
    found = np.concatenate([one.boxes for one in detect(network, prepared, plan, precision="fp32")])
    assert len(found)
    assert (found[:, :3] >= 0).all()
    assert (found[:, 3:] <= np.array(prepared.image.shape[1:])).all()
    assert (found[:, 3:] > found[:, :3]).all()
