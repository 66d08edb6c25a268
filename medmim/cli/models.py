"""`medmim models`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from medmim.cli.options import aligned, home, json_option, print_result

if TYPE_CHECKING:
    from medmim.stages.store_listing import ListedModel


@click.group(
    "models",
    invoke_without_command=True,
    epilog="""\b
Examples:
  medmim models --json
  medmim models promote dataset-segment:3 --force --why "the only model trained on our scanner\"""",
)
@click.option(
    "--limit", type=click.IntRange(1), default=30, show_default=True, help="Number of versions shown."
)
@json_option
@click.pass_context
def command(context: click.Context, *, limit: int, as_json: bool) -> None:
    """List registered models: versions, aliases, lineage, and whether training saw test patients."""
    if context.invoked_subcommand:
        return
    from medmim.stages.store_filters import ModelFilter
    from medmim.stages.store_listing import count_models, list_models

    shown = None if as_json else limit  # JSON lists all of them
    found = list_models(home(), ModelFilter(limit=shown))
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
    head, *table = aligned([MODEL_HEAD, *map(model_cells, found)])
    origins = [f"  weights from {_lineage(one)}" for one in found]
    lines = [head, *(line for pair in zip(table, origins, strict=True) for line in pair)]
    if len(found) == shown and (count := count_models(home())) > limit:
        lines.append(f"and {count - limit} more: --limit {count}")
    print_result(
        {"models": rows},
        as_json=as_json,
        lines=lines if found else ["no registered models"],
        following=f"medmim predict SCANS --model {found[0].model}" if found else "medmim finetune segment",
    )


@command.command("promote", epilog="\b\nExample:\n  medmim promote dataset-segment:3 --force --why TEXT")
@click.argument("model", metavar="NAME:VERSION")
@click.option("--force", is_flag=True, help="Promote without the paired test.")
@click.option("--why", required=True, help="Reason, recorded with the model version.")
@json_option
def promote(*, model: str, force: bool, why: str, as_json: bool) -> None:
    """Make a model version the champion without the paired test of `medmim compare --promote`."""
    from medmim.errors import UsageError

    if not force:
        raise UsageError(
            "models promote: expected --force; to promote by the paired test, use `medmim compare --promote`"
        )
    from medmim.tracking.comparison.champion import force_promotion
    from medmim.tracking.mlflow_store import Store

    done = force_promotion(Store(home()), model, why)
    print_result(
        {"promoted": done.promoted, "sentence": done.sentence},
        as_json=as_json,
        lines=[done.sentence],
        following=f"medmim predict SCANS --model {model}",
    )


@command.command("register", epilog="\b\nExample:\n  medmim models register 3f2a9c1d")
@click.argument("run", metavar="RUN")
@json_option
def register(*, run: str, as_json: bool) -> None:
    """Register the model of a finished fine-tuning whose registration failed or was deleted."""
    from medmim.stages.registration import register_later

    model, version = register_later(home(), run)
    lines = [f"registered {model}:{version}"]
    following = f"medmim predict SCANS --model {model}:{version}"
    print_result({"model": model, "version": version}, as_json=as_json, lines=lines, following=following)


MODEL_HEAD = ("model", "task", "score", "95 % interval", "arm", "date", "status", "run", "test patients seen")


def _lineage(one: ListedModel) -> str:
    """Return the run and what its weights come from, newest first, with ids cut to eight digits."""
    recorded = one.tags.get("lineage") or " ← ".join(
        filter(None, (one.run_id, one.tags.get("pretraining_run")))
    )
    return re.sub(r"\b([0-9a-f]{8})[0-9a-f]{24}\b", r"\1", recorded)


def model_cells(one: ListedModel) -> tuple[str, ...]:
    """Return the row of a model version in the table."""
    imported = one.tags.get("imported_contamination")
    verdict = (
        f"not checked here (origin: {imported})" if imported else one.tags.get("contamination", "unknown")
    )
    run = one.run
    score = "–" if run is None or run.score is None else f"{run.score:.3f} {run.tags.get('metric', '')}"
    ends = run.interval if run else None
    return (
        f"{one.model}:{one.version}",
        run.task if run else "–",
        score,
        f"{ends[0]:.3f} to {ends[1]:.3f}" if ends else "–",
        run.tags.get("arm", "–") if run else "–",
        f"{run.started:%Y-%m-%d}" if run else "–",
        ", ".join(dict.fromkeys(filter(None, (one.status, *one.aliases)))) or "–",
        one.run_id[:8],
        verdict,
    )
