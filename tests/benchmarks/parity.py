"""Parity with the official codes: one row for each line that was brought closer to them.

    python -m tests.benchmarks.parity --out docs/results/parity.csv

The references are written from the formulas in float64 (`tests/helpers/official_masks.py`,
`official_optimizers.py`, `naive_spark.py`, `naive_transformers.py`). `before` repeats what was reported of
the version before the mend; every other number is computed. Further rows: `parity_of_methods.py`,
`parity_of_packed.py`.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import random
import sys
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import torch
from scipy import stats

sys.path.insert(0, str(Path(__file__).parent.parent / "helpers"))
sys.path.insert(0, str(Path(__file__).parent))

import official_masks as official
from parity_rows import Row

from medmim.data.loading.transforms import RandomResizedCrop
from medmim.masks import build_mask, hidden_count
from medmim.masks.statistics import density_variance
from medmim.methods.two_branch_encoder import stitch

GRIDS = ((7, 7), (14, 14), (14, 10), (12, 10, 8))
RATIOS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9)


def drawn(name, grid, ratio, *, batch, seed=0, **options):
    """Return a batch of masks."""
    generator = torch.Generator().manual_seed(seed)
    return build_mask(name, ratio=ratio, **options).sample(batch, grid, generator=generator)


def mesh_rows(draws=1000, samples=64, grids=GRIDS):
    """Return the variety of `mesh`, and its evenness against a pattern drawn anew by void-and-cluster."""
    before = {0.5: "2 distinct masks", 0.75: "4 distinct masks"}
    for ratio, words in before.items():
        masks = {tuple(row) for row in drawn("mesh", (14, 14), ratio, batch=draws).flatten(1).tolist()}
        what = f"distinct masks of {draws} draws, 14×14, ratio {ratio}"
        yield Row("mesh", what, "no formula is published", words, len(masks), f"≥{0.8 * draws:g}")
    even, rival = (
        density_variance(drawn(name, (14, 14), 0.75, batch=samples)) for name in ("mesh", "random")
    )
    what = "variance of hidden shares over that of random masks, 14×14, ratio 0.75"
    yield Row("mesh", what, "random masks", "0.0147 / 0.0198", even / rival, "≤0.5")
    rng = np.random.default_rng(0)
    for grid in grids:
        found = []
        for ratio in RATIOS:
            count = hidden_count(math.prod(grid), ratio)
            fewer = samples if len(grid) == 2 else max(samples // 16, 1)
            own = np.stack([official.void_and_cluster(grid, count, rng) for _ in range(fewer)])
            ours = density_variance(drawn("mesh", grid, ratio, batch=samples))
            found.append(ours / density_variance(torch.from_numpy(own)))
        what = f"variance of hidden shares over the reference's, largest of ratios 0.3 to 0.9, {_times(grid)}"
        yield Row("mesh", what, "Ulichney 1993, each mask from a random start", "–", max(found), "≤1.3")


def block_rows(samples=2000):
    """Return the statistics of `block` against BEiT's algorithm, and the largest differences elsewhere."""
    before = ("2.4 against 1.3", "0.34 against 0.19", "0.22 against 0.04")
    names = ("components", "share of hidden edge cells", "share of hidden corner cells")
    found = _block_differences((14, 14), 75 / 196, samples)
    for name, words, value in zip(names, before, found, strict=True):
        what = f"{name}, difference, 14×14, 75 of 196 cells"
        yield Row("block", what, "BEiT, algorithm 1 and code", words, value, "≤0.05")
    for ratios, bound in ((RATIOS[:-2], "≤0.06"), (RATIOS[-1:], "")):
        worst = [_block_differences(grid, ratio, samples // 2) for grid in GRIDS[:3] for ratio in ratios]
        words = f"ratio {ratios[0]:g}" + (
            f" to {ratios[-1]:g}" if len(ratios) > 1 else ", where BEiT stops short"
        )
        what = f"largest difference of the three, 7×7, 14×14 and 14×10, {words}"
        yield Row("block", what, "BEiT, algorithm 1 and code", "–", float(np.max(worst)), bound)


def _block_differences(grid, ratio, samples):
    """Return the absolute differences of the three statistics."""
    cells, source = math.prod(grid), random.Random(0)
    count, least = hidden_count(cells, ratio), max(1, round(cells * 16 / 196))
    theirs = np.stack([official.beit_mask(source, count, grid, least) for _ in range(samples)])
    ours = drawn("block", grid, ratio, batch=samples).numpy()
    return np.abs(official.block_statistics(ours) - official.block_statistics(theirs)).tolist()


def reuse_rows(samples=60):
    """Return the share of masks whose windows stay windows in MaskAnyNet's reuse image."""
    before = {
        ("patch", 2): "49 % on 7×7",
        ("patch", 3): "5–6 %",
        ("grid", 2): "11 % on 7×7",
        ("grid", 3): "none",
    }
    grids = {2: ((7, 7), (14, 14), (12, 10)), 3: ((6, 6, 6), (12, 10, 8))}
    for (rule, dims), words in before.items():
        for ratio, bound in ((0.25, "≥1"), (0.5, "≥1"), (0.75, "≥1" if rule == "patch" else "")):
            share = np.mean(
                [_kept(rule, grid, ratio, seed) for grid in grids[dims] for seed in range(samples)]
            )
            what = (
                f"share of `{rule}` masks whose hidden neighbours all stay neighbours, {dims}D, ratio {ratio}"
            )
            quoted = words if ratio == 0.25 else "–"
            yield Row(
                "reuse image of MaskAnyNet", what, "neighbours in the image", quoted, float(share), bound
            )


def _kept(rule, grid, ratio, seed):
    hidden = drawn(rule, grid, ratio, batch=1, seed=seed)
    numbers = torch.arange(1.0, hidden.numel() + 1).reshape(1, 1, *grid)
    reuse = stitch(numbers, hidden, (1,) * len(grid))[0, 0]
    pairs, kept = official.neighbours_kept(hidden[0].numpy(), reuse.numpy())
    return pairs == kept


def count_rows(most=2000):
    """Return for how many numbers of cells and ratios the hidden count differs from the paper's rule."""
    ratios = [number / 100 for number in range(5, 100, 5)]
    pairs = [(cells, ratio) for cells in range(2, most + 1) for ratio in ratios]
    rules = {
        "MAE": ("up", official.hidden_by_mae, "floor(n · (1 − ratio)) visible"),
        "SimMIM": ("up", official.hidden_by_simmim, "ceil(n · ratio) hidden"),
        "SparK": ("nearest", official.hidden_by_spark, "round(n · (1 − ratio)) visible"),
    }
    for name, (rounding, rule, words) in rules.items():
        inside = [(cells, ratio) for cells, ratio in pairs if 1 <= rule(cells, ratio) < cells]
        wrong = [pair for pair in inside if hidden_count(*pair, rounding) != rule(*pair)]
        if name == "SparK":  # halves are rounded to even there and up here
            wrong = [(cells, ratio) for cells, ratio in wrong if round(cells * ratio, 9) % 1 != 0.5]
        what = f"hidden counts that differ, of {len(inside)} numbers of cells and ratios"
        yield Row(f"count of {name}", what, words, "nearest for all", len(wrong), "≤0")
    noise = sum(
        int(cells * (1 - ratio)) != cells - official.hidden_by_mae(cells, ratio) for cells, ratio in pairs
    )
    what = f"visible counts of MAE's float expression that differ from its formula, of {len(pairs)}"
    yield Row("count of MAE", what, "int(n * (1 - ratio)) in floats", "–", noise)


def crop_rows(draws=4000, longest=300):
    """Return the distance of the distributions of boxes, and the boxes of images where none fits."""
    limit = 1.95 * math.sqrt(2 / draws)  # of the Kolmogorov–Smirnov distance at 0.1 %
    for scale in ((0.67, 1.0), (0.2, 1.0)):
        far = 0.0
        for space in ((30, 50), (64, 200), (128, 96), (224, 224)):
            transform, source = RandomResizedCrop((16, 16), scale=scale), random.Random(1)
            transform.set_random_state(seed=0)
            ours = [transform.randomize(space)[1] for _ in range(draws)]
            theirs = [
                official.resized_box(source, space, scale) or official.centred_box(space)
                for _ in range(draws)
            ]
            for measure in (lambda box: box[0], lambda box: box[1], lambda box: box[0] / box[1]):
                sides = ([measure(box) for box in boxes] for boxes in (ours, theirs))
                far = max(far, float(stats.ks_2samp(*sides).statistic))
        what = f"largest distance of distributions of height, width and aspect, scale {scale[0]:g} to 1"
        yield Row("RandomResizedCrop", what, "torchvision", "25 % squeezed", far, f"≤{limit:.4f}")
    never = RandomResizedCrop((16, 16), scale=(4.0, 5.0))  # no box fits, so that the centre is cropped
    spaces = [(height, width) for height in range(3, longest, 3) for width in range(3, longest, 3)]
    wrong = sum(never.randomize(space)[1] != official.centred_box(space) for space in spaces)
    what = f"boxes that differ where none fits, of {len(spaces)} sizes of images"
    yield Row("RandomResizedCrop", what, "torchvision", "–", wrong, "≤0")


def _times(sizes):
    return "×".join(map(str, sizes))


def write(rows, path):
    """Write the table."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, [*(field.name for field in fields(Row)), "met"], lineterminator="\n")
        table.writeheader()
        for row in rows:
            table.writerow({**asdict(row), "now": f"{row.now:.4g}", "met": row.met})


def main():
    """Compute every row, print those out of bounds, and write the table."""
    from parity_of_methods import method_rows
    from parity_of_packed import compile_rows, packed_rows, refusal_rows

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results/parity.csv"))
    out = parser.parse_args().out
    parts = (mesh_rows(), block_rows(), reuse_rows(), count_rows(), crop_rows(), method_rows())
    parts += (packed_rows(), refusal_rows(), compile_rows())
    rows = [row for part in parts for row in part]
    write(rows, out)
    for row in rows:
        if not row.met:
            print(json.dumps(asdict(row), ensure_ascii=False))  # noqa: T201


if __name__ == "__main__":
    main()
