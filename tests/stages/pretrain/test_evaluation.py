"""Evaluation during pretraining: monitors and alarms of every method."""

import itertools
from typing import ClassVar

import pytest
import tiny
import torch
from frozen_probe import probe

from medmim.cli.pretrain import alarm_lines
from medmim.config.runs import PretrainSettings
from medmim.data.dataset.manifest import DatasetInfo, read_dataset, write_dataset
from medmim.data.loading.preprocess import VolumeLoader
from medmim.data.loading.preprocessing_plan import PreprocessingPlan
from medmim.encoders import build_encoder
from medmim.methods.base import Method, Step
from medmim.stages.pretrain.evaluation import PretrainEvaluator, affordable_images
from medmim.stages.pretrain.run import pretrain
from medmim.stages.pretrain.setup import build_pretraining
from medmim.tracking.mlflow_store import Store
from medmim.tracking.recorder_interface import MemoryRecorder
from medmim.training.budget import Budget

PROBES = {"last/probe_effective_rank", "last/probe_cosine", "last/probe_segment_dice", "last/alarm_collapse"}


def settings(data, **words):
    return PretrainSettings(**{**tiny.TINY, "data": data, "steps": 2, "num_evaluations": 1, **words})


@pytest.fixture(scope="module")
def classed_dataset(tmp_path_factory):
    """The tiny dataset with alternating image classes."""
    root = tiny.make_dataset(tmp_path_factory.mktemp("classed") / "data", patients=16)
    rows = [
        volume.model_copy(update={"target": ("even", "odd")[number % 2]})
        for number, volume in enumerate(read_dataset(root).volumes)
    ]
    write_dataset(root, DatasetInfo(name="classed", label_names=tiny.NAMES), rows, [])
    return root


@pytest.mark.parametrize(
    ("words", "more"),
    [
        ({"method": "contrastive"}, {"last/val_accuracy"}),
        ({"method": "mask_any_net", "dims": 2}, {"last/probe_hidden_error"}),
        ({"method": "mask_any_net", "method_options": {"objective": "supervised"}}, set()),
    ],
)
def test_every_method_logs_the_same_monitors(tiny_dataset, home, words, more):
    result = pretrain(settings(tiny_dataset, **words), home=home)
    assert result.metrics.keys() >= PROBES | more
    run = Store(home).run(result.run_id)
    assert {"cost/parameters", "cost/gflop", "probe/cosine"} <= run.data.metrics.keys()
    assert run.data.tags["axis_masking"] == "mesh"
    assert result.panel.is_file()


RESNET = {"encoder": "resnet18", "encoder_options": {"widths": [4, 4, 6, 8]}, "dims": 2, "size": (32,)}
VIT = {"encoder": "vit", "encoder_options": {"patch": 4, "width": 12, "depth": 1, "heads": 2}}


@pytest.mark.parametrize(
    ("words", "alarm"),
    [
        ({**RESNET, "method": "spark"}, "watched"),
        ({**RESNET, "method": "spark", "method_options": {"target": "hog"}}, "watched"),
        ({**RESNET, "method": "spark", "method_options": {"target": "ema"}}, "watched"),
        ({**VIT, "method": "latent_mim"}, "watched"),
        ({**RESNET, "method": "mask_any_net"}, "none: hidden content is seen by design"),
        ({**RESNET, "method": "contrastive"}, "none: nothing hidden is predicted"),
    ],
)
def test_the_run_records_whether_leaks_are_detected(tiny_dataset, home, words, alarm):
    result = pretrain(settings(tiny_dataset, monitors=False, **words), home=home)
    keys = {"last/probe_hidden_error", "last/alarm_leak"}
    predicted = not alarm.endswith("predicted")
    assert keys & result.metrics.keys() == (keys if predicted else set())
    assert not predicted or result.metrics["last/probe_hidden_error"] > 0.1
    assert "last/val_hidden_error" not in result.metrics
    assert Store(home).run(result.run_id).data.tags["leak_alarm"] == alarm


