"""`medmim bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medmim.cli.options import json_option, phases, print_result, sizes

if TYPE_CHECKING:
    from medmim.stages.bench.data_loading import LoaderBenchmark
    from medmim.stages.bench.methods import MethodTimes
    from medmim.stages.bench.packed_vs_masked import BenchmarkResult

_WORDS = ("encoder", "step", "masks")
_COLUMNS = {
    "     ms": "milliseconds",
    "×masked": "against_masked",
    "×dense": "against_dense",
    "×official": "against_official",
    "of limit": "share_of_limit",
    "peak MiB": "peak_mb",
    "of masked": "memory_against_masked",
}


@click.command(
    "bench",
    epilog="""\b
Examples:
  medmim bench                                  ResNet-50 on 8×3×224², ratios 0.5, 0.7 and 0.9
  medmim bench --dims 3 --ratio 0.7             DynUNet encoder on 2×64³
  medmim bench --data medmim-data --dims 3      patches a second, against MONAI's datasets
  medmim bench --part masks                     how long each mask takes to draw
  medmim bench --encoder convnext --size 128 --part encoder --precision fp32 --json
  medmim bench --methods                        every method beside a supervised step of its encoder""",
)
@click.option("--dims", type=click.IntRange(2, 3), default=2, show_default=True, help="2 or 3.")
@click.option("--encoder", help="Name or module:callable.  [default: resnet50 in 2D, dynunet in 3D]")
@click.option("--size", help="Voxels of an image, such as 224 or 64,64,32.  [default: 224, or 64 in 3D]")
@click.option("--cell", help="Mask cell in voxels.  [default: the encoder's total stride]")
@click.option("--batch-size", type=click.IntRange(min=1), help="Images.  [default: 8, or 2 in 3D]")
@click.option("--mask", help="What is hidden.  [default: mesh]")
@click.option("ratios", "--ratio", type=float, multiple=True, help="May be repeated.  [default: 0.5 0.7 0.9]")
@click.option(
    "precisions", "--precision", type=click.Choice(["fp32", "bf16"]), multiple=True, help="[default: both]"
)
@click.option("parts", "--part", type=click.Choice(_WORDS), multiple=True, help="[default: all]")
@click.option("--runs", type=click.IntRange(min=1), default=5, show_default=True, help="Of each variant.")
@click.option("--methods", is_flag=True, help="A step of every pretraining method instead.")
@click.option("--memory/--no-memory", default=True, help="Measure peak memory, in processes of their own.")
@click.option("--data", type=click.Path(path_type=Path), help="Time the loader on this dataset instead.")
@click.option("--workers", type=click.IntRange(min=0), default=2, show_default=True, help="With --data.")
@json_option
def command(
    *,
    as_json: bool,
    data: Path | None,
    dims: int,
    encoder: str | None,
    size: str | None,
    cell: str | None,
    batch_size: int | None,
    methods: bool,
    **given: Any,
) -> None:
    """Time packed, masked-dense and plain dense computing side by side: encoder, whole step, masks.

    With --data, time how fast patches of a dataset come, and how long a pretraining waits for them.
    """
    workers, mask = given.pop("workers"), given.pop("mask")
    if data is not None:
        _bench_data(data, dims, batch_size=batch_size, workers=workers, as_json=as_json)
        return
    space = sizes(size, word="--size") if size else None
    if methods:
        words = {"encoder": encoder, "size": space, "batch": batch_size, "mask": mask, "cell": cell, **given}
        _bench_methods(dims, words, as_json=as_json)
        return
    from medmim.stages.bench.packed_vs_masked import bench, default_setup

    setup = default_setup(
        dims,
        encoder,
        size=space,
        cell=sizes(cell, word="--cell") if cell else None,
        batch=batch_size,
        rule=mask,
    )
    chosen = {key: value for key, value in given.items() if value != ()}
    with phases() as progress:
        result = bench(setup, progress=progress, **chosen)
    print_result(result.as_json(), as_json=as_json, lines=bench_lines(result))


def _bench_data(data: Path, dims: int, *, batch_size: int | None, workers: int, as_json: bool) -> None:
    """Measure loaders on a dataset; a table of its own."""
    from medmim.stages.bench.data_loading import bench_data_loading

    fed = bench_data_loading(data, dims=3 if dims == 3 else 2, batch_size=batch_size or 4, workers=workers)
    print_result(fed.as_json(), as_json=as_json, lines=feeding_lines(fed))


def feeding_lines(fed: LoaderBenchmark) -> list[str]:
    """Return the table of loaders, for people."""
    size = "×".join(map(str, fed.size))
    return [
        f"patches of {size} from {fed.volumes} volumes, batches of {fed.batch_size}, {fed.workers} workers",
        "",
        "loader                     first pass/s  later/s",
        *(f"{row.name:<25}  {row.first:12.1f}  {row.later:7.1f}" for row in fed.rows),
        "",
        f"pretraining waits for data in {fed.wait_share:.1%} of its time ({fed.step_s:.2f} s a batch)",
    ]


def bench_lines(result: BenchmarkResult) -> list[str]:
    """Return the table, for people."""
    setup, machine = result.setup, result.machine
    space = "×".join(map(str, (setup.batch, setup.channels, *setup.size)))
    lines = [
        f"{setup.encoder} on {space}, cell {'×'.join(map(str, setup.cell))}, mask {setup.rule}; forward and "
        f"backward, median of {machine['runs']}",
        f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']}",
        *(
            ["", f"{'part':<7}  precision  ratio  {'variant':<8}  " + "  ".join(_COLUMNS)]
            if result.rows
            else []
        ),
    ]
    for row in result.rows:
        numbers = [getattr(row, name) for name in _COLUMNS.values()]
        cells = [
            f"{'–' if number is None else f'{number:.{0 if number >= 100 else 2}f}':>{len(title)}}"
            for title, number in zip(_COLUMNS, numbers, strict=True)
        ]
        words = f"{row.part:<7}  {row.precision:<9}  {row.realised_ratio:5.2f}  {row.variant:<8}  "
        lines.append(words + "  ".join(cells))
    lines += _mask_lines(result)
    if (machine["load_before"] or 0) > 1:
        lines += ["", "note: other processes were at work before the first run: repeat on a quiet machine"]
    return lines


def _mask_lines(result: BenchmarkResult) -> list[str]:
    """Return a line for each rule: time of 256 masks, and of a batch's masks relative to a step."""
    if not result.masks:
        return []
    grid = "×".join(map(str, result.masks[0].grid))
    lines = ["", f"{'mask':<9}  ms for 256 on {grid} cells  a batch's share of a packed step"]
    for row in result.masks:
        share = "–" if row.share_of_step is None else f"{row.share_of_step:.3%}"
        lines.append(f"{row.mask:<9}  {row.milliseconds:>{len(grid) + 21}.2f}  {share:>31}")
    return lines


