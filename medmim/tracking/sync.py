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
        RunError: if the server fails or refuses the credentials; a later call completes the upload.
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
            refused = _is_refusal(error)
            if refused or attempt == _ATTEMPTS:
                why = "refused the credentials" if refused else f"failed ({type(error).__name__})"
                raise RunError(
                    f"the tracking server {why} after {number} of {counted(count, 'run')}; no data is lost "
                    "or duplicated: run `medmim sync` again when the server is available"
                ) from error
            time.sleep(pause_s * 2 ** (attempt - 1))
        else:
            return


def _is_refusal(error: Exception) -> bool:
    words = str(error)
    return isinstance(error, MlflowException) and ("401" in words or "403" in words)


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
