"""Tests of `medmim/training/tasks/registry.py`."""

import numpy as np
import pytest
import tiny
import torch
from task_scene import network_for, scene_for

from medmim.config.runs import FinetuneSettings
from medmim.data.dataset.manifest import Dataset, DatasetInfo
from medmim.data.loading.fingerprint import fingerprint_of
from medmim.data.loading.preprocessing_plan import plan_of_model
from medmim.encoders import build_encoder
from medmim.errors import DataError, UsageError
from medmim.heads import HEADS, build_head
from medmim.training.evaluation.resampled_metrics import MEASURES
from medmim.training.tasks.registry import TASKS, build_task, prepare_task
from medmim.training.tasks.segmentation import Segmentation

every_task = pytest.mark.parametrize("name", sorted(TASKS))


def test_every_task_has_a_network_and_its_metric_can_be_compared():
    assert TASKS.keys() == HEADS.keys()
    assert {build_task(name).metric for name in TASKS} <= MEASURES.keys()


@pytest.mark.parametrize("dims", [2, 3])
@every_task
def test_every_task_trains_evaluates_and_draws_figures(name, dims, varied_dataset):
    task = build_task(name)
    volumes, scene = scene_for(task, varied_dataset, dims)
    network = network_for(name, task, volumes, scene)
    lesson = task.training_samples(volumes, scene, foreground=0.5)
    prepared = scene.volumes(volumes[0])
    sample = {"image": prepared.image, "slice_axis": prepared.slice_axis}
    sample |= {"label": prepared.label, "places": prepared.places} if lesson.labelled else {}
    sample |= lesson.targets(volumes[0], prepared) if lesson.targets else {}
    patch = lesson.transform(sample)
    kept = sample.keys() - {"slice_axis", "places"}
    batch = {key: torch.stack([torch.as_tensor(patch[key])] * 2) for key in kept}
    loss = task.loss(network, batch)
    loss.backward()
    assert torch.isfinite(loss)
    rows = task.evaluate(network, volumes[:2], scene, final=True)
    assert {row["metric"] for row in rows} == {task.metric}
    assert {row["case"] for row in rows} == {volume.id for volume in volumes[:2]}
    assert task.aggregate([], scene) == {}
    assert all(isinstance(value, float) for value in task.aggregate(rows, scene).values())
    assert task.figure(network, volumes[:2], scene, title="two").startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("segmnt", {}, "did you mean 'segment'"),
        ("segment", {"mirorr": True}, "did you mean 'mirror'"),
        ("segment", {"criterion": "l2"}, "expected criterion dice_ce or dice_focal, got 'l2'"),
        ("segment", {"deep_supervision": -1}, "expected deep_supervision"),
        ("classify", {"mixup": -1.0}, "expected balance"),
        ("classify", {"balance": 2.0}, "expected balance"),
        ("multilabel", {"exclusive": True}, "expected the task classify"),
        ("ordinal", {"exclusive": True}, "expected the task classify, got ordinal classification"),
        ("ordinal", {"order": ["a", "b", "a"]}, "every grade of order once"),
        ("detect", {"width": 12}, "a multiple of 8"),
        ("detect", {"bad_boxes": "drop"}, "expected bad_boxes refuse or clip"),
    ],
)
def test_invalid_options_are_rejected(name, options, message):
    with pytest.raises(UsageError, match=message):
        build_task(name, **options)


@pytest.mark.parametrize("criterion", ["dice_ce", "dice_focal"])
def test_deep_supervision_reaches_coarse_scores(criterion):
    task = Segmentation(criterion=criterion, deep_supervision=2)
    encoder = build_encoder("dynunet", spatial_dims=2, in_channels=1, filters=[4, 8, 8])
    network = build_head("segment", encoder=encoder, spatial_dims=2, classes=3, deep_supervision=2)
    batch = {"image": torch.randn(2, 1, 16, 16), "label": torch.randint(0, 3, (2, 1, 16, 16))}
    task.loss(network, batch).backward()
    assert len(network.deep) == 2
    assert all(head.weight.grad.abs().sum() > 0 for head in network.deep)


