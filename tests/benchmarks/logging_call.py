"""How long a training waits for a logging call while the tracking server fails.

python tests/benchmarks/logging_call.py

Prints, for a server that is well and for each way of failing, the median, the 99th percentile and the longest
of the calls, and the same for a call that is not mirrored at all.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

os.environ |= {"MLFLOW_HTTP_REQUEST_TIMEOUT": "1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}

from server_faults import FAULTS
from shaky_server import ShakyServer  # found by the path above

from medmim.tracking.mlflow_store import Store
from medmim.tracking.sync import BackgroundUploader, sync

CALLS = 300
PAUSE_S = 0.02  # between two steps of a training


def times(recorder):
    """Seconds of each call."""
    spent = []
    for step in range(CALLS):
        begun = time.perf_counter()
        recorder.metrics({"train/loss": 1 / (step + 1), "train/lr": 0.1}, step=step)
        spent.append(time.perf_counter() - begun)
        time.sleep(PAUSE_S)
    return np.array(spent) * 1000


def show(name, spent, more=""):
    p50, p99 = np.percentile(spent, [50, 99])
    line = f"{name:<22} median {p50:6.1f} ms  p99 {p99:6.1f} ms  longest {spent.max():6.1f} ms  {more}"
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main():
    with tempfile.TemporaryDirectory() as folder:
        for part in ("here", "there"):
            (Path(folder) / part).mkdir()
        store, server = Store(Path(folder) / "here"), ShakyServer(Path(folder) / "there")
        begun = store.begin(experiment="timed", name="a run", tags={"stage": "pretrain"})
        show("no server", times(begun))
        for name, fault in {"well": None, **FAULTS}.items():
            recorder = store.begin(experiment="timed", name="a run", tags={"stage": "pretrain"})
            words = {"every_s": 0.5, "patience_s": 0.2}
            with (
                server.failing(fault),
                BackgroundUploader(store, recorder.run_id, server.uri, **words) as mirror,
            ):
                spent = times(recorder)
                recorder.finish("FINISHED")
            mirror.wait()
            sync(store, server.uri, pause_s=0.01)
            again = sync(store, server.uri)
            show(name, spent, f"synced, then {again.new_runs + again.points + again.artifacts} left to send")
        server.close()


if __name__ == "__main__":
    main()
