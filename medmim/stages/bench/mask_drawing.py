"""How long masks take to draw, which happens on the processor before every training step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from medmim.masks import MASKS, build_mask
from medmim.randomness import torch_stream
from medmim.shapes import Size

DRAWN = 256
GRIDS: dict[int, Size] = {2: (14, 14), 3: (12, 12, 12)}


@dataclass(frozen=True)
class MaskRow:
    """One rule.

    Attributes:
        mask: name in the table of masks.
        grid: cells along each axis.
        ratio: share of cells that is hidden.
        milliseconds: median time of drawing 256 masks at once.
        share_of_step: time of drawing the masks of one batch relative to a step with packed cells at that
            ratio in fp32; None where no step was timed.
    """

    mask: str
    grid: Size
    ratio: float
    milliseconds: float
    share_of_step: float | None


def mask_times(
    dims: int, *, ratio: float, runs: int, batch: int, step_ms: float | None
) -> tuple[MaskRow, ...]:
    """Time every rule of the table.

    Args:
        dims: 2 or 3.
        ratio: share of cells to hide.
        runs: of each rule.
        batch: samples of the step.
        step_ms: how long that step takes.
    """
    grid, rows = GRIDS[dims], []
    weight = torch.rand(DRAWN, *grid, generator=torch_stream(0, "bench tissue"))
    for name in sorted(MASKS):
        rule, generator = build_mask(name, ratio=ratio), torch_stream(0, "bench drawing")
        taken = _median_ms(partial(rule.sample, DRAWN, grid, generator=generator, weight=weight), runs)
        share = None if step_ms is None else taken * batch / DRAWN / step_ms
        rows.append(MaskRow(name, grid, ratio, taken, share))
    return tuple(rows)


def _median_ms(work: Callable[[], object], runs: int) -> float:
    work()  # the first run fills caches
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)
