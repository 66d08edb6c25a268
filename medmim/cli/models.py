"""`medmim models`."""

from __future__ import annotations

import click

from medmim.cli.options import home, json_option, print_result


@click.command("models", epilog="\b\nExample:\n  medmim models --json")
@json_option
def command(*, as_json: bool) -> None:
    """List registered models: versions, aliases, where they come from, whether test patients were seen."""
    from medmim.tracking.comparison.champion import versions
    from medmim.tracking.mlflow_store import Store

    found = versions(Store(home()))
    rows = [
        {
            "model": one.model,
            "version": one.version,
            "aliases": list(one.aliases),
            "run": one.run_id,
            "lineage": dict(one.tags),
        }
        for one in found
    ]
    lines = [
        f"{one.model} {one.version:<3} {','.join(one.aliases) or '–':<20} run {one.run_id[:8]} from "
        f"{one.tags.get('pretraining_run', '')[:8]}, contamination {one.tags.get('contamination', 'unknown')}"
        for one in found
    ]
    print_result(
        {"models": rows}, as_json=as_json, lines=lines or ["no models yet: run `medmim finetune segment`"]
    )