def _bench_methods(dims: int, words: dict[str, Any], *, as_json: bool) -> None:
    """Measure every method; a table of its own, with one ratio and one precision."""
    from medmim.stages.bench.methods import bench_methods, default_trials

    ratios = words.pop("ratios")
    if len(ratios) > 1 or any(words.pop(word) for word in ("precisions", "parts", "cell")):
        raise click.UsageError("--methods: expected one --ratio or none, and no --precision, --part, --cell")
    trials = default_trials(
        dims,
        encoder=words["encoder"],
        size=words["size"],
        batch=words["batch"],
        rule=words["mask"] or "mesh",
        ratio=(*ratios, 0.7)[0],
    )
    with phases() as progress:
        result = bench_methods(trials, runs=words["runs"], memory=words["memory"], progress=progress)
    print_result(result.as_json(), as_json=as_json, lines=method_time_lines(result))


def method_time_lines(result: MethodTimes) -> list[str]:
    """Return the table of methods, for people."""
    trial, where = result.trials[0], result.machine
    space = "×".join(map(str, (trial.batch, 1, *trial.size)))
    lines = [
        f"a step on {space}, mask {trial.rule} {trial.ratio:g}; forward and backward, fp32, median of "
        f"{where['runs']}",
        f"{where['device']}, {where['threads']} threads, torch {where['torch']}",
        "",
        f"{'method':<13} {'encoder':<9}      ms  supervised ms  ×supervised  peak MiB  supervised MiB"
        "  million trained  GFLOP an image  encoder",
    ]
    for row in result.rows:
        peaks = (row.peak_mb, row.supervised_peak_mb)
        memory = [f"{'–' if peak is None else f'{peak:.0f}':>8}" for peak in peaks]
        lines.append(
            f"{row.method:<13} {row.encoder:<9} {row.milliseconds:7.1f}  {row.supervised_milliseconds:13.1f}"
            f"  {row.against_supervised:11.2f}  {memory[0]}        {memory[1]}"
            f"  {row.parameters / 1e6:15.2f}  {row.gflop:14.2f}  {row.encoder_gflop:7.2f}"
        )
    return lines
