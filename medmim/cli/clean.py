"""`medmim clean`."""

from __future__ import annotations

import click

from medmim.cli.options import home, json_option, print_result


@click.command("clean", epilog="\b\nExamples:\n  medmim clean\n  medmim clean --yes")
@click.option("--yes", is_flag=True, help="Remove what is listed; without it, only the list is printed.")
@click.option("--dry-run", is_flag=True, help="Print the list only, as without --yes.")
@json_option
def command(*, yes: bool, dry_run: bool, as_json: bool) -> None:
    """List files that no run needs any more, and remove them with --yes.

    These are weights and artifacts of deleted runs without a registered model, and timings of studies that
    were stopped.
    """
    from medmim.stages.clean import leftovers, remove

    yes = yes and not dry_run
    found = leftovers(home())
    total = sum(one.size for one in found)
    lines = [f"{one.size / 1e6:8.1f} MB  {one.reason}: {one.path}" for one in found]
    what = "removed" if yes else "could be removed"
    lines.append(f"{total / 1e6:8.1f} MB  {what}" if found else "nothing to remove")
    if yes:
        remove(found)
    rows = [{"path": str(one.path), "bytes": one.size, "reason": one.reason} for one in found]
    print_result(
        {"removed": yes, "bytes": total, "files": rows},
        as_json=as_json,
        lines=lines,
        following="medmim clean --yes" if found and not yes else "medmim runs",
    )
