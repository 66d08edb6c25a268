"""`medmim bench`: packed cells beside masked-dense and plain dense computing, timed in alternating runs.

A run is one forward and one backward. `encoder` is the encoder alone; `step` a whole SparK step, with the
default decoder, and once more as the official code does it: masked-dense, its own decoder of width 768. Peak
memory is the growth of a fresh process from before its first run to the highest point of it. `masks` times
how long the masks of a step take to draw.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any

import torch

from medmim import __version__
from medmim.masks import hidden_count
from medmim.shapes import Size, as_size, grid_of
from medmim.stages.bench.mask_drawing import MaskRow, mask_times
from medmim.stages.bench.workload import Setup, materials, peak_memory, workload
from medmim.stages.pretrain.run import DEFAULT_ENCODER

RATIOS = (0.5, 0.7, 0.9)
PARTS = ("encoder", "step", "masks")
PRECISIONS = ("fp32", "bf16")
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class BenchmarkRow:
    """One line of the table.

    Attributes:
        part, precision, ratio, realised_ratio, variant: what was measured.
        milliseconds: median of one forward and backward.
        against_masked, against_dense: how many times as fast as they are.
        against_official: of a step, how many times as fast as SparK's own: masked-dense, decoder width 768.
        share_of_limit: speed-up over the dense network relative to 1 / (1 − realised ratio).
        peak_mb: growth of a fresh process in MiB (on a GPU: memory that PyTorch allocated).
        memory_against_masked: relative to the masked variant.
    """

    part: str
    precision: str
    ratio: float
    realised_ratio: float
    variant: str
    milliseconds: float
    against_masked: float
    against_dense: float
    against_official: float | None
    share_of_limit: float
    peak_mb: float | None
    memory_against_masked: float | None


@dataclass(frozen=True)
class BenchmarkResult:
    """The table, what was measured and where."""

    setup: Setup
    machine: dict[str, Any]
    rows: tuple[BenchmarkRow, ...]
    masks: tuple[MaskRow, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "setup": {k: v for k, v in asdict(self.setup).items() if k not in ("ratio", "precision", "part")},
            "machine": self.machine,
            "rows": [asdict(row) for row in self.rows],
            "masks": [asdict(row) for row in self.masks],
        }


def default_setup(
    dims: int,
    encoder: str | None = None,
    *,
    size: Size | None = None,
    cell: Size | None = None,
    batch: int | None = None,
    rule: str | None = None,
) -> Setup:
    """Return what is measured where nothing is said: ResNet-50 on 8×3×224², or DynUNet on 2×1×64³.

    Args:
        dims: 2 or 3.
        encoder: name in the table of encoders, or module:callable.
        size: voxels of an image, one number or one an axis.
        cell: mask cell in voxels, one number or one an axis.
        batch: samples.
        rule: name in the table of masks.
    """
    name = encoder or ("resnet50" if dims == 2 else DEFAULT_ENCODER[3])
    usual_batch, channels, usual_size = (8, 3, 224) if dims == 2 else (2, 1, 64)
    return Setup(
        dims,
        name,
        {"max_pool": True} if name.startswith("resnet") else {},  # the total stride of ImageNet
        batch=batch or usual_batch,
        channels=channels,
        size=as_size(size or usual_size, dims, what="--size"),
        cell=as_size(cell, dims, what="--cell") if cell else (),
        rule=rule or "mesh",
    )


def bench(
    setup: Setup,
    *,
    ratios: Sequence[float] = RATIOS,
    precisions: Sequence[str] = PRECISIONS,
    parts: Sequence[str] = PARTS,
    runs: int = 5,
    memory: bool = True,
    progress: Progress | None = None,
) -> BenchmarkResult:
    """Measure every combination.

    Args:
        setup: sizes; its ratio, precision and part are replaced.
        ratios: shares of cells to hide.
        precisions: fp32, bf16.
        parts: encoder, step, and masks: how long each rule takes to draw.
        runs: of each variant, alternating.
        memory: whether peak memory is measured too, in a process for each.
        progress: called with (phase, done, total).

    Raises:
        ShapeError: for a size that cells do not divide.
        UsageError: for an unknown encoder or option.
    """
    encoder, _, _ = materials(setup)
    setup = replace(setup, cell=setup.cell or encoder.total_stride)
    load = _load()
    cases = [
        replace(setup, part=part, precision=precision, ratio=ratio)
        for part in parts
        if part != "masks"
        for precision in precisions
        for ratio in ratios
    ]
    rows: list[BenchmarkRow] = []
    peaks: dict[tuple[str, str, str], float] = {}
    for number, case in enumerate(cases):
        if progress:
            progress(f"{case.part} {case.precision} {case.ratio:g}", number, len(cases))
        rows += _rows(case, _times(case, runs), _peaks(case, peaks) if memory else {})
    drawn = _masks(setup, rows, runs) if "masks" in parts else ()
    where = {**machine(), "runs": runs, "load_before": load, "load_after": _load()}
    return BenchmarkResult(setup, where, tuple(rows), drawn)


def _masks(setup: Setup, rows: Sequence[BenchmarkRow], runs: int) -> tuple[MaskRow, ...]:
    """Time drawing at the step's ratio nearest to 0.7, the default, or at that."""
    steps = [row for row in rows if (row.part, row.precision, row.variant) == ("step", "fp32", "packed")]
    step = min(steps, key=lambda row: abs(row.ratio - 0.7), default=None)
    return mask_times(
        setup.dims,
        ratio=step.ratio if step else 0.7,
        runs=runs,
        batch=setup.batch,
        step_ms=step.milliseconds if step else None,
    )


