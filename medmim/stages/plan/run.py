"""`medmim plan`: memory and hours of a run before it starts, and the batch size that fits.

Two trial runs separate what grows with the batch size from what does not; memory and time at any other batch
size lie on the line through them. The second uses the batch size of the run if it is certain to fit in memory
and takes less than a minute, because a measurement is better than an extrapolation. An evaluation and the
saving of a state may need more memory than small batches. Volumes that the trial runs did not load are added.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from medmim.config.runs import FinetuneSettings, PretrainSettings, RunSettings
from medmim.data.dataset.manifest import Dataset, VolumeRecord, read_dataset
from medmim.data.dataset.splits import partition
from medmim.data.loading.preprocessing_plan import facts_of
from medmim.errors import RunError
from medmim.operating_system import available_memory_mb
from medmim.stages.plan.trial_run import TrialRun, run_trial
from medmim.training.budget import budget_for
from medmim.training.cost import machine_for
from medmim.training.recipe import Choice, recipe, with_recipe
from medmim.training.trainer import workers_for

_SMALL, _LEAST_LARGE = 2, 4  # patches per batch of the trial runs
_LONGEST_S = 60.0  # time limit of the steps of the second
_SHARE = 0.85  # share of the free memory to use: the prediction is up to 15 % off
_IMAGE_BYTES, _LABEL_BYTES = 4, 1


@dataclass(frozen=True)
class ResourceEstimate:
    """The predicted memory and time of a run.

    Attributes:
        proposed_batch_size, proposed_accumulate: the same step in batches that fit; None if none fits.
    """

    device: str
    batch_size: int
    accumulate: int
    peak_mb: float
    hours: float
    free_mb: float
    fits: bool
    proposed_batch_size: int | None
    proposed_accumulate: int | None

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return asdict(self)


def plan(
    settings: RunSettings, *, home: Path, trial: Callable[..., TrialRun] = run_trial
) -> ResourceEstimate:
    """Predict memory and time of a run from two trial runs.

    Raises:
        MedmimError: for settings, data or sizes that cannot work, or if memory runs out in a trial run.
    """
    dataset = read_dataset(settings.data)
    if (
        isinstance(settings, FinetuneSettings)
        and settings.init is None
        and not (home / "mlflow.db").is_file()
    ):
        settings = settings.model_copy(update={"init": "scratch"})  # nothing is pretrained yet
    # the trial runs choose for themselves, as the run does: size is rounded to what their network needs
    filled = with_recipe(settings, partition(dataset, fold=settings.fold).train, dims=settings.dims)
    free_mb = free_memory_mb()
    small = trial(settings, batch=_SMALL, home=home)
    large = trial(settings, batch=second_batch(filled.batch_size, small, free_mb=free_mb), home=home)
    return predict(filled, dataset, (small, large), free_mb=free_mb)


def choices_for(settings: RunSettings) -> tuple[Choice, ...]:
    """Return the recipe for the training patients of a dataset on the machine of the settings."""
    volumes = partition(read_dataset(settings.data), fold=settings.fold).train
    task, channels = None, 1
    if isinstance(settings, FinetuneSettings):
        task, channels = settings.task, settings.in_channels
    facts = facts_of(volumes, dims=settings.dims, channels=channels)
    return recipe(facts, machine_for(settings.machine), task=task)


def second_batch(wanted: int, small: TrialRun, *, free_mb: float) -> int:
    """Return the batch size of the second trial run: that of the run, or a smaller one."""
    fitting = math.floor(free_mb * _SHARE / small.whole_mb * small.batch)
    quick = math.floor(_LONGEST_S / small.batches / small.batch_s * small.batch)
    return max(min(wanted, fitting, quick), _LEAST_LARGE)


def predict(
    settings: RunSettings, dataset: Dataset, measured: tuple[TrialRun, TrialRun], *, free_mb: float
) -> ResourceEstimate:
    """Predict memory and time of a run from two trial runs."""
    peak, seconds = _line(measured, "peak_mb"), _line(measured, "batch_s")
    cache = _unseen_mb(settings, dataset, measured[1])
    budget = budget_for(settings, volumes=measured[1].volumes)
    batch_s = seconds[0] + seconds[1] * settings.batch_size
    steps_s = (budget.steps or 0) * settings.accumulate * batch_s
    allowed = free_mb * _SHARE - cache - peak[0]
    most = math.floor(allowed / peak[1]) if peak[1] > 0 else settings.batch_size
    batch = min(most, settings.batch_size)
    needed = max(peak[0] + peak[1] * settings.batch_size, measured[1].whole_mb) + cache
    return ResourceEstimate(
        device="cuda" if torch.cuda.is_available() else "cpu",
        batch_size=settings.batch_size,
        accumulate=settings.accumulate,
        peak_mb=needed,
        hours=steps_s / 3600 if budget.steps else (budget.minutes or 0.0) / 60,
        free_mb=free_mb,
        fits=batch == settings.batch_size,
        proposed_batch_size=batch if batch >= 1 else None,
        proposed_accumulate=math.ceil(settings.batch_size * settings.accumulate / batch)
        if batch >= 1
        else None,
    )


def refuse_too_large(planned: ResourceEstimate) -> None:
    """Raise if a run does not fit in memory at any batch size."""
    if planned.proposed_batch_size is None:
        raise RunError(
            f"this run needs more than the {planned.free_mb:.0f} MiB of free memory, even with one patch per "
            "batch: choose a smaller --size, or --set activation_checkpointing=true"
        )


def free_memory_mb() -> float:
    """Return the free memory of the GPU, or of the machine or container, in MiB."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0] / 2**20
    free = available_memory_mb()
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.is_file() and limit.read_text().strip().isdigit():
        free = min(free, (int(limit.read_text()) - int(used.read_text())) / 2**20)
    return free


def _line(measured: tuple[TrialRun, TrialRun], what: str) -> tuple[float, float]:
    """Return intercept and slope of a measurement as a function of the batch size."""
    (x, y), (x2, y2) = ((one.batch, getattr(one, what)) for one in measured)
    slope = max((y2 - y) / (x2 - x), 0.0)
    return y2 - slope * x2, slope


def _unseen_mb(settings: RunSettings, dataset: Dataset, measured: TrialRun) -> float:
    """Return the memory of the preprocessed volumes that the trial run did not load, in MiB.

    Volumes on disk are memory-mapped, so that the kernel can reclaim them. Workers have their own memory.
    """
    if torch.cuda.is_available() or workers_for(settings) > 0 or settings.cache_disk_gb > 0:
        return 0.0
    sizes = [
        math.prod(volume.shape) * (_IMAGE_BYTES + (_LABEL_BYTES if volume.label else 0))
        for volume in _preprocessed(settings, dataset)
    ]
    seen = min(measured.batch * measured.batches / len(sizes), 1.0)
    kept = min(sum(sizes), settings.cache_gb * 1e9)
    return max(kept - seen * sum(sizes), 0.0) / 2**20


def _preprocessed(settings: RunSettings, dataset: Dataset) -> tuple[VolumeRecord, ...]:
    """Return approximately the volumes that a training run preprocesses: all but a test split."""
    if isinstance(settings, PretrainSettings) and settings.include_held_out:
        return dataset.volumes
    return tuple(volume for volume in dataset.volumes if volume.split != "test") or dataset.volumes
