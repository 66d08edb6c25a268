"""`medmim inspect`."""

from __future__ import annotations

from pathlib import Path

import click

from medmim.cli.next_command import data_option
from medmim.cli.options import json_option, path_option, print_result
from medmim.cli.progress import phases
from medmim.cli.verify import dataset_argument


@click.command(
    "inspect",
    epilog="""\b
Examples:
  medmim inspect
  medmim inspect lung-data --page lung.html""",
)
@dataset_argument
@path_option("--page", help="HTML file.  [default: inspect.html in the dataset]")
@click.option("--workers", type=click.IntRange(1), help="Number of processes.  [default: one per core]")
@json_option
def command(*, dataset: Path, page: Path | None, workers: int | None, as_json: bool) -> None:
    """Write an HTML page about DATASET: volumes, mid-slices in three planes, verdicts, histograms.

    The page is self-contained and needs no network. It contains images of patients: protect it like the data.
    """
    from medmim.stages.inspect import inspect

    with phases() as progress:
        result = inspect(dataset, page=page, workers=workers, progress=progress)
    lines = [
        f"page         {result.page}  ({result.page_bytes / 1e6:.1f} MB)",
        f"volumes      {result.volumes}, {result.pictures} with pictures",
    ]
    following = f"medmim pretrain{data_option(dataset)}"
    print_result(result.as_json(), as_json=as_json, lines=lines, following=following)
