"""`medmim models`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from medmim.cli.options import home, json_option, print_result

if TYPE_CHECKING:
    from medmim.tracking.comparison.champion import RegisteredModel


@click.group(
    "models",
    invoke_without_command=True,
    epilog="""\b
Examples:
  medmim models --json
  medmim models promote scans-segment:3 --force --why "the only model trained on our scanner\"""",
)
@json_option
@click.pass_context
def command(context: click.Context, *, as_json: bool) -> None:
    """List registered models: versions, aliases, lineage, and whether training saw test patients."""
    if context.invoked_subcommand:
        return
    from medmim.tracking.comparison.champion import versions
    from medmim.tracking.database import DATABASE
    from medmim.tracking.mlflow_store import Store

    found = versions(Store(home(), reading=True)) if (home() / DATABASE).exists() else []
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
    lines = [_line(one) for one in found]
    print_result(
        {"models": rows},
        as_json=as_json,
        lines=lines or ["no registered models: run `medmim finetune segment`"],
    )


@command.command("promote", epilog="\b\nExample:\n  medmim models promote scans-segment:3 --force --why TEXT")
@click.argument("model", metavar="NAME:VERSION")
@click.option("--force", is_flag=True, help="Promote without the paired test.")
@click.option("--why", required=True, help="Reason, recorded with the model version.")
@json_option
def promote(*, model: str, force: bool, why: str, as_json: bool) -> None:
    """Make a model version the champion without the paired test of `medmim compare --promote`."""
    from medmim.errors import UsageError
    from medmim.tracking.comparison.champion import force_promotion
    from medmim.tracking.mlflow_store import Store

    if not force:
        raise UsageError(
            "models promote: expected --force; to promote by the paired test, use `medmim compare --promote`"
        )
    done = force_promotion(Store(home()), model, why)
    print_result(
        {"promoted": done.promoted, "sentence": done.sentence}, as_json=as_json, lines=[done.sentence]
    )


def _line(one: RegisteredModel) -> str:
    imported = one.tags.get("imported_contamination")
    verdict = (
        f"not checked here (origin: {imported})" if imported else one.tags.get("contamination", "unknown")
    )
    aliases = ",".join(one.aliases) or "–"
    return f"{one.model} {one.version:<3} {aliases:<20} run {_lineage(one)}, contamination: {verdict}"


def _lineage(one: RegisteredModel) -> str:
    """Return the run and what its weights come from, newest first, with ids cut to eight digits."""
    known = one.tags.get("lineage") or " ← ".join((one.run_id, one.tags.get("pretraining_run", "")))
    return re.sub(r"\b([0-9a-f]{8})[0-9a-f]{24}\b", r"\1", known)
