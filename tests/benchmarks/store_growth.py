"""Measure commands on a store of few runs and on one of thousands that belong to other studies.

python -m tests.benchmarks.store_growth [RUNS]

Writes docs/results/store_growth.json: processor seconds of each command (median of three, in one process) on
both stores, and their ratio.
"""

import json
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path

from medmim.config.study import DIGEST
from medmim.stages.compare import compare_study, newest_study
from medmim.tracking.comparison.champion import versions
from medmim.tracking.comparison.runs import CASES, find_runs
from medmim.tracking.database import DATABASE
from medmim.tracking.mlflow_store import FINISHED, Store, begins_with

TAGS = {"dataset_hash": "d", "dataset": "scans", "split_hash": "s", "task": "segment", "labelled": "3"}
FEW, PER_STUDY, POINTS = 5, 20, 50
REPEATS = 3


def few_runs(home):
    """Record a small study."""
    store = Store(home)
    store.begin(experiment="quick", name="quick", tags={"study": "quick", "role": "study"}).finish("FINISHED")
    for number in range(FEW):
        tags = {**TAGS, "study": "quick", "stage": "finetune", "role": "cell", "seed": str(number // 2)}
        tags |= {"arm": ("mae", "scratch")[number % 2], DIGEST: f"digest{number}", "metric": "dice"}
        recorder = store.begin(experiment="quick", name=f"run {number}", tags=tags)
        recorder.settings({"lr": 0.1})
        rows = [
            {"case": f"c{n}", "patient": f"p{n}", "label": "core", "dice": n / 10, "hd95_mm": 1}
            for n in range(9)
        ]
        recorder.text(CASES, "".join(json.dumps(row) + "\n" for row in rows))
        recorder.metrics({"test/dice": 0.5}, step=0)
        recorder.finish("FINISHED")
    store.register(model="scans-segment", run_id=recorder.run_id, tags={}, alias="challenger")
    return store


def insert(database, table, rows):
    """Insert rows, given as dictionaries with the same keys."""
    names = ", ".join(rows[0])
    marks = ", ".join("?" * len(rows[0]))
    values = [tuple(row.values()) for row in rows]
    database.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", values)


def many_runs(store, count):
    """Insert older runs of other studies."""
    studies = {f"study{number}": 0 for number in range(-(-count // PER_STUDY))}
    studies = {name: int(store.experiment(name)) for name in studies}
    numbers = dict.fromkeys(("start_time", "end_time"), 1_600_000_000_000)
    words = dict.fromkeys(("source_name", "entry_point_name", "source_version"), "")
    words |= {"source_type": "LOCAL", "user_id": "medmim", "status": "FINISHED", "lifecycle_stage": "active"}
    with sqlite3.connect(store.home / DATABASE) as database:
        for number in range(count):
            study, run_id = f"study{number // PER_STUDY}", f"{number:032x}"
            own = {"run_uuid": run_id}
            address = f"{store.artifacts.as_uri()}/{study}/{run_id}/artifacts"
            place = {"name": "run", "artifact_uri": address, "experiment_id": studies[study]}
            insert(database, "runs", [own | numbers | words | place])
            tags = {**TAGS, "dataset_hash": study, "study": study, "stage": "finetune", DIGEST: run_id}
            insert(database, "tags", [own | {"key": key, "value": tags[key]} for key in tags])
            insert(database, "params", [own | {"key": f"setting{n}", "value": "1"} for n in range(40)])
            point = own | {"value": 1.0, "timestamp": 0, "is_nan": False}
            insert(database, "latest_metrics", [point | {"key": f"m{n}", "step": 0} for n in range(20)])
            insert(database, "metrics", [point | {"key": "loss", "step": n} for n in range(POINTS)])
    database.close()


COMMANDS = {
    "open the store": lambda home: Store(home, reading=True),
    "compare": lambda home: find_runs(Store(home, reading=True), ()),
    "compare: newest study": newest_study,
    "compare --study": lambda home: compare_study("quick", home=home),
    "models": lambda home: versions(Store(home, reading=True)),
    "finetune --init RUN": lambda home: Store(home).runs(begins_with("abc")),
    "finetune: newest pretraining": lambda home: Store(home).runs(FINISHED, limit=1, stage="finetune"),
    "study: finished trainings": lambda home: Store(home).tagged(DIGEST, {"digest1", "digest2"}),
    "start a run": lambda home: Store(home).begin(experiment="quick", name="n", tags={"stage": "pretrain"}),
}


def seconds(home):
    """Return the processor seconds of each command, the median of some repeats."""
    found = {}
    for name, command in COMMANDS.items():
        spent = []
        for _ in range(REPEATS + 1):
            begun = time.process_time()
            command(home)
            spent.append(time.process_time() - begun)
        found[name] = statistics.median(spent[1:])
    return found


def main(runs=3000):
    """Measure both stores and write the table."""
    homes = [Path(tempfile.mkdtemp()) for _ in range(2)]
    stores = [few_runs(home) for home in homes]
    many_runs(stores[1], int(runs))
    small, large = map(seconds, homes)
    rows = [
        {
            "command": name,
            "runs_5": round(small[name], 3),
            f"runs_{runs}": round(large[name], 3),
            "ratio": round(large[name] / small[name], 2),
        }
        for name in small
    ]
    Path("docs/results/store_growth.json").write_text(json.dumps(rows, indent=1) + "\n")
    sys.stdout.write(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
