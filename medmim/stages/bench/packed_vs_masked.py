"""`medmim bench`: time and memory of packed, masked-dense and plain dense computing.

A run is one forward and one backward pass; variants alternate. `encoder` is the encoder alone; `step` is a
whole SparK step with the default decoder, and also as in the official code: masked-dense with a decoder of
width 768. Peak memory is the growth of a fresh process during its first run.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import prod
from typing import Any

import torch

from medmim import __version__
from medmim.masks import hidden_count
from medmim.shapes import Size, as_size, grid_of
from medmim.stages.bench.workload import Setup, materials, peak_of, workload
from medmim.stages.pretrain.setup import DEFAULT_ENCODER

RATIOS = (0.5, 0.7, 0.9)
PARTS = ("encoder", "step")
PRECISIONS = ("fp32", "bf16")
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class BenchmarkRow:
    """Time and memory of one variant.

    Attributes:
        part, precision, ratio, realised_ratio, variant: what was measured.
        milliseconds: median time of one forward and backward pass.
        against_masked, against_dense, against_official: speed-up over that variant; official (steps only) is
            masked-dense with SparK's decoder of width 768.
        share_of_limit: speed-up over the dense network relative to 1 / (1 − realised ratio).
        peak_mb: growth of a fresh process in MiB (on a GPU: memory allocated by PyTorch).
        memory_against_masked: peak memory relative to the masked variant.
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
    """Results, with the setup and the machine."""

    setup: Setup
    machine: dict[str, Any]
    rows: tuple[BenchmarkRow, ...]

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "setup": {k: v for k, v in asdict(self.setup).items() if k not in ("ratio", "precision", "part")},
            "machine": self.machine,
            "rows": [asdict(row) for row in self.rows],
        }


def default_setup(
    dims: int,
    encoder: str | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    size: Size | None = None,
    cell: Size | None = None,
    batch: int | None = None,
    mask: str | None = None,
) -> Setup:
    """Return a setup with defaults: ResNet-50 on 8×3×224², or DynUNet on 2×1×64³."""
    name = encoder or ("resnet50" if dims == 2 else DEFAULT_ENCODER[3])
    usual_batch, channels, usual_size = (8, 3, 224) if dims == 2 else (2, 1, 64)
    return Setup(
        dims,
        name,
        # max pooling as in ResNets for ImageNet: total stride 32
        {**({"max_pool": True} if name.startswith("resnet") else {}), **(options or {})},
        batch=batch or usual_batch,
        channels=channels,
        size=as_size(size or usual_size, dims, what="--size"),
        cell=as_size(cell, dims, what="--cell") if cell else (),
        mask=mask or "mesh",
    )


def bench(
    setup: Setup,
    *,
    ratios: Sequence[float] = RATIOS,
    precisions: Sequence[str] = PRECISIONS,
    parts: Sequence[str] = PARTS,
    runs: int = 5,
    memory: bool = True,
    time_source: str = "wall",
    progress: Progress | None = None,
) -> BenchmarkResult:
    """Measure every combination of part, precision and ratio.

    Args:
        time_source: a key of `CLOCKS`; processor time (all threads) suits a CPU that others use too.
    """
    encoder, _, _ = materials(setup)
    setup = replace(setup, cell=setup.cell or encoder.total_stride)
    load = _load()
    cases = [
        replace(setup, part=part, precision=precision, ratio=ratio)
        for part in parts
        for precision in precisions
        for ratio in ratios
    ]
    rows: list[BenchmarkRow] = []
    peaks: dict[tuple[str, str, str], float] = {}
    for number, case in enumerate(cases):
        if progress:
            progress(f"{case.part} {case.precision} {case.ratio:g}", number, len(cases))
        rows += _rows(case, _times(case, runs, CLOCKS[time_source]), _peaks(case, peaks) if memory else {})
    where = {
        **machine(),
        "runs": runs,
        "time_source": time_source,
        "load_before": load,
        "load_after": _load(),
    }
    return BenchmarkResult(setup, where, tuple(rows))


def _variants(case: Setup) -> tuple[str, ...]:
    """Return the variants to compare; the official decoder is two-dimensional."""
    official = ("official",) if case.part == "step" and case.dims == 2 else ()
    return ("packed", "masked", *official, "dense")


def _times(case: Setup, runs: int, clock: Callable[[], float]) -> dict[str, float]:
    """Return the median milliseconds of each variant; variants alternate, so load affects all alike."""
    work = {variant: workload(case, variant) for variant in _variants(case)}
    measured: dict[str, list[float]] = {variant: [] for variant in work}
    for run in work.values():  # the first run compiles kernels and fills caches
        run()
    for _ in range(runs):
        for variant, run in work.items():
            start = clock()
            run()
            measured[variant].append(1000 * (clock() - start))
    return {variant: statistics.median(times) for variant, times in measured.items()}


def _peaks(case: Setup, known: dict[tuple[str, str, str], float]) -> dict[str, float]:
    """Return the peak memory of each variant; only that of packed computing depends on the ratio."""
    found = {}
    for variant in _variants(case):
        key = (case.part, case.precision, variant)
        if variant == "packed":
            found[variant] = peak_of(partial(workload, case, variant))
            continue
        if key not in known:
            known[key] = peak_of(partial(workload, case, variant))
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
    """Describe the machine and the versions."""
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "medmim": __version__,
    }


def _load() -> float | None:
    """Return the load average of the last minute."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None
