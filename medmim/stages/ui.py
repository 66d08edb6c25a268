"""`medmim ui`: MLflow's own server on the local store, reachable from this machine only."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote, urlencode

from medmim.errors import RunError, UsageError
from medmim.tracking.mlflow_store import Store

_NEWEST = 5

_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # Seven processes for jobs that nobody here asks for; on a laptop they take the cores from training.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


def pages(home: Path, *, port: int) -> list[tuple[str, str]]:
    """Return the newest experiments and where the UI shows each: runs as a table, a study's arms by score.

    Without the address's help MLflow opens an experiment on a page for chat agents.

    Raises:
        RunError: if there are no runs yet.
    """
    _check(home)
    client, found = Store(home).client, []
    for experiment in client.search_experiments(max_results=_NEWEST, order_by=["last_update_time DESC"]):
        runs = client.search_runs([experiment.experiment_id], max_results=1)
        if not runs:
            continue
        words = {"workflowType": "machine_learning"}
        if client.search_runs([experiment.experiment_id], "tags.role = 'study'", max_results=1):
            words |= {"orderByKey": "metrics.`score/mean`", "orderByAsc": "false"}
        place = f"#/experiments/{experiment.experiment_id}/runs?{urlencode(words)}"
        found.append((experiment.name, f"http://127.0.0.1:{port}/{place}"))
    return found


def _check(home: Path) -> Path:
    database = home / "mlflow.db"
    if not database.is_file():
        raise RunError(
            f"no runs in '{home}' yet: run `medmim pretrain`, or set MEDMIM_HOME to where they are"
        )
    return database


def serve(home: Path, *, port: int) -> None:
    """Run the server until it is interrupted.

    Raises:
        RunError: if there are no runs yet, or the server ends by itself.
        UsageError: if the port is taken.
    """
    database = _check(home)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise UsageError(f"--port {port} is in use: choose another, such as --port {port + 1}") from None
    words = [
        sys.executable,
        "-m",
        "mlflow",
        "ui",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    words += ["--backend-store-uri", f"sqlite:///{quote(str(database.resolve()))}"]
    words += ["--default-artifact-root", (home / "artifacts").resolve().as_uri()]
    server = subprocess.Popen(words, env={**os.environ, **_QUIET})
    try:
        code = server.wait()
    except KeyboardInterrupt:
        server.terminate()
        server.wait()
        return
    if code:
        raise RunError(f"the MLflow server ended with exit code {code}")
