"""What `medmim bench --data` measures: patches a second from medmim's loader and MONAI's, and waiting.

All take the same patches of the same prepared volumes: what differs is where prepared volumes are kept. The
first pass prepares them, the second finds them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from monai.data.dataset import CacheDataset, PersistentDataset
from monai.transforms.compose import Compose
from torch.utils.data import DataLoader

from medmim.config.runs import PretrainSettings
from medmim.data.dataset.manifest import VolumeRecord, read_dataset
from medmim.data.loading.disk_cache import DiskCache
from medmim.data.loading.patches import PatchDataset, SampleRange, batches, pretraining_patches
from medmim.data.loading.preprocess import VolumeLoader, preprocess
from medmim.data.loading.preprocessing_plan import PreprocessingPlan, plan_for
from medmim.stages.plan.trial_run import run_trial

_LEAST_PATCHES = 128
_TIMED_BATCHES = 32
Loader = Iterable[Mapping[str, Any]]


@dataclass(frozen=True)
class LoaderTiming:
    """One line of the table.

    Attributes:
        name: whose loader.
        first: patches a second while volumes are prepared, the making of the loader included.
        later: patches a second once they are.
    """

    name: str
    first: float
    later: float


@dataclass(frozen=True)
class LoaderBenchmark:
    """The table, and the share of a training step that waits for data once all volumes are prepared."""

    dims: int
    size: tuple[int, ...]
    volumes: int
    batch_size: int
    workers: int
    rows: tuple[LoaderTiming, ...]
    wait_share: float
    step_s: float

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return asdict(self)


def bench_data_loading(data: Path, *, dims: Literal[2, 3], batch_size: int, workers: int) -> LoaderBenchmark:
    """Measure how fast patches come, and how long the default pretraining waits for them.

    Args:
        data: dataset folder.
        dims: 2 or 3.
        batch_size: patches a batch.
        workers: processes that prepare them.

    Raises:
        DataError: if the folder is no dataset.
    """
    dataset = read_dataset(data)
    volumes = dataset.in_split("train") or dataset.volumes
    plan = plan_for(volumes, dims=dims, size=None)
    settings = PretrainSettings(data=data, dims=dims, workers=workers)
    first = -(-len(volumes) // batch_size)  # batches of a first pass, in which volumes are prepared
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        words: dict[str, Any] = {"batch_size": batch_size, "num_workers": workers}
        words |= {"persistent_workers": workers > 0}
        chain, kept = _monai(data, plan), place / "monai"
        loaders: dict[str, Callable[[], Loader]] = {
            "medmim": lambda: batches(
                _ours(data, plan, volumes, place / "prepared"),
                SampleRange(first * batch_size),
                batch_size=batch_size,
                workers=workers,
            ),
            "MONAI CacheDataset": lambda: DataLoader(CacheDataset(volumes, chain, progress=False), **words),
            # it takes its own files for corrupt under `weights_only`; they lie in a folder of this call alone
            "MONAI PersistentDataset": lambda: DataLoader(
                PersistentDataset(volumes, chain, kept, weights_only=False), **words
            ),
        }
        rows = tuple(_measure(name, build) for name, build in loaders.items())
        measured = run_trial(
            settings,
            batch=batch_size,
            home=place / "home",
            workers=workers,
            batches=first + _TIMED_BATCHES + 1,
            unmeasured=first,
        )
    share, step_s = measured.wait_share, measured.batch_s
    return LoaderBenchmark(plan.dims, plan.size, len(volumes), batch_size, workers, rows, share, step_s)


def _ours(
    data: Path, plan: PreprocessingPlan, volumes: tuple[VolumeRecord, ...], place: Path
) -> PatchDataset:
    prepared = VolumeLoader(data, plan, cache_gb=4.0, disk=DiskCache(place, limit_gb=20.0))
    return PatchDataset(volumes, prepared, pretraining_patches(plan), labelled=False, seed=0)


def _measure(name: str, build: Callable[[], Loader]) -> LoaderTiming:
    """Time the making of a loader with its first pass, and then as many passes as it takes."""
    start = time.perf_counter()
    loader = build()
    first = _pass(loader) / (time.perf_counter() - start)
    start, patches = time.perf_counter(), 0
    while patches < _LEAST_PATCHES:
        patches += _pass(loader)
    return LoaderTiming(name, first, patches / (time.perf_counter() - start))


def _pass(loader: Loader) -> int:
    """Take all patches once and return how many they were."""
    return sum(len(batch["image"]) for batch in loader)


def _monai(data: Path, plan: PreprocessingPlan) -> Compose:
    """Return the same preparation and random patch as one chain; MONAI cuts it where chance begins."""

    def prepared(volume: VolumeRecord) -> dict[str, Any]:
        made = preprocess(data, volume, plan)
        return {"image": made.image, "slice_axis": made.slice_axis}

    return Compose([prepared, *pretraining_patches(plan).transforms, lambda patch: {"image": patch["image"]}])
