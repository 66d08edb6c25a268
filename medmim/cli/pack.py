"""`medmim pack`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from medmim.cli.options import home, json_option, path_option, print_result
from medmim.errors import counted


@click.command(
    "pack",
    epilog="""\b
Examples:
  medmim pack quick
  medmim pack quick --out quick.zip""",
)
@click.argument("study")
@path_option("--out", help="File to write.  [default: STUDY.zip]")
@json_option
def command(*, study: str, out: Path | None, as_json: bool) -> None:
    """Write all runs of STUDY, with artifacts and weights but without scans, to one checked file."""
    from medmim.tracking.mlflow_store import Store
    from medmim.tracking.study_archive import pack
    from medmim.tracking.study_runs import runs_of_study

    store, place = Store(home(), reading=True), out or Path(f"{study}.zip")
    count = pack(store, runs_of_study(store, study), place)
    lines = [f"{counted(count, 'run')} in {place}"]
    following = f"medmim unpack {shlex.quote(str(place))}"
    print_result({"file": str(place), "runs": count}, as_json=as_json, lines=lines, following=following)
