"""`medmim verify`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from medmim.cli.next_command import DEFAULT_DATA
from medmim.cli.options import Command, json_option, print_result
from medmim.cli.progress import phases
from medmim.errors import counted

_MAX_LINES = 50


def dataset_argument(command: Command) -> Command:
    """Add DATASET, which may also be given as `--data`, as in the other commands."""

    def choose(context: click.Context, _argument: click.Parameter, path: Path | None) -> Path:
        named: Path | None = context.params.pop("data")
        if path and named:
            raise click.UsageError("expected one dataset: DATASET or --data")
        return path or named or Path(DEFAULT_DATA)

    path = click.Path(path_type=Path)
    command = click.argument("dataset", type=path, required=False, callback=choose)(command)
    return click.option("--data", type=path, is_eager=True, help="DATASET, as an option.")(command)


@click.command(
    "verify",
    epilog="""\b
Examples:
  medmim verify
  medmim verify lung-data --json""",
)
@dataset_argument
@json_option
def command(*, dataset: Path, as_json: bool) -> None:
    """Hash every file of DATASET and compare all counts; exit with code 1 if anything changed.

    To restore damaged files, run `medmim ingest` on the source again.
    """
    from medmim.data.ingest.warning_texts import warning_text
    from medmim.stages.verify import raise_if_damaged, verify

    with phases() as progress:
        result = verify(dataset, progress=progress)
    more = len(result.problems) - _MAX_LINES
    lines = [
        f"dataset      {dataset}",
        f"content      {result.content_hash}",
        f"volumes      {result.counts.get('volumes', 0)}, {counted(result.counts.get('labels', 0), 'label')}",
        *(f"problem      {problem}" for problem in result.problems[:_MAX_LINES]),
        *([f"             and {more} more; --json lists all"] if more > 0 else []),
        *(f"warning      {warning_text(one)}" for one in result.warnings[:_MAX_LINES]),
        f"verdict      {'damaged' if result.problems else 'intact'}",
    ]
    following = f"medmim inspect {shlex.quote(str(dataset))}"
    if result.problems:
        following = f"medmim ingest SRC --out {shlex.quote(str(dataset))}, which restores damaged files"
    print_result(result.as_json(), as_json=as_json, lines=lines, following=following)
    raise_if_damaged(result)