def _variants(case: Setup) -> tuple[str, ...]:
    """Return what stands beside packed cells; the official decoder is one for pictures."""
    official = ("official",) if case.part == "step" and case.dims == 2 else ()
    return ("packed", "masked", *official, "dense")


def _times(case: Setup, runs: int) -> dict[str, float]:
    """Return the median milliseconds of each variant, run in turn so that all meet the same disturbances."""
    work = {variant: workload(case, variant) for variant in _variants(case)}
    measured: dict[str, list[float]] = {variant: [] for variant in work}
    for run in work.values():  # the first run compiles kernels and fills caches
        run()
    for _ in range(runs):
        for variant, run in work.items():
            start = time.perf_counter()
            run()
            measured[variant].append(1000 * (time.perf_counter() - start))
    return {variant: statistics.median(times) for variant, times in measured.items()}


def _peaks(case: Setup, known: dict[tuple[str, str, str], float]) -> dict[str, float]:
    """Return the peak memory of each variant; only that of packed cells depends on the ratio."""
    found = {}
    for variant in _variants(case):
        key = (case.part, case.precision, variant)
        if variant == "packed":
            found[variant] = peak_memory(case, variant)
            continue
        if key not in known:
            known[key] = peak_memory(case, variant)
        found[variant] = known[key]
    return found


def _rows(case: Setup, times: Mapping[str, float], peaks: Mapping[str, float]) -> list[BenchmarkRow]:
    cells = prod(grid_of(case.size, case.cell))
    realised = hidden_count(cells, case.ratio) / cells
    return [
        BenchmarkRow(
            part=case.part,
            precision=case.precision,
            ratio=case.ratio,
            realised_ratio=realised,
            variant=variant,
            milliseconds=taken,
            against_masked=times["masked"] / taken,
            against_dense=times["dense"] / taken,
            against_official=times["official"] / taken if "official" in times else None,
            share_of_limit=times["dense"] / taken * (1 - realised),
            peak_mb=peaks.get(variant),
            memory_against_masked=peaks[variant] / peaks["masked"] if peaks else None,
        )
        for variant, taken in times.items()
    ]


def machine() -> dict[str, Any]:
    """Return where and with what is measured."""
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "medmim": __version__,
    }


def _load() -> float | None:
    """Return how many processes wanted a core over the last minute: a busy machine gives bad figures."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None
