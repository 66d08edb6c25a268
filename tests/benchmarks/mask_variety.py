"""Evenness, variety and drawing time of each mask at ratios of 0.3 to 0.9, in 2D and 3D.

python -m tests.benchmarks.mask_variety [--mask MODULE:CALLABLE] [--out docs/results/mask_variety.csv]
"""

from __future__ import annotations

import csv
from pathlib import Path

import click

from medmim.config.own_code import trust
from medmim.masks import MASKS, build_mask
from medmim.masks.statistics import density_variance, distances_to_visible, mask_variety
from medmim.randomness import torch_stream

GRIDS = {2: (14, 14), 3: (8, 8, 8)}
RATIOS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9)
_SAMPLES = 64  # whose evenness is measured


def measured(name, dims, ratio):
    """Return the row of one mask at one ratio."""
    mask, grid = build_mask(name, ratio=ratio), GRIDS[dims]
    hidden = mask.sample(_SAMPLES, grid, generator=torch_stream(0, "mask evenness"))
    variety = mask_variety(mask, grid, seed=0)
    return {
        "mask": name,
        "grid": "×".join(map(str, grid)),
        "ratio": ratio,
        "density_variance": round(density_variance(hidden), 5),
        "distance_to_visible": round(distances_to_visible(hidden)[0], 3),
        "distinct": variety.num_distinct,
        "drawn": variety.num_draws,
        "draw_ms": variety.draw_ms,
    }


@click.command()
@click.option("--mask", "masks", multiple=True, help="Of the table, or module:callable.  [default: all]")
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/results/mask_variety.csv"))
def main(masks, out):
    """Write one row for each mask, ratio and number of axes."""
    trust([name for name in masks if ":" in name])
    rows = [
        measured(name, dims, ratio) for name in masks or sorted(MASKS) for dims in GRIDS for ratio in RATIOS
    ]
    with out.open("w", newline="") as stream:
        table = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    main()
