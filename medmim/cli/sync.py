"""`medmim sync`."""

from __future__ import annotations

from dataclasses import asdict

import click

from medmim.cli.options import home, json_option, print_result
from medmim.errors import counted


@click.command(
    "sync",
    epilog="""\b
Examples:
  medmim sync --to http://127.0.0.1:5000
  medmim sync                             upload to MLFLOW_TRACKING_URI""",
)
@click.option("--to", "uri", help="MLflow server.  [default: MLFLOW_TRACKING_URI]")
@json_option
def command(*, uri: str | None, as_json: bool) -> None:
    """Upload every local run to an MLflow server, exactly once.

    After an interruption, run the command again: it continues.
    """
    from medmim.tracking.mlflow_store import Store
    from medmim.tracking.sync import SERVER, server_of, sync

    store = Store(home(), reading=True)
    server = uri or server_of(store)
    if not server:
        raise click.UsageError(f"--to: expected the address of an MLflow server; pass it, or set {SERVER}")
    sent = sync(store, server)
    lines = [
        f"{counted(sent.runs, 'run')} on the server: {sent.new_runs} new, {counted(sent.points, 'point')}, "
        f"{counted(sent.artifacts, 'file')}, {counted(sent.versions, 'model version')} sent"
    ]
    print_result(asdict(sent), as_json=as_json, lines=lines, following=f"open {server}")
