"""`medmim runs`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from medmim.cli.options import aligned, home, json_option, print_result
from medmim.cli.settings import TASKS

if TYPE_CHECKING:
    from medmim.stages.store_listing import ListedRun

_SORTED = ("date", "score", "arm", "dataset")


@click.command(
    "runs",
    epilog="""\b
Examples:
  medmim runs
  medmim runs segment --sort score
  medmim runs --arm scratch --status FINISHED --json
  medmim runs --delete 3f2a""",
)
@click.argument(
    "task",
    required=False,
    type=click.Choice(["pretrain", *TASKS]),
)
@click.option("--arm", help="Only runs whose arm contains this text, such as mesh or scratch.")
@click.option("--dataset", help="Only runs on the dataset of this name.")
@click.option("--study", help="Only runs of this study.")
@click.option("--status", help="Only runs with this status: FINISHED, RUNNING, FAILED or KILLED.")
@click.option("--sort", type=click.Choice(_SORTED), default="date", show_default=True, help="Order of runs.")
@click.option("--limit", type=click.IntRange(1), default=30, show_default=True, help="Number of runs shown.")
@click.option(
    "--delete", multiple=True, metavar="RUN", help="Delete this run and its weights; may be repeated."
)
@json_option
def command(  # noqa: PLR0913 (one filter each)
    *,
    task: str | None,
    arm: str | None,
    dataset: str | None,
    study: str | None,
    status: str | None,
    sort: Literal["date", "score", "arm", "dataset"],
    limit: int,
    delete: tuple[str, ...],
    as_json: bool,
) -> None:
    """List runs with task, score, confidence interval, arm, dataset, date and status, newest first.

    The id of a run may be shortened in every command. A run that a registered model needs is not deleted.
    """
    from medmim.stages.store_filters import RunFilter
    from medmim.stages.store_listing import count_runs, list_runs

    if delete:
        _delete(delete, as_json=as_json)
        return
    shown = None if as_json else limit  # JSON lists all of them
    wanted = RunFilter(task, arm, dataset, study, status, sort=sort, limit=shown)
    found = list_runs(home(), wanted)
    lines = aligned([RUN_HEAD, *map(run_cells, found)]) if found else ["no runs"]
    if len(found) == shown and (count := count_runs(home(), wanted)) > limit:
        lines.append(f"and {count - limit} more: --limit {count}")
    following = "medmim compare" if found else "medmim pretrain"
    print_result(
        {"runs": [one.as_json() for one in found]}, as_json=as_json, lines=lines, following=following
    )


RUN_HEAD = ("run", "task", "score", "95 % interval", "arm", "dataset", "date", "minutes", "status")


def run_cells(one: ListedRun) -> tuple[str, ...]:
    """Return the row of a run in the table."""
    minutes = one.metrics.get("last/minutes")
    return (
        one.run_id[:8],
        one.task,
        "–" if one.score is None else f"{one.score:.3f} {one.tags.get('metric', '')}",
        "–" if one.interval is None else f"{one.interval[0]:.3f} to {one.interval[1]:.3f}",
        one.tags.get("arm", ""),
        one.tags.get("dataset", ""),
        f"{one.started:%Y-%m-%d %H:%M}",
        "–" if minutes is None else f"{minutes:.1f}",
        one.state.lower(),
    )


def _delete(words: tuple[str, ...], *, as_json: bool) -> None:
    from medmim.stages.clean import delete_runs

    deleted = delete_runs(words, home=home())
    lines = [f"deleted  {one.run_id}  {one.task} {one.tags.get('arm', '')}" for one in deleted]
    ids = [one.run_id for one in deleted]
    print_result({"deleted": ids}, as_json=as_json, lines=lines, following="medmim clean")
