"""Tests of `medmim/training/tasks/registry.py`."""

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from medmim.config.runs import FinetuneSettings
from medmim.data.dataset.manifest import Dataset, DatasetInfo, read_dataset
from medmim.data.loading.fingerprint import fingerprint_of
from medmim.data.loading.preprocess import VolumeLoader
from medmim.data.loading.preprocessing_plan import plan_for, plan_of_model
from medmim.encoders import build_encoder
from medmim.errors import DataError, UsageError
from medmim.heads import HEADS, build_head
from medmim.training.evaluation.resampled_metrics import MEASURES
from medmim.training.tasks.base import EvaluationContext
from medmim.training.tasks.classification import Classification, classify
from medmim.training.tasks.detection import Detection
from medmim.training.tasks.detection_inference import detect
from medmim.training.tasks.registry import TASKS, build_task, prepare_task
from medmim.training.tasks.segmentation import Segmentation

every_task = pytest.mark.parametrize("name", sorted(TASKS))


def scene_for(task, root, dims):
    dataset = read_dataset(root)
    settings, rows = FinetuneSettings(data=root, size=(16,)), dataset.volumes
    if task.axis == "regression":
        rows = tuple(row.model_copy(update={"target": f"{n}.5"}) for n, row in enumerate(rows))
    if task.metric == "quadratic_kappa":
        rows = tuple(row.model_copy(update={"target": str(n % 3)}) for n, row in enumerate(rows))
        dataset = Dataset(root, dataset.info, rows)
    if task.metric == "macro_auroc":
        values = ({"calm": 1.0, "odd": 0.0}, {"calm": 0.0, "odd": 1.0})
        rows = tuple(row.model_copy(update={"targets": values[n % 2]}) for n, row in enumerate(rows))
    plan, names = prepare_task(
        task,
        settings,
        dataset,
        rows,
        dims=dims,
        multiple=(4,) * dims,
        home=None,
        log=lambda _: None,
    )
    volumes = VolumeLoader(root, plan, cache_gb=1.0)
    return rows, EvaluationContext(volumes, names, "fp32", {})


def network_for(name, task, volumes, scene, lines=None):
    torch.manual_seed(0)
    dims = scene.plan.dims
    encoder = build_encoder("dynunet", spatial_dims=dims, in_channels=1, filters=[4, 8, 8])
    head = task.head(encoder, volumes, scene, (lines if lines is not None else []).append)
    return build_head(name, encoder=encoder, spatial_dims=dims, classes=max(scene.names) + 1, **head)


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


class Brightest(nn.Module):
    """Network that scores a slice by its mean."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images):
        mean = images.flatten(1).mean(dim=1, keepdim=True) * self.weight
        return torch.cat([mean, -mean], dim=1)


def test_a_volume_is_classified_by_the_mean_of_its_slices(tiny_dataset):
    task = Classification()
    volumes, scene = scene_for(task, tiny_dataset, 2)
    prepared = scene.volumes(volumes[0])
    scores = classify(Brightest(), prepared, scene.plan, precision="fp32", mirror=False)
    axis = prepared.slice_axis
    padded = 16 * 16 / (prepared.image.numel() / prepared.image.shape[axis + 1])
    slices = prepared.image.movedim(axis + 1, 0).flatten(1).mean(dim=1)
    expected = slices / padded + prepared.background * (1 - 1 / padded)
    assert scores[0] == pytest.approx(float(expected.mean()), abs=1e-4)


def test_rare_classes_are_drawn_more_often(tiny_dataset):
    volumes = read_dataset(tiny_dataset).volumes
    rare = [one for one in volumes if one.target == tiny.CLASSES[0]][:1]
    some = (*rare, *(one for one in volumes if one.target == tiny.CLASSES[1]))
    _, scene = scene_for(Classification(), tiny_dataset, 2)
    for balance, times in ((1.0, len(some) - 1), (0.0, 1.0)):
        lesson = Classification(balance=balance).training_samples(some, scene, foreground=0.0)
        assert lesson.weights[0] / lesson.weights[1] == pytest.approx(times)


def test_a_single_class_is_rejected(tiny_dataset):
    volumes = [one.model_copy(update={"target": "a"}) for one in read_dataset(tiny_dataset).volumes]
    with pytest.raises(DataError, match=r"all training images have one class \(a\)"):
        Classification().names(read_dataset(tiny_dataset), volumes, None)


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


def test_more_classes_than_a_byte_can_number_are_rejected(tmp_path):
    image, label = np.zeros((8, 8, 8), np.float32), np.arange(512, dtype=np.uint16).reshape(8, 8, 8)
    row = tiny.write_volume(tmp_path, "p", image, np.eye(4), label=label)
    dataset = Dataset(tmp_path, DatasetInfo(name="d"), (row,))
    found = fingerprint_of(tmp_path, [row], home=None)
    with pytest.raises(DataError, match="labels have 511 classes, expected at most 254"):
        Segmentation().names(dataset, [row], found)


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
