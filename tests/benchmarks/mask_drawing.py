"""How long each mask takes to draw, which happens on the CPU before every training step.

python tests/benchmarks/mask_drawing.py [--dims 3] [--ratio 0.7] [--runs 5]
"""

import statistics
import sys
import time
from functools import partial

import click
import torch

from medmim.masks import MASKS, build_mask
from medmim.randomness import torch_stream

DRAWN = 256
GRIDS = {2: (14, 14), 3: (12, 12, 12)}


def mask_times(dims, *, ratio, runs):
    """Return the median milliseconds of drawing 256 samples of each mask: name → time."""
    grid = GRIDS[dims]
    weight = torch.rand(DRAWN, *grid, generator=torch_stream(0, "bench tissue"))
    times = {}
    for name in sorted(MASKS):
        mask, generator = build_mask(name, ratio=ratio), torch_stream(0, "bench drawing")
        times[name] = _median_ms(partial(mask.sample, DRAWN, grid, generator=generator, weight=weight), runs)
    return times


def _median_ms(work, runs):
    work()  # fills caches
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


@click.command()
@click.option("--dims", type=click.IntRange(2, 3), default=2)
@click.option("--ratio", type=float, default=0.7)
@click.option("--runs", type=int, default=5)
def main(dims, ratio, runs):
    """Print one line per mask."""
    sys.stdout.write(f"mask       ms for {DRAWN} masks of {'×'.join(map(str, GRIDS[dims]))} cells\n")
    for name, milliseconds in mask_times(dims, ratio=ratio, runs=runs).items():
        sys.stdout.write(f"{name:<9}  {milliseconds:.2f}\n")


if __name__ == "__main__":
    main()
