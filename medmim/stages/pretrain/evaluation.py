"""What is looked at while an encoder is pretrained: loss and picture of fixed patches, monitors, alarms."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medmim import files
from medmim.config.runs import PretrainSettings
from medmim.data.dataset.manifest import VolumeRecord
from medmim.data.dataset.partition import Partition
from medmim.data.loading.finite_checks import finite_ones
from medmim.data.loading.preprocess import VolumeLoader
from medmim.data.loading.probe_images import ProbeImages, build_probe_images, stratified_subset
from medmim.encoders import Encoder
from medmim.encoders.recalibrate_batch_norm import batch_norms
from medmim.masks import Mask, hidden_voxels, tissue_share
from medmim.methods import Method
from medmim.methods.base import HIDDEN_ERROR
from medmim.randomness import torch_stream
from medmim.shapes import Hidden, Images, Size, grid_of
from medmim.stages.pretrain.data import build_pretraining_dataset, class_numbers, volumes_with_labels
from medmim.training.budget import Budget
from medmim.training.evaluation.figures import panel, reconstruction_rows
from medmim.training.evaluation.pretraining_monitors import (
    LEAKED_ERROR,
    Monitors,
    alike_targets,
    hidden_error,
)
from medmim.training.lightning_modules import in_views
from medmim.training.precision import autocast

if TYPE_CHECKING:
    from medmim.tracking.recorder import Recorder

_WATCHED = 8
_DRAWN = 4
_LOOKS = 3  # of the monitors, after the one at the start
_SHARE = 0.05  # of the training's time that the monitors may take
_SETTLING = 5 / 3  # passes a look where batch norm is settled first, on the training patients' two thirds
_EXHIBITS = (12, 96)  # images that they look at, at least and at most; two thirds are training patients'


@dataclass(frozen=True, eq=False)
class PretrainSubject:
    """What is pretrained, and on whom.

    Attributes:
        method: with its encoder.
        mask: what is hidden.
        cell: mask cell in voxels.
        divided: who trains and who validates; nobody looks at the others.
    """

    method: Method
    mask: Mask
    cell: Size
    divided: Partition


class PretrainEvaluator:
    """Evaluate the same patches under the same masks, every time, and ask the monitors now and then.

    Args:
        settings: of the run.
        subject: what is pretrained.
        volumes: prepares volumes.
        budget: of the training.
        recorder: takes pictures.
        folder: of the run's checkpoints; the last picture lies there.
    """

    def __init__(
        self,
        settings: PretrainSettings,
        subject: PretrainSubject,
        volumes: VolumeLoader,
        budget: Budget,
        *,
        recorder: Recorder,
        folder: Path,
    ) -> None:
        self.settings = settings
        self.method = subject.method
        self.budget = budget
        self.recorder = recorder
        self.folder = folder
        self.batches = _batches(subject, volumes, augment=settings.augment)
        self.monitors = _monitors(settings, subject, volumes, budget) if settings.monitors else None

    def start(self) -> None:
        """Log what the initial weights are worth, the yardstick of everything after."""
        if self.monitors:
            self.recorder.metrics(self.monitors(), step=0)

    def __call__(self, step: int) -> Mapping[str, float]:
        """Return the numbers after a step."""
        device = next(self.method.parameters()).device
        totals: dict[str, float] = defaultdict(float)
        pictures = []
        for batch in self.batches:
            with autocast(self.settings.precision, device):
                result = self.method(*(one.to(device) for one in batch))
            for name, value in {"loss": result.loss, **result.parts}.items():
                totals[name] += float(value) * len(batch[0])
            pictures.append({name: picture.cpu() for name, picture in result.pictures.items()})
        count = sum(len(batch[0]) for batch in self.batches)
        self._draw(pictures[0], step=step)
        found = {f"val/{name}": total / count for name, total in totals.items()}
        rebuilt = [picture.get("reconstruction") for picture in pictures]
        found |= self._leaks(rebuilt, found.pop(f"val/{HIDDEN_ERROR}", None))
        looked = self.monitors() if self.monitors and self._due(step) else {}
        return found | looked | alike_targets(found)

    def _due(self, step: int) -> bool:
        """Whether the monitors' turn comes with this evaluation; the last one is always theirs."""
        times = self.settings.num_evaluations
        number = int(self.budget.progress(step) * times + 1e-9)
        return number * _LOOKS // times > (number - 1) * _LOOKS // times

    def _leaks(self, rebuilt: list[Tensor | None], error: float | None) -> dict[str, float]:
        """Return the error of hidden cells, that of voxels where a picture shows them, and its alarm."""
        known = [one for one in rebuilt if one is not None]
        if len(known) == len(self.batches):
            images, hidden = (torch.cat([batch[place] for batch in self.batches]) for place in (0, 1))
            error = hidden_error(images, hidden, torch.cat(known))
        if error is None:  # nothing is predicted
            return {}
        leaked = error < LEAKED_ERROR and not self.method.sees_hidden_content
        return {"probe/hidden_error": error, "alarm/leak": float(leaked)}

    def _draw(self, pictures: Mapping[str, Images], *, step: int) -> None:
        images, hidden = (one[:_DRAWN] for one in self.batches[0][:2])
        rebuilt = pictures.get("reconstruction")
        voxels = hidden_voxels(hidden, tuple(images.shape[2:]))
        rows = reconstruction_rows(images, voxels, None if rebuilt is None else rebuilt[:_DRAWN])
        columns = ["original", "what the encoder sees", "reconstruction"][: len(rows[0].images)]
        png = panel(rows, columns, title=f"{float(hidden.double().mean()):.0%} hidden, step {step}")
        self.recorder.picture("reconstruction", png, step=step)
        files.write_bytes(self.folder / "panel.png", png)


