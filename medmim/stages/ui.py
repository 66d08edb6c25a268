"""`medmim ui`: the MLflow server on the local store, bound to the loopback address.

Every user of this machine can reach a loopback port, so the server requires a token, which is part of the
printed addresses. It travels without encryption, but does not leave this machine.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlencode

from medmim.errors import RunError, UsageError
from medmim.tracking.artifact_addresses import relocate
from medmim.tracking.database import DATABASE, uri_of
from medmim.tracking.migration import check
from medmim.tracking.mlflow_store import Store
from medmim.tracking.ui_views import address_words

_NEWEST = 5
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, kill, a terminal that closes
_PATIENCE_S = 5.0
_POLL_S = 0.1
_SERVER, TOKEN = "medmim.stages.ui_server", "MEDMIM_UI_TOKEN"

_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # seven processes for jobs that medmim does not use; they would compete with training for CPU cores
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


def require_server() -> None:
    """Raise UsageError unless MLflow's server is installed; its client alone, `mlflow-skinny`, has none."""
    try:
        importlib.metadata.distribution("mlflow")
    except importlib.metadata.PackageNotFoundError as error:
        raise UsageError(
            "expected MLflow's server, which is not installed: run `pip install 'medmim[ui]'`"
        ) from error


def pages(home: Path, *, port: int, token: str = "") -> list[tuple[str, str]]:
    """Return names and addresses of table and charts of the newest experiments."""
    client, found = Store(home, reading=True).client, []
    relocate(home.resolve())
    for experiment in client.search_experiments(max_results=_NEWEST, order_by=["last_update_time DESC"]):
        runs = client.search_runs([experiment.experiment_id], max_results=1)
        if not runs:
            continue
        for view, words in address_words(experiment.tags).items():
            place = f"#/experiments/{experiment.experiment_id}/runs?{urlencode(words)}"
            found.append((f"{experiment.name}, {view}", f"{address_of(port, token)}{place}"))
    return found


def address_of(port: int, token: str) -> str:
    """Return the address of the server, which opens the UI in a browser."""
    return f"http://127.0.0.1:{port}/?{urlencode({'token': token})}"


def serve(home: Path, *, port: int, token: str) -> None:
    """Run the server until Ctrl-C, SIGTERM or SIGHUP; then stop it and its children.

    Raises:
        RunError: if there are no runs, or the server fails.
        UsageError: if the port is in use.
    """
    check(home)  # the server would migrate an older store without a backup
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise UsageError(
                f"--port {port} is in use: choose another port, such as --port {port + 1}"
            ) from None
    code = run_until_interrupted(server_command(home / DATABASE, port=port), {**_QUIET, TOKEN: token})
    if code:
        raise RunError(f"the MLflow server failed with exit code {code}; see its messages above")


def server_command(database: Path, *, port: int) -> list[str]:
    """Return the command that starts the MLflow server."""
    artifacts = (database.parent / "artifacts").resolve().as_uri()
    return [sys.executable, "-m", _SERVER, uri_of(database.resolve()), artifacts, str(port)]


def run_until_interrupted(command: Sequence[str], variables: Mapping[str, str] = _QUIET) -> int:
    """Run a server and return its exit code; on a signal, stop it and its children and return 0."""
    received: list[int] = []  # not raised: the server would outlive a signal at its start
    handlers = {
        number: signal.signal(number, lambda number, _frame: received.append(number)) for number in _ENDING
    }
    try:
        server = subprocess.Popen(command, env={**os.environ, **variables}, start_new_session=True)
        while not received and server.poll() is None:
            time.sleep(_POLL_S)
        code = 0 if received else int(server.returncode)
        _end_group(server)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return code


def _end_group(server: subprocess.Popen[bytes]) -> None:
    """Stop the server and its children with SIGTERM, then with SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(timeout=_PATIENCE_S)
