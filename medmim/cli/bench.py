"""`medmim bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from medmim.cli.options import json_option, print_result, sizes
from medmim.cli.progress import phases
from medmim.errors import counted, size_text

if TYPE_CHECKING:
    from medmim.stages.bench.packed_vs_masked import BenchmarkResult

_PARTS = ("encoder", "step")
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
  medmim bench --dims 3 --encoder resenc --encoder-options '{size: L}' --ratio 0.75
  medmim bench --encoder convnext --size 128 --part encoder --precision fp32 --json""",
)
@click.option("--dims", type=click.IntRange(2, 3), default=2, show_default=True, help="Spatial axes.")
@click.option("--encoder", help="Name or module:callable.  [default: resnet50 in 2D, dynunet in 3D]")
@click.option("--encoder-options", help="Options of the encoder as YAML, such as '{size: L}'.")
@click.option("--size", help="Image size in voxels, such as 224 or 64,64,32.  [default: 224, or 64 in 3D]")
@click.option("--cell", help="Mask cell in voxels.  [default: the encoder's total stride]")
@click.option("--batch-size", type=click.IntRange(min=1), help="Batch size.  [default: 8, or 2 in 3D]")
@click.option("--mask", help="Name of the mask.  [default: mesh]")
@click.option(
    "ratios",
    "--ratio",
    type=float,
    multiple=True,
    help="Share of hidden cells; may be repeated.  [default: 0.5 0.7 0.9]",
)
@click.option(
    "precisions",
    "--precision",
    type=click.Choice(["fp32", "bf16"]),
    multiple=True,
    help="Number format of the network.  [default: both]",
)
@click.option(
    "parts",
    "--part",
    type=click.Choice(_PARTS),
    multiple=True,
    help="The encoder alone, or a whole SparK step.  [default: both]",
)
@click.option(
    "--runs", type=click.IntRange(min=1), default=5, show_default=True, help="Repetitions per variant."
)
@click.option(
    "--time-source",
    type=click.Choice(["wall", "processor"]),
    default="wall",
    show_default=True,
    help="Wall time; on a CPU that others use too, processor time of all threads.",
)
@click.option("--memory/--no-memory", default=True, help="Also measure peak memory, each in a fresh process.")
@json_option
def command(
    *,
    as_json: bool,
    dims: int,
    encoder: str | None,
    encoder_options: str | None,
    size: str | None,
    cell: str | None,
    batch_size: int | None,
    mask: str | None,
    **given: Any,
) -> None:
    """Compare the speed and memory of packed, masked and dense computing on this machine.

    A run is one forward and one backward pass, of the encoder alone or of a whole SparK step.
    """
    from medmim.stages.bench.packed_vs_masked import bench, default_setup

    setup = default_setup(
        dims,
        encoder,
        options=_options(encoder_options),
        size=sizes(size, word="--size") if size else None,
        cell=sizes(cell, word="--cell") if cell else None,
        batch=batch_size,
        mask=mask,
    )
    chosen = {key: value for key, value in given.items() if value != ()}
    with phases() as progress:
        result = bench(setup, progress=progress, **chosen)
    print_result(
        result.as_json(), as_json=as_json, lines=bench_lines(result), following="medmim plan pretrain"
    )


def _options(text: str | None) -> dict[str, Any]:
    """Parse options of the encoder."""
    from medmim.config.yaml_settings import parse_yaml

    options = parse_yaml(text or "{}", where="--encoder-options")
    if not isinstance(options, dict):
        raise click.UsageError(f"--encoder-options: expected YAML such as '{{size: L}}', got '{text}'")
    return options


def bench_lines(result: BenchmarkResult) -> list[str]:
    """Format the results as a table."""
    setup, machine = result.setup, result.machine
    space = size_text((setup.batch, setup.channels, *setup.size))
    lines = [
        f"{setup.encoder} on {space}, cell {size_text(setup.cell)}, mask {setup.mask}; forward and "
        f"backward, median of {machine['runs']}, {machine['time_source']} time",
        f"{machine['device']}, {counted(machine['threads'], 'thread')}, torch {machine['torch']}",
        "",
        f"{'part':<7}  precision  ratio  {'variant':<8}  " + "  ".join(_COLUMNS),
    ]
    for row in result.rows:
        numbers = [getattr(row, name) for name in _COLUMNS.values()]
        cells = [
            f"{'–' if number is None else f'{number:.{0 if number >= 100 else 2}f}':>{len(title)}}"
            for title, number in zip(_COLUMNS, numbers, strict=True)
        ]
        words = f"{row.part:<7}  {row.precision:<9}  {row.realised_ratio:5.2f}  {row.variant:<8}  "
        lines.append(words + "  ".join(cells))
    if machine["time_source"] == "wall" and (machine["load_before"] or 0) > 1:
        lines += ["", "note: the machine was busy before the first run; repeat the benchmark when it is idle"]
    return lines
