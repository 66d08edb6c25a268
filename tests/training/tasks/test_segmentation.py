"""Tests of the loss, class names and label codes of the segmentation task."""

import numpy as np
import pytest
import tiny
import torch
from torch.utils.data import default_collate

from medmim.data.dataset.manifest import Dataset, DatasetInfo
from medmim.data.loading.fingerprint import fingerprint_of
from medmim.data.loading.foreground_sampling import IGNORE
from medmim.data.loading.patches import PatchDataset
from medmim.data.loading.preprocess import VolumeLoader
from medmim.data.loading.preprocessing_plan import PreprocessingPlan
from medmim.encoders import build_encoder
from medmim.errors import DataError, UsageError
from medmim.heads import build_head
from medmim.training.tasks.base import EvaluationContext
from medmim.training.tasks.segmentation import Segmentation


def small_network(deep=0):
    torch.manual_seed(0)
    encoder = build_encoder("dynunet", spatial_dims=2, in_channels=1, filters=[4, 8, 8])
    return build_head("segment", encoder=encoder, spatial_dims=2, classes=3, deep_supervision=deep)


def labelled(root, *labels):
    rows = [
        tiny.write_volume(root, f"p{number}", np.ones(label.shape, np.float32), np.eye(4), label=label)
        for number, label in enumerate(labels)
    ]
    return rows, fingerprint_of(root, rows, home=None)


def one_class(code):
    label = np.zeros((8, 8, 8), np.uint16)
    label[2:5, 2:5, 2:5] = code
    return label


@pytest.mark.parametrize("criterion", ["dice_ce", "dice_focal"])
def test_ignored_voxels_have_no_gradient(criterion):
    task, scores = (
        Segmentation(criterion=criterion, deep_supervision=0),
        torch.randn(2, 3, 8, 8, requires_grad=True),
    )
    label = torch.randint(0, 3, (2, 1, 8, 8))
    label[..., 4:] = IGNORE
    network = type("Fixed", (), {"deep_scores": lambda self, images: [scores]})()
    task.loss(network, {"image": label, "label": label}).backward()
    assert scores.grad[..., 4:].abs().max() == 0
    assert scores.grad[..., :4].abs().max() > 0


def test_the_loss_of_known_voxels_does_not_depend_on_ignored_ones():
    """With half of the voxels ignored, the loss equals that of the other half."""
    task, scores = Segmentation(deep_supervision=0), torch.randn(2, 3, 8, 8)
    label = torch.randint(0, 3, (2, 1, 8, 8))
    half = type("Half", (), {"deep_scores": lambda self, images: [scores[..., :4]]})()
    whole = type("Whole", (), {"deep_scores": lambda self, images: [scores]})()
    masked = torch.cat([label[..., :4], torch.full((2, 1, 8, 4), IGNORE)], dim=-1)
    alone = task.loss(half, {"image": label, "label": label[..., :4]})
    assert task.loss(whole, {"image": label, "label": masked}) == pytest.approx(float(alone), abs=1e-5)


def test_a_batch_without_any_known_voxel_has_a_finite_loss():
    label = torch.full((2, 1, 16, 16), IGNORE)
    loss = Segmentation().loss(small_network(2), {"image": torch.randn(2, 1, 16, 16), "label": label})
    loss.backward()
    assert torch.isfinite(loss)


def test_classes_are_numbered_by_ascending_code_and_keep_their_names(tmp_path):
    rows, found = labelled(tmp_path, one_class(53), one_class(1035))
    dataset = Dataset(tmp_path, DatasetInfo(name="d", label_names={53: "hippocampus"}), tuple(rows))
    task = Segmentation()
    assert task.with_labels(PreprocessingPlan(3, (8, 8, 8)), dataset, found).label_codes == (53, 1035)
    assert task.names(dataset, rows, found) == {1: "hippocampus", 2: "label_1035"}


def test_a_class_absent_from_training_is_reported(tmp_path):
    rows, found = labelled(tmp_path, one_class(1))
    dataset = Dataset(tmp_path, DatasetInfo(name="d", label_names={1: "liver", 2: "lesion"}), tuple(rows))
    task = Segmentation()
    notes = task.notes(dataset, found, task.names(dataset, rows, found))
    assert notes == ["warning: no training label contains 'lesion' (2): it cannot be predicted"]


def test_the_fraction_of_patches_on_rare_classes_is_reported(tmp_path):
    both = one_class(1)
    both[6, 6, 6] = 2
    rows, found = labelled(tmp_path, both, one_class(1))
    dataset = Dataset(tmp_path, DatasetInfo(name="d", label_names={1: "liver", 2: "lesion"}), tuple(rows))
    [line] = Segmentation().notes(dataset, found, {1: "liver", 2: "lesion"})
    assert line.endswith("rarest: lesion 25.0%, liver 75.0%")


def test_empty_training_labels_are_rejected(tmp_path):
    rows, found = labelled(tmp_path, np.zeros((8, 8, 8), np.uint8))
    with pytest.raises(DataError, match="all training labels are empty: expected at least one class"):
        Segmentation().names(Dataset(tmp_path, DatasetInfo(name="d"), tuple(rows)), rows, found)


def test_a_class_with_the_usual_value_of_voxels_that_nobody_annotated_is_mentioned(tmp_path):
    rows, found = labelled(tmp_path, one_class(1), one_class(255))
    dataset, task = Dataset(tmp_path, DatasetInfo(name="d"), tuple(rows)), Segmentation()
    lines = task.notes(dataset, found, task.names(dataset, rows, found))
    assert any("use --set ignore_label=255" in line for line in lines)


