"""Kill the creation and the migration of a store at random times, then open it.

python -m tests.benchmarks.store_kills [KILLS] [OLDER ...]

OLDER: folders with an older MLflow each, as from `pip install --no-deps --target OLDER mlflow==3.16.1 …`;
their stores are migrated. Without one, only creation is interrupted. A home is lost if the next command
cannot open it, or a run is missing. Results go to docs/results/store_kills.json.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from medmim.tracking.database import DATABASE, is_intact
from medmim.tracking.mlflow_store import Store

RUNS = 5
OLDER_STORE = f"""
import sys
from mlflow import MlflowClient, __version__
client = MlflowClient(tracking_uri=sys.argv[1], registry_uri=sys.argv[1])
place = client.create_experiment("test", artifact_location="file:///nowhere/artifacts/test")
for number in range({RUNS}):
    run = client.create_run(place, tags={{"stage": "finetune"}})
    client.log_metric(run.info.run_id, "loss", 1.0)
    client.set_terminated(run.info.run_id)
print(__version__)
"""


def in_child(home, runs):
    """Open a store in a forked process; its exit code is 0 if all runs are there."""
    child = os.fork()
    if child:
        return child
    try:
        code = 0 if len(Store(home).runs()) == runs else 3
    except BaseException as error:
        sys.stderr.write(f"  {type(error).__name__}: {error}\n")
        code = 2
    os._exit(code)


def kill_once(home, runs, seconds):
    """Kill an opening process after some time; return whether it was killed and whether the home is lost."""
    child = in_child(home, runs)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    code = os.waitstatus_to_exitcode(os.waitpid(in_child(home, runs), 0)[1])
    return killed, code != 0 or not is_intact(home / DATABASE)


def row(name, make, runs, kills, rng):
    """Kill one kind of opening several times."""
    timed = Path(tempfile.mkdtemp())
    make(timed)
    begun = time.monotonic()
    os.waitpid(in_child(timed, runs), 0)
    longest = time.monotonic() - begun
    killed = lost = 0
    for _ in range(kills):
        home = Path(tempfile.mkdtemp())
        make(home)
        was_killed, is_lost = kill_once(home, runs, rng.uniform(0, longest))
        killed, lost = killed + was_killed, lost + is_lost
        shutil.rmtree(home)
    shutil.rmtree(timed)
    return {"opening": name, "seconds": round(longest, 1), "kills": killed, "homes_lost": lost}


def main(kills=20, *older):
    """Interrupt creation, and migration from each older MLflow; print and write a row for each."""
    rng, rows = random.Random(0), []
    kinds = [("creation", lambda home: None, 0)]
    for folder in older:
        template = Path(tempfile.mkdtemp()) / DATABASE
        made = subprocess.run(
            [sys.executable, "-c", OLDER_STORE, f"sqlite:///{template}"],
            env={**os.environ, "PYTHONPATH": folder},
            capture_output=True,
            text=True,
            check=True,
        )
        version = made.stdout.strip()
        kinds.append(
            (f"migration from MLflow {version}", lambda home, t=template: shutil.copy(t, home), RUNS)
        )
    for name, make, runs in kinds:
        rows.append(row(name, make, runs, int(kills), rng))
        sys.stdout.write(json.dumps(rows[-1]) + "\n")
    Path("docs/results/store_kills.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
