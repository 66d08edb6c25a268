"""`medmim unpack`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from medmim.cli.options import home, json_option, print_result
from medmim.errors import counted


@click.command("unpack", epilog="\b\nExample:\n  medmim unpack quick.zip")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def command(*, file: Path, as_json: bool) -> None:
    """Merge the runs of a packed FILE, after checking its hashes, into the local runs, without duplicates."""
    from medmim.tracking.mlflow_store import Store
    from medmim.tracking.study_archive import unpack

    merged = unpack(Store(home()), file)
    lines = [
        f"{counted(merged.runs, 'run')} from the file: {merged.new_runs} new, "
        f"{counted(merged.versions, 'model version')}"
    ]
    print_result(asdict(merged), as_json=as_json, lines=lines, following="medmim runs")