def _batches(subject: PretrainSubject, volumes: VolumeLoader, *, augment: str) -> list[tuple[Tensor, ...]]:
    """Return images, masks and, where the method learns from it, what is known of them."""
    method, divided = subject.method, subject.divided
    kind = method.label_kind
    candidates = volumes_with_labels(divided.val, kind) or volumes_with_labels(divided.train, kind)
    watched = tuple(finite_ones(candidates, volumes, count=_WATCHED))
    classes = class_numbers(divided.train)
    total = -(-max(len(watched), _DRAWN) // _DRAWN) * _DRAWN
    draws = build_pretraining_dataset(method, watched, volumes, classes=classes, seed=0, augment=augment)
    samples = [draws[number] for number in range(total)]
    generator, batches = torch_stream(0, "watched masks"), []
    for start in range(0, total, _DRAWN):
        chosen = samples[start : start + _DRAWN]
        images = in_views(torch.stack([sample["image"] for sample in chosen]), method.views)
        hidden = _drawn(subject, images, generator)
        known = () if kind is None else (torch.stack([sample[kind] for sample in chosen]).long(),)
        batches.append((images, hidden, *known))
    return batches


def _drawn(subject: PretrainSubject, images: Images, generator: torch.Generator) -> Hidden:
    grid = grid_of(tuple(images.shape[2:]), subject.cell)
    weight = tissue_share(images, grid)
    return subject.mask.sample(len(images), grid, generator=generator, weight=weight)


def _monitors(
    settings: PretrainSettings, subject: PretrainSubject, volumes: VolumeLoader, budget: Budget
) -> Monitors:
    """Return monitors of as many images as the budget allows."""
    encoder, divided = subject.method.encoder, subject.divided
    count = _affordable(budget, settings, encoder, volumes)
    known = [volume for volume in divided.train if volume.target is not None or volume.label]
    classes = class_numbers(divided.train)
    judged = bool(known and divided.val)

    def shown(some: Sequence[VolumeRecord], most: int) -> ProbeImages:
        chosen = finite_ones(stratified_subset(some, most), volumes, count=most)
        return build_probe_images(chosen, volumes, volumes.plan, classes)

    train = shown(known, 2 * count // 3) if judged else None
    val = shown(divided.val or divided.train, count // 3)
    return Monitors(encoder, train, val, precision=settings.precision)


def _affordable(budget: Budget, settings: PretrainSettings, encoder: Encoder, volumes: VolumeLoader) -> int:
    """Return how many images the monitors may look at: a training step costs at least three times a pass."""
    if budget.steps is not None:
        images = _SHARE * 3 * budget.steps * settings.batch_size / (_LOOKS + 1)
    else:
        trial = torch.zeros(2, encoder.in_channels, *volumes.plan.size)
        start = time.perf_counter()
        encoder.eval()  # so that no running statistics move
        with torch.no_grad(), autocast(settings.precision, trial.device):
            encoder(trial)
        encoder.train()
        seconds = (time.perf_counter() - start) / len(trial)
        images = _SHARE * 60 * (budget.minutes or 0) / (_LOOKS + 1) / seconds
    passes = _SETTLING if batch_norms(encoder) else 1
    return int(min(max(images / passes, _EXHIBITS[0]), _EXHIBITS[1]))


def leak_alarm(method: Method) -> str:
    """Return whether hidden content that reaches the encoder would be noticed, and why not."""
    if not method.reconstructs:
        return "none: nothing hidden is predicted"
    return "none: hidden content is seen by design" if method.sees_hidden_content else "watched"