def test_more_classes_than_a_byte_can_number_are_rejected(tmp_path):
    image, label = np.zeros((8, 8, 8), np.float32), np.arange(512, dtype=np.uint16).reshape(8, 8, 8)
    row = tiny.write_volume(tmp_path, "p", image, np.eye(4), label=label)
    dataset = Dataset(tmp_path, DatasetInfo(name="d"), (row,))
    found = fingerprint_of(tmp_path, [row], home=None)
    with pytest.raises(DataError, match="labels have 511 classes, expected at most 254"):
        Segmentation().names(dataset, [row], found)


def two_balls(root, number):
    """Write two mirrored cubes with codes 17 and 53, and a region without a label with code 255."""
    label = np.zeros((20, 16, 16), np.uint16)
    label[3:6, 4 + number : 7 + number, 4:7] = 17
    label[14:17, 4 + number : 7 + number, 4:7] = 53
    label[:, :, 14:] = 255
    image = np.random.default_rng(number).normal(0, 1, label.shape).astype(np.float32)
    return tiny.write_volume(root, f"p{number}", image, np.eye(4), label=label)


def prepared(root, **settings):
    rows = [two_balls(root, number) for number in range(3)]
    dataset = Dataset(root, DatasetInfo(name="d", label_names={17: "a", 53: "b"}), tuple(rows))
    lines = []
    plan, names = prepare_task(
        Segmentation(),
        FinetuneSettings(data=root, size=(16,), **settings),
        dataset,
        rows,
        dims=3,
        multiple=(4, 4, 4),
        home=None,
        log=lines.append,
    )
    return plan, names, lines


def test_the_plan_has_codes_ignored_value_and_mirroring(tmp_path):
    plan, names, lines = prepared(tmp_path, ignore_label=255)
    assert names == {1: "a", 2: "b"}
    assert (plan.label_codes, plan.ignore_label) == ((17, 53), 255)
    assert plan.mirror_axes == ()
    assert any("classes 17 and 53 are a left–right pair by position and size" in line for line in lines)


def test_a_class_that_counts_as_not_annotated_is_named(tmp_path):
    plan, names, lines = prepared(tmp_path, ignore_label=53)
    assert (names, plan.ignore_label) == ({1: "a", 2: "label_255"}, 53)
    # before all that may fail, such as labels without any other class
    assert lines[0].startswith("warning: ignore_label=53 is the class 'b' of the dataset")
    assert not any("ignore_label" in line for line in prepared(tmp_path, ignore_label=255)[2])


def test_merged_classes_are_trained_as_one_and_other_values_are_named(tmp_path):
    rows = [two_balls(tmp_path, number) for number in range(3)]
    dataset = Dataset(tmp_path, DatasetInfo(name="d", label_names={17: "a", 53: "b"}), tuple(rows))
    settings = FinetuneSettings(data=tmp_path, size=(16,), labels={"both": [53, 17]})
    task, lines = Segmentation(**settings.options_of_task), []
    options = {"dims": 3, "multiple": (4, 4, 4), "home": None, "log": lines.append}
    plan, names = prepare_task(task, settings, dataset, rows, **options)
    assert names == {1: "both"}
    assert (plan.label_codes, plan.label_classes) == ((53,), ((53, 1), (17, 1)))
    assert "warning: label values 255 are background: `labels` leaves them out" in lines
    assert plan_of_model({**plan.as_json(), "spatial_dims": 3}) == plan
    with pytest.raises(UsageError, match="no label has the value 9; expected 17, 53, 255"):
        prepare_task(Segmentation(labels={"both": [9]}), settings, dataset, rows, **options)


def test_the_user_may_choose_axes_and_normalisation(tmp_path):
    plan, _, _ = prepared(tmp_path, mirror_axes=("left-right",), normalisation="volume")
    assert plan.mirror_axes == (0,)
    assert plan.normalisation.rule_for("MR").method == "volume"
    assert plan.label_codes == (17, 53, 255)
