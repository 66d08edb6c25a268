"""Patches per second of medmim's loader and of MONAI's datasets, and the share of a step spent waiting.

python tests/benchmarks/data_loading.py medmim-data [--dims 3] [--batch-size 4] [--workers 2]

All loaders yield the same patches of the same preprocessed volumes and differ in where these are cached. The
first pass preprocesses the volumes, later passes read the cache.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
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
    """Patches per second of one loader, during the first pass and afterwards."""

    name: str
    first: float
    later: float


@dataclass(frozen=True)
class LoaderBenchmark:
    """All loaders, and the share of a training step that waits for data once all volumes are cached."""

    dims: int
    size: tuple[int, ...]
    volumes: int
    batch_size: int
    workers: int
    rows: tuple[LoaderTiming, ...]
    wait_share: float
    step_s: float


def bench_data_loading(data: Path, *, dims: Literal[2, 3], batch_size: int, workers: int) -> LoaderBenchmark:
    """Measure loaders, and the waiting time of the default pretraining."""
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
            # MONAI rejects its own cache files with `weights_only=True`; the folder is private to this call
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
    """Time building a loader and its first pass, then further passes."""
    start = time.perf_counter()
    loader = build()
    first = _pass(loader) / (time.perf_counter() - start)
    start, patches = time.perf_counter(), 0
    while patches < _LEAST_PATCHES:
        patches += _pass(loader)
    return LoaderTiming(name, first, patches / (time.perf_counter() - start))


def _pass(loader: Loader) -> int:
    return sum(len(batch["image"]) for batch in loader)


def _monai(data: Path, plan: PreprocessingPlan) -> Compose:
    """Return preprocessing and random patch as one chain; MONAI caches up to the first random step."""

    def prepared(volume: VolumeRecord) -> dict[str, Any]:
        made = preprocess(data, volume, plan)
        return {"image": made.image, "slice_axis": made.slice_axis}

    return Compose([prepared, *pretraining_patches(plan).transforms, lambda patch: {"image": patch["image"]}])


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--dims", type=click.IntRange(2, 3), default=3)
@click.option("--batch-size", type=int, default=4)
@click.option("--workers", type=int, default=2)
def main(data: Path, dims: Literal[2, 3], batch_size: int, workers: int) -> None:
    """Print one line per loader, and the share of waiting."""
    result = bench_data_loading(data, dims=dims, batch_size=batch_size, workers=workers)
    size = "×".join(map(str, result.size))
    sys.stdout.write(f"patches of {size} from {result.volumes} volumes, batches of {result.batch_size}\n")
    sys.stdout.write("loader                     first pass/s  later/s\n")
    for row in result.rows:
        sys.stdout.write(f"{row.name:<25}  {row.first:12.1f}  {row.later:7.1f}\n")
    sys.stdout.write(f"waiting for data: {result.wait_share:.1%} of {result.step_s:.2f} s per batch\n")


if __name__ == "__main__":
    main()
