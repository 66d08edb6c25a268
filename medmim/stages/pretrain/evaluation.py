"""Evaluation during pretraining: loss and reconstruction of fixed patches, monitors and alarms."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from medmim import files
from medmim.config.runs import PretrainSettings
from medmim.data.dataset.manifest import VolumeRecord
from medmim.data.loading.finite_checks import first_finite
from medmim.data.loading.preprocess import VolumeLoader
from medmim.data.loading.probe_images import ProbeImages, build_probe_images, stratified_subset
from medmim.encoders import Encoder
from medmim.encoders.batch_norm import batch_norms
from medmim.masks import hidden_voxels
from medmim.methods.base import HIDDEN_ERROR
from medmim.randomness import torch_stream
from medmim.shapes import Images
from medmim.stages.pretrain.setup import PretrainRun, pretraining_dataset, volumes_with_labels
from medmim.training.budget import Budget
from medmim.training.callbacks import Log
from medmim.training.cost import cost_of
from medmim.training.evaluation.panels import panel, reconstruction_rows
from medmim.training.evaluation.pretraining_monitors import (
    LEAKED_ERROR,
    Monitors,
    hidden_error,
    target_collapse,
)
from medmim.training.precision import autocast

_PATCHES = 8
_BATCH = 4
_MONITOR_RUNS = 3  # after the one before training
_MONITOR_SHARE = 0.05  # of the training time
_RECALIBRATION = 5 / 3  # passes per monitor run where batch norm is recalibrated on the training images first
_PROBE_IMAGES = (12, 96)  # smallest and largest number of probe images; two thirds are of training patients


class PretrainEvaluator:
    """Evaluate the same patches under the same masks every time, and run the monitors now and then."""

    def __init__(self, run: PretrainRun, recorder: Log, folder: Path) -> None:
        self.run = run
        self.method = run.method
        self.recorder = recorder
        self.folder = folder
        self.batches = _batches(run)
        self.monitors = _monitors(run) if run.settings.monitors else None

    def start(self) -> None:
        """Log the cost of a run and the monitors of its initial weights, the reference for later values."""
        self.recorder.metrics(_cost(self.run), step=0)
        if self.monitors:
            self.recorder.metrics(self.monitors(), step=0)

    def __call__(self, step: int) -> Mapping[str, float]:
        """Return the metrics after a step, and log a picture."""
        device = next(self.method.parameters()).device
        totals: dict[str, float] = defaultdict(float)
        pictures = []
        for batch in self.batches:
            with autocast(self.run.settings.precision, device):
                result = self.method(*(one.to(device) for one in batch))
            for name, value in {"loss": result.loss, **result.parts}.items():
                totals[name] += float(value) * len(batch[0])
            pictures.append({name: picture.cpu() for name, picture in result.pictures.items()})
        count = sum(len(batch[0]) for batch in self.batches)
        self._draw(pictures[0], step=step)
        metrics = {f"val/{name}": total / count for name, total in totals.items()}
        reconstructions = [picture.get("reconstruction") for picture in pictures]
        metrics |= self._leaks(reconstructions, metrics.pop(f"val/{HIDDEN_ERROR}", None))
        monitored = self.monitors() if self.monitors and self._monitors_due(step) else {}
        return metrics | monitored | target_collapse(metrics)

    def _monitors_due(self, step: int) -> bool:
        """Return whether the monitors run at this evaluation; they always run at the last one."""
        times = self.run.settings.num_evaluations
        number = int(self.run.budget.progress(step) * times + 1e-9)
        return number * _MONITOR_RUNS // times > (number - 1) * _MONITOR_RUNS // times

    def _leaks(self, reconstructions: list[Tensor | None], error: float | None) -> dict[str, float]:
        """Return the error in hidden cells (of voxels where there are reconstructions) and its alarm."""
        known = [one for one in reconstructions if one is not None]
        if len(known) == len(self.batches):
            images, hidden = (torch.cat([batch[place] for batch in self.batches]) for place in (0, 1))
            error = hidden_error(images, hidden, torch.cat(known))
        if error is None:  # the method predicts nothing
            return {}
        leaked = error < LEAKED_ERROR and not self.method.sees_hidden_content
        return {"probe/hidden_error": error, "alarm/leak": float(leaked)}

    def _draw(self, pictures: Mapping[str, Images], *, step: int) -> None:
        images, hidden = (one[:_BATCH] for one in self.batches[0][:2])
        reconstruction = pictures.get("reconstruction")
        voxels = hidden_voxels(hidden, tuple(images.shape[2:]))
        rows = reconstruction_rows(
            images, voxels, None if reconstruction is None else reconstruction[:_BATCH]
        )
        columns = ["original", "visible to the encoder", "reconstruction"][: len(rows[0].images)]
        png = panel(rows, columns, title=f"{float(hidden.double().mean()):.0%} hidden, step {step}")
        with files.not_on_a_full_disk("a picture"):
            self.recorder.picture("reconstruction", png, step=step)
            files.write_bytes(self.folder / "panel.png", png)


def _cost(run: PretrainRun) -> dict[str, float]:
    """Return the size of the method, and the operations of one forward pass with and without it."""
    images = torch.zeros(run.method.views, run.encoder.in_channels, *run.plan.size)
    return cost_of(run.method, images, run.module.draw(images, torch_stream(0, "cost"))).as_metrics()


def _batches(run: PretrainRun) -> list[tuple[Tensor, ...]]:
    """Return images, masks and, for supervised methods, labels of fixed validation patches."""
    method, module, kind = run.method, run.module, run.method.label_kind
    val, train = run.partition.val, run.partition.train
    candidates = volumes_with_labels(val, kind) or volumes_with_labels(train, kind)
    chosen = tuple(first_finite(candidates, run.volumes, count=_PATCHES))
    total = -(-max(len(chosen), _BATCH) // _BATCH) * _BATCH
    patches = pretraining_dataset(
        method, chosen, run.volumes, run.settings.augment, classes=run.classes, seed=0
    )
    samples = [patches[number] for number in range(total)]
    generator, batches = torch_stream(0, "watched masks"), []
    for start in range(0, total, _BATCH):
        part = samples[start : start + _BATCH]
        keys = ("image", kind) if kind else ("image",)
        images, *labels = module.inputs({key: torch.stack([one[key] for one in part]) for key in keys})
        batches.append((images, module.draw(images, generator), *labels))
    return batches


def _monitors(run: PretrainRun) -> Monitors:
    """Return monitors of as many probe images as the budget allows."""
    count = affordable_images(run.budget, run.settings, run.encoder, run.volumes)
    train, val = run.partition.train, run.partition.val
    known = [volume for volume in train if volume.target is not None or volume.label]

    def probe_images(volumes: Sequence[VolumeRecord], most: int) -> ProbeImages:
        chosen = first_finite(stratified_subset(volumes, most), run.volumes, count=most)
        return build_probe_images(chosen, run.volumes, run.plan, run.classes)

    return Monitors(
        run.encoder,
        probe_images(known, 2 * count // 3) if known and val else None,
        probe_images(val or train, count // 3),
        precision=run.settings.precision,
    )


def affordable_images(
    budget: Budget,
    settings: PretrainSettings,
    encoder: Encoder,
    volumes: VolumeLoader,
    clock: Callable[[], float] = time.perf_counter,
) -> int:
    """Return the number of probe images for which the monitors take at most 5 % of the training time.

    A training step is assumed to cost at least three forward passes. A budget in minutes times the encoder on
    a trial batch.
    """
    if budget.steps is not None:
        images = _MONITOR_SHARE * 3 * budget.steps * settings.batch_size / (_MONITOR_RUNS + 1)
    else:
        trial = torch.zeros(2, encoder.in_channels, *volumes.plan.size)
        start = clock()
        encoder.eval()  # so that no running statistics change
        with torch.no_grad(), autocast(settings.precision, trial.device):
            encoder(trial)
        encoder.train()
        seconds = (clock() - start) / len(trial)
        images = _MONITOR_SHARE * 60 * (budget.minutes or 0) / (_MONITOR_RUNS + 1) / seconds
    passes = _RECALIBRATION if batch_norms(encoder) else 1
    return int(min(max(images / passes, _PROBE_IMAGES[0]), _PROBE_IMAGES[1]))