class Reporting(Method):
    """A method whose evaluation reports given terms."""

    axes: ClassVar[dict[str, str]] = {}

    def __init__(self, encoder, **parts):
        super().__init__()
        self.encoder = encoder
        self.parts = {name: torch.tensor(value) for name, value in parts.items()}

    def forward(self, images, hidden):
        """Return the terms."""
        return Step(loss=torch.zeros(()), parts=self.parts)


def evaluated(data, home, **parts):
    """Return the metrics of a pretraining whose method reports these terms."""
    run = build_pretraining(settings(data, **VIT, method="latent_mim"), home=home, log=str)
    run.module.method = Reporting(run.encoder, **parts)
    evaluator = PretrainEvaluator(run, MemoryRecorder(), home)
    evaluator.start()
    return evaluator(2)


@pytest.mark.parametrize(("error", "alarm"), [(0.01, 1.0), (0.5, 0.0)])
def test_an_exact_prediction_raises_the_leak_alarm(tiny_dataset, home, error, alarm):
    metrics = evaluated(tiny_dataset, home, hidden_error=error)
    assert metrics["probe/hidden_error"] == pytest.approx(error)
    assert metrics["alarm/leak"] == alarm


@pytest.mark.parametrize(("cosine", "alarm"), [(0.96, 1.0), (0.9, 0.0)])
def test_identical_targets_raise_the_collapse_alarm_even_with_diverse_features(
    tiny_dataset, home, cosine, alarm
):
    metrics = evaluated(tiny_dataset, home, cosine_targets=cosine)
    assert metrics["probe/cosine"] < 0.95
    assert metrics["alarm/collapse"] == alarm


def test_classes_are_probed_and_used_for_supervision(classed_dataset, home):
    options = {"method": "mask_any_net", "method_options": {"objective": "supervised"}}
    result = pretrain(settings(classed_dataset, dims=2, **options), home=home)
    assert result.metrics.keys() >= {"last/probe_knn_f1", "last/probe_linear_f1", "last/val_accuracy"}
    found = probe(
        result.checkpoint,
        data=classed_dataset,
        encoder="dynunet",
        encoder_options=tiny.TINY["encoder_options"],
        size=16,
        seed=0,
    )
    assert 0 <= found.linear_f1 <= 1
    assert 0 <= found.knn_f1 <= 1


def test_monitors_are_optional_and_do_not_change_the_weights(tiny_dataset, home):
    with_them, without = (
        pretrain(settings(tiny_dataset, monitors=monitors, num_evaluations=2), home=home)
        for monitors in (True, False)
    )
    assert not PROBES & without.metrics.keys()
    assert with_them.checkpoint.read_bytes() == without.checkpoint.read_bytes()


def test_collapse_is_monitored_without_labels(unlabelled_dataset, home):
    metrics = pretrain(settings(unlabelled_dataset), home=home).metrics
    assert "last/alarm_collapse" in metrics
    assert "last/probe_segment_dice" not in metrics


def test_an_alarm_is_printed():
    assert alarm_lines({"last/alarm_collapse": 0.0}) == []
    [line] = alarm_lines({"last/alarm_collapse": 1.0, "last/alarm_leak": 0.0})
    assert "collapse" in line


@pytest.mark.parametrize("budget", [Budget(steps=500), Budget(minutes=0.4)])
def test_recalibration_of_batch_norm_counts_in_the_time_of_the_monitors(budget, tiny_dataset):
    """Without batch norm each image is used once; with it, two thirds of the images twice."""
    times = itertools.cycle([0.0, 0.008])
    chosen = settings(tiny_dataset, batch_size=4)
    volumes = VolumeLoader(tiny_dataset, PreprocessingPlan(2, (16, 16)), cache_gb=0.1)
    resnet = build_encoder("resnet18", spatial_dims=2, in_channels=1, widths=(4, 4, 6, 8), stem_stride=1)
    plain = build_encoder("dynunet", spatial_dims=2, in_channels=1, filters=(4, 4))
    recalibrated, once = (
        affordable_images(budget, chosen, one, volumes, clock=lambda: next(times)) for one in (resnet, plain)
    )
    assert 75 <= once < 96
    assert once * 0.95 < recalibrated * 5 / 3 <= once
