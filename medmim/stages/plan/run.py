"""`medmim plan`: memory and hours of a run before it starts, and the batch size that fits.

Two rehearsals give what grows with the batch and what does not; memory and seconds of steps at any other
batch lie on the line through them. The second is at the batch of the run, where memory surely has room for it
and it takes no more than a minute: what is measured need not be guessed. An evaluation and the saving of a
state may need more than small batches do. Volumes that the rehearsals did not load are added.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from medmim.config.runs import PretrainSettings, RunSettings
from medmim.data.dataset.manifest import Dataset, VolumeRecord, read_dataset
from medmim.errors import RunError
from medmim.stages.plan.trial_run import TrialRun, run_trial
from medmim.training.budget import budget_for
from medmim.training.trainer import workers_for

_SMALL, _LEAST_LARGE = 2, 4  # patches a batch of rehearsals
_LONGEST_S = 60.0  # of the steps of the second
_SHARE = 0.85  # of the free memory: prediction errs by up to 15 %
_IMAGE_BYTES, _LABEL_BYTES = 4, 1


@dataclass(frozen=True)
class ResourceEstimate:
    """What a run will take.

    Attributes:
        device: where it will run.
        batch_size, accumulate: as set.
        peak_mb: most memory, in MiB.
        hours: of training, without evaluations.
        free_mb: memory that is free now, in MiB.
        fits: whether the one fits in the other.
        proposed_batch_size, proposed_accumulate: the same step in batches that fit; None where none does.
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


def plan(settings: RunSettings, *, home: Path) -> ResourceEstimate:
    """Rehearse a run and predict what it takes.

    Args:
        settings: of the run.
        home: `MEDMIM_HOME`; nothing is written there.

    Raises:
        MedmimError: for settings, data or sizes that cannot work, or if memory runs out in a rehearsal.
    """
    dataset = read_dataset(settings.data)
    free_mb = free_memory_mb()
    small = run_trial(settings, batch=_SMALL, home=home)
    large = run_trial(settings, batch=second_batch(settings.batch_size, small, free_mb=free_mb), home=home)
    return predict(settings, dataset, (small, large), free_mb=free_mb)


def second_batch(wanted: int, small: TrialRun, *, free_mb: float) -> int:
    """Return the patches a batch of the second rehearsal: those of the run, or fewer that fit and are quick.

    Args:
        wanted: patches a batch of the run.
        small: the first rehearsal. Memory and time grow no faster than the batch: part of them is fixed.
        free_mb: memory that it may take, in MiB.
    """
    sure = math.floor(free_mb * _SHARE / small.whole_mb * small.batch)
    quick = math.floor(_LONGEST_S / small.batches / small.batch_s * small.batch)
    return max(min(wanted, sure, quick), _LEAST_LARGE)


def predict(
    settings: RunSettings, dataset: Dataset, measured: tuple[TrialRun, TrialRun], *, free_mb: float
) -> ResourceEstimate:
    """Return what a run takes, given two rehearsals.

    Args:
        settings: of the run.
        dataset: that it trains on.
        measured: at a small batch and at a larger one.
        free_mb: memory that it may take, in MiB.
    """
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
    """Raise if a run will not fit, whatever its batch size.

    Raises:
        RunError: with what is missing.
    """
    if planned.proposed_batch_size is None:
        raise RunError(
            f"this run needs more memory than the {planned.free_mb:.0f} MiB that are free, even with one "
            "patch a batch: choose a smaller --size, or --set activation_checkpointing=true"
        )


def free_memory_mb() -> float:
    """Return the memory that a run may take here, in MiB: of the card, or of the machine."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0] / 2**20
    found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
    free = int(found[1]) / 2**10 if found else math.inf
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.is_file() and limit.read_text().strip().isdigit():
        free = min(free, (int(limit.read_text()) - int(used.read_text())) / 2**20)
    return free


def _line(measured: tuple[TrialRun, TrialRun], what: str) -> tuple[float, float]:
    """Return what does not grow with the batch, and by how much the rest grows a patch."""
    (x, y), (x2, y2) = ((one.batch, getattr(one, what)) for one in measured)
    slope = max((y2 - y) / (x2 - x), 0.0)
    return y2 - slope * x2, slope


def _unseen_mb(settings: RunSettings, dataset: Dataset, measured: TrialRun) -> float:
    """Return the memory of the prepared volumes that a rehearsal did not load, in MiB.

    Those on disk are mapped: the kernel takes their memory back when it is wanted. Workers keep their own.
    """
    if torch.cuda.is_available() or workers_for(settings) > 0 or settings.cache_disk_gb > 0:
        return 0.0
    sizes = [
        math.prod(volume.shape) * (_IMAGE_BYTES + (_LABEL_BYTES if volume.label else 0))
        for volume in _prepared(settings, dataset)
    ]
    seen = min(measured.batch * measured.batches / len(sizes), 1.0)
    kept = min(sum(sizes), settings.cache_gb * 1e9)
    return max(kept - seen * sum(sizes), 0.0) / 2**20


def _prepared(settings: RunSettings, dataset: Dataset) -> tuple[VolumeRecord, ...]:
    """Return about what a training prepares: all but the test. Of a fold's test only the number is alike."""
    if isinstance(settings, PretrainSettings) and settings.include_held_out:
        return dataset.volumes
    return tuple(volume for volume in dataset.volumes if volume.split != "test") or dataset.volumes
