"""`medmim doctor`."""

from __future__ import annotations

from pathlib import Path

import click

from medmim.cli.options import home, json_option, path_option, print_result
from medmim.errors import counted

_SIGNS = {"ok": "ok  ", "note": "note", "bad": "BAD "}


@click.command(
    "doctor",
    epilog="""\b
Examples:
  medmim doctor
  medmim doctor --repair                         repair the store and the permissions
  medmim doctor --json""",
)
@path_option("--data", multiple=True, help="Dataset folder.  [default: medmim-data]")
@click.option(
    "--repair",
    is_flag=True,
    help="Migrate or rebuild the store if needed; revoke the permissions of other users.",
)
@json_option
def command(*, as_json: bool, data: tuple[Path, ...], repair: bool) -> None:
    """Check this machine: versions, devices, decoders, disk, permissions, store of runs, tracking server.

    Each check that fails or is limited gives advice. The exit code is 1 if a check failed.
    """
    from medmim.stages.doctor.repair import repair_store, restrict_permissions
    from medmim.stages.doctor.run import doctor, refuse_bad

    folders = data or (Path("medmim-data"),)
    if repair:
        count = restrict_permissions((home(), *folders))
        click.echo(f"medmim: made {counted(count, 'file or folder', 'files and folders')} private", err=True)
        click.echo(f"medmim: {repair_store(home())}", err=True)
    result = doctor(home(), data=folders)
    lines = []
    for check in result.checks:
        lines.append(f"{_SIGNS[check.status]}  {check.name:<24}  {check.found}")
        lines += [f"      → {check.advice}"] if check.advice else []
    print_result(
        result.as_json(), as_json=as_json, lines=lines, following="medmim ingest SCANS, or medmim demo"
    )
    refuse_bad(result)
