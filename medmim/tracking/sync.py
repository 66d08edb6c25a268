"""Uploads from the local store to an MLflow server, on request (`sync`) or during a training."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from requests.exceptions import RequestException

from medmim import files
from medmim.errors import RunError, UsageError, counted
from medmim.tracking.artifact_addresses import experiment_of
from medmim.tracking.mlflow_store import Store
from medmim.tracking.run_copies import copy_of, with_parents
from medmim.tracking.upload import Uploader, UploadSummary

SERVER = "MLFLOW_TRACKING_URI"
_USER, _PASSWORD, _TOKEN = (f"MLFLOW_TRACKING_{word}" for word in ("USERNAME", "PASSWORD", "TOKEN"))
_NOT_AUTHENTICATED, _FORBIDDEN = 401, 403
_AGAIN = "`medmim sync` again"
_ATTEMPTS = 4
_PAUSE_S = 0.5
# The client's retries would create a run twice if a response is lost, and its timeouts last minutes.
_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
_FAULTS = (MlflowException, RequestException, OSError, ValueError, KeyError, AttributeError)


def sync(
    store: Store, uri: str, *, runs: Sequence[Run] | None = None, pause_s: float = _PAUSE_S
) -> UploadSummary:
    """Upload runs to a server, so that it contains each of them exactly once in its current state.

    Without `runs`, also delete the server's copies of runs that were deleted in the local store, such as an
    interrupted run without a resumable state that had been uploaded during training.

    Args:
        runs: runs to upload, newest first; None uploads all runs of the store.
        pause_s: seconds before the second attempt; doubled for each further attempt.

    Raises:
        RunError: if the server fails or refuses the user; a later call completes the upload.
    """
    chosen = with_parents(store, store.runs() if runs is None else runs)
    for key, value in _PATIENCE.items():
        os.environ.setdefault(key, value)
    with files.lock(store.home / "sync"):  # two uploads at the same time could both create a missing run
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        delivery = Uploader(client, functools.cache(functools.partial(experiment_of, client)))
        for number, run in enumerate(chosen):
            _retry(lambda run=run: delivery.put(copy_of(store, run)), number, len(chosen), pause_s)  # type: ignore[misc]
        gone = store.deleted() if runs is None else []
        _retry(lambda: delivery.drop(gone), len(chosen), len(chosen), pause_s)
    return delivery.sent


def _retry(send: Callable[[], object], number: int, count: int, pause_s: float) -> None:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            send()
        except _FAULTS as error:
            refusal = _refusal(error)
            if refusal or attempt == _ATTEMPTS:
                why, remedy = refusal or _failure(error)
                raise RunError(
                    f"the tracking server {why} after {number} of {counted(count, 'run')}; no data is lost "
                    f"or duplicated: {remedy}"
                ) from error
            time.sleep(pause_s * 2 ** (attempt - 1))
        else:
            return


def _refusal(error: Exception) -> tuple[str, str] | None:
    """Return how a server refused a request, and the remedy; None if it failed for another reason."""
    status = _status(error)
    if status == _NOT_AUTHENTICATED:
        named = any(os.environ.get(name) for name in (_USER, _TOKEN))
        why, verb = (
            ("rejected the user name and password", "correct") if named else ("requires a user name", "set")
        )
        return why, f"{verb} {_USER} and {_PASSWORD}, or {_TOKEN}, and run {_AGAIN}"
    if status != _FORBIDDEN:
        return None
    if "Host header" in str(error):
        return (
            "accepts no requests to this host name",
            f"use a name that it was started with (--allowed-hosts), and run {_AGAIN}",
        )
    return (
        "does not allow this user to write",
        f"ask its administrator for the permission EDIT on experiment and model, and run {_AGAIN}",
    )


def _status(error: Exception) -> int | None:
    """Return the HTTP status of an error of MLflow's client or of its upload of files."""
    if isinstance(error, MlflowException):
        return int(error.get_http_status_code())
    response = error.response if isinstance(error, RequestException) else None
    return None if response is None else int(response.status_code)


def _failure(error: Exception) -> tuple[str, str]:
    """Return how a server failed, and the remedy."""
    if "NewConnectionError" in str(error) or "NameResolutionError" in str(error):
        return "cannot be reached", f"check its address and that it is running, then run {_AGAIN}"
    return f"failed ({type(error).__name__})", f"run {_AGAIN} when the server is available"


class BackgroundUploader:
    """Uploads a run to a server in a background thread, without delaying the training.

    Args:
        store: the local store; the thread reads it through a separate client.
        every_s: seconds between two uploads.
        patience_s: longest wait in seconds for the last upload at the end of the training.
    """

    def __init__(
        self, store: Store, run_id: str, uri: str, *, every_s: float = 15.0, patience_s: float = 20.0
    ) -> None:
        self.complete = False
        self._store = Store(store.home)
        self._run_id = run_id
        self._uri = uri
        self._every_s = every_s
        self._patience_s = patience_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> BackgroundUploader:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Start the last upload and wait for it, at most `patience_s`."""
        self._ended.set()
        self.wait(self._patience_s)

    def wait(self, seconds: float = 60.0) -> None:
        """Wait until the thread has ended, at most the given number of seconds."""
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            self._send()
        self.complete = self._send()

    def _send(self) -> bool:
        """Upload the current state of the run; return whether the upload succeeded."""
        try:
            sync(self._store, self._uri, runs=[self._store.run(self._run_id)], pause_s=0.05)
        except RunError:
            return False
        return True


def server_of(store: Store) -> str | None:
    """Return the URI in `MLFLOW_TRACKING_URI`; None if it is not set or is the local store.

    Raises:
        UsageError: for a folder: MLflow no longer writes to it, and sharing needs a server.
    """
    uri = os.environ.get(SERVER)
    if uri and ("://" not in uri or uri.startswith("file:")):
        raise UsageError(
            f"{SERVER}: expected the address of an MLflow server (http://…), got a folder; unset it: runs "
            "are always stored in MEDMIM_HOME"
        )
    return uri if uri and uri != store.uri else None