@pytest.mark.parametrize("labels", [{"a": [0]}, {"a": [1], "b": [1]}, {"a": []}])
def test_merged_classes_need_values_of_their_own(labels):
    with pytest.raises(UsageError, match="each of them once"):
        Segmentation(labels=labels)


def test_annotated_classes_of_a_source_reach_loss_and_lines(tmp_path):
    rows, found = labelled(tmp_path, one_class(1), one_class(2))
    rows = [
        row.model_copy(update={"source": name}) for row, name in zip(rows, ("north", "south"), strict=True)
    ]
    dataset = Dataset(tmp_path, DatasetInfo(name="d", label_names={1: "a", 2: "b"}), tuple(rows))
    task = Segmentation(annotated_classes={"north": ["a"]})
    names = task.names(dataset, rows, found)
    assert any("only a annotated in source 'north'" in line for line in task.notes(dataset, found, names))
    volumes = VolumeLoader(tmp_path, PreprocessingPlan(3, (8, 8, 8), label_codes=(1, 2)), cache_gb=0.1)
    entries = [task.known(row, volumes(row), names, None) for row in rows]
    assert [entry["annotated"].tolist() for entry in entries] == [[True, True, False], [True, True, True]]
    context = EvaluationContext(volumes, names, "fp32", {})
    samples = task.training_samples(rows, context, foreground=0.5, augment="none")
    options = {"labelled": True, "seed": 0, "targets": samples.targets}
    patches = PatchDataset(rows, context.volumes, samples.transform, **options)
    batch = default_collate([patches[0], patches[1]])
    assert sorted(batch["annotated"][:, 2].tolist()) == [False, True]
    scores = torch.zeros(2, 3, 8, 8, 8)
    network = type("Fixed", (), {"deep_scores": lambda self, images: [scores]})()
    assert torch.isfinite(task.loss(network, batch))
    with pytest.raises(UsageError, match=r"expected sources \(north, south\).*got c"):
        Segmentation(annotated_classes={"north": ["c"]}).notes(dataset, found, names)


def test_a_class_that_nobody_drew_in_a_case_reaches_neither_loss_nor_scores(tmp_path):
    both = one_class(1)
    both[6, 6, 6] = 2
    rows, found = labelled(tmp_path, one_class(1), both)
    dataset = Dataset(tmp_path, DatasetInfo(name="d", label_names={1: "a", 2: "b"}), tuple(rows))
    task = Segmentation(partially_labelled=("b",))
    names = task.names(dataset, rows, found)
    assert any(
        "b may occur in images whose labels do not include them" in line
        for line in task.notes(dataset, found, names)
    )
    volumes = VolumeLoader(tmp_path, PreprocessingPlan(3, (8, 8, 8), label_codes=(1, 2)), cache_gb=0.1)
    entries = [task.known(row, volumes(row), names, None)["annotated"].tolist() for row in rows]
    assert entries == [[True, True, False], [True, True, True]]
    scores = torch.nn.Conv3d(1, 3, 1)
    context = EvaluationContext(volumes, names, "fp32", {})
    evaluated = task.evaluate(scores, rows, context, final=False)
    assert [(row["label"], row["dice_any"] is None) for row in evaluated] == [
        ("a", True),
        ("a", False),
        ("b", False),
    ]
    with pytest.raises(UsageError, match="expected all, or some of a, b; got c"):
        Segmentation(partially_labelled=("c",)).notes(dataset, found, names)


@pytest.mark.parametrize("regions", [[["a", [1]], ["a", [2]]], [["a", []]]])
def test_regions_need_different_names_and_members(regions):
    with pytest.raises(UsageError, match="expected different names, each with label values"):
        Segmentation(regions=regions)


def test_outputs_of_regions_are_sums_of_classes_and_start_at_their_shares_in_patches(tmp_path):
    """Ignored voxels and those far from labels do not count; a class that no label has starts above 0."""
    first, second = one_class(1), one_class(1)
    first[2:5, 2:5, 2], second[4:] = 2, IGNORE
    first, second = (np.pad(label, ((0, 8), (0, 0), (0, 0))) for label in (first, second))
    rows, _ = labelled(tmp_path, first, second)
    classes = ((1, 1), (2, 2), (3, 3))
    regions = (("whole", (1, 2, 3)), ("core", (2, 3)), ("active", (3,)))
    plan = PreprocessingPlan(3, (8, 8, 8), label_classes=classes, regions=regions, ignore_label=IGNORE)
    volumes = VolumeLoader(tmp_path, plan, cache_gb=0.1)
    encoder = build_encoder("dynunet", spatial_dims=3, in_channels=1, filters=[4, 8, 8])
    names = {1: "a", 2: "b", 3: "c"}
    options = Segmentation().head(encoder, rows, EvaluationContext(volumes, names, "fp32", {}), print)
    assert options["priors"] == pytest.approx([1208 / 1280, 54 / 1280, 18 / 1280, 1e-2], abs=1e-5)
    network = build_head("segment", encoder=encoder, spatial_dims=3, classes=3, **options)
    layers = [network.score, *network.deep]
    for layer in layers:
        layer.weight.data.zero_()
    for scores in network.deep_scores(torch.randn(1, 1, 8, 8, 8)):
        found = scores.softmax(dim=1)[0, :, 0, 0, 0].tolist()
        assert found == pytest.approx(options["priors"], abs=2e-2)
    found = network(torch.randn(1, 1, 8, 8, 8)).sigmoid()[0, :, 0, 0, 0].tolist()
    assert found == pytest.approx([72 / 1280, 18 / 1280, 1e-2], abs=2e-2)
    network.score.weight.data.normal_()
    whole, core, active = network(torch.randn(1, 1, 8, 8, 8))[0]
    assert (whole > core).all()
    assert (core > active).all()
