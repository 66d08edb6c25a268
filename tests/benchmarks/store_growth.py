"""Measure commands on a store of few runs and on one of thousands that belong to other studies.

python -m tests.benchmarks.store_growth [RUNS ...]

Writes docs/results/store_growth.json: processor seconds on each store, and the ratio to the small one. Steps
run in one process (median of three); commands run as the user starts them (median of two).
"""

import json
import os
import resource
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from medmim.config.study import DIGEST
from medmim.stages.compare import compare_study, newest_study
from medmim.stages.model_lookup import find_model
from medmim.stages.resumption import find_unfinished
from medmim.stages.ui import pages
from medmim.tracking.comparison.runs import CASES, find_runs
from medmim.tracking.database import DATABASE
from medmim.tracking.mlflow_store import FINISHED, Store, begins_with
from medmim.tracking.study_runs import StudyRuns

TAGS = {"dataset_hash": "d", "dataset": "scans", "split_hash": "s", "task": "segment", "labelled": "3"}
FEW, PER_STUDY, PER_MODEL, POINTS = 5, 20, 200, 50
REPEATS, COMMAND_REPEATS = 3, 2


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
    (store.artifact(store.run(recorder.run_id), "model")).mkdir()
    store.register(model="scans-segment", run_id=recorder.run_id, tags={}, alias="challenger")
    interrupted = store.begin(experiment="quick", name="interrupted", tags={"stage": "pretrain"})
    interrupted.finish("KILLED")
    return store


def insert(database, table, rows):
    """Insert rows, given as dictionaries with the same keys."""
    names = ", ".join(rows[0])
    marks = ", ".join("?" * len(rows[0]))
    values = [tuple(row.values()) for row in rows]
    database.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", values)


def many_runs(store, count):
    """Insert older runs of other studies, each with a registered model version."""
    studies = {f"study{number}": 0 for number in range(-(-count // PER_STUDY))}
    studies = {name: int(store.experiment(name)) for name in studies}
    numbers = dict.fromkeys(("start_time", "end_time"), 1_600_000_000_000)
    words = dict.fromkeys(("source_name", "entry_point_name", "source_version"), "")
    words |= {"source_type": "LOCAL", "user_id": "medmim", "status": "FINISHED", "lifecycle_stage": "active"}
    made = dict.fromkeys(("creation_time", "last_updated_time"), 1_600_000_000_000)
    with sqlite3.connect(store.home / DATABASE) as database:
        models = [f"model{number}" for number in range(-(-count // PER_MODEL))]
        insert(database, "registered_models", [{"name": name} | made for name in models])
        for number in range(count):
            study, run_id = f"study{number // PER_STUDY}", f"{number:032x}"
            own = {"run_uuid": run_id}
            address = f"{store.artifacts.as_uri()}/{study}/{run_id}/artifacts"
            place = {"name": "run", "artifact_uri": address, "experiment_id": studies[study]}
            insert(database, "runs", [own | numbers | words | place])
            tags = {**TAGS, "dataset_hash": study, "study": study, "stage": "finetune", DIGEST: run_id}
            tags |= {"arm": "mae", "role": "cell", "seed": "0", "metric": "dice"}
            insert(database, "tags", [own | {"key": key, "value": tags[key]} for key in tags])
            insert(database, "params", [own | {"key": f"setting{n}", "value": "1"} for n in range(40)])
            point = own | {"value": 1.0, "timestamp": 0, "is_nan": False}
            insert(database, "latest_metrics", [point | {"key": f"m{n}", "step": 0} for n in range(20)])
            insert(database, "metrics", [point | {"key": "loss", "step": n} for n in range(POINTS)])
            version = {"name": models[number // PER_MODEL], "version": number % PER_MODEL + 1} | made
            version |= {"source": f"{address}/model", "run_id": run_id, "status": "READY"}
            insert(database, "model_versions", [version | {"current_stage": "None"}])
    database.close()


def quiet(_line):
    """Ignore a line for the user."""


def register(home):
    """Register a model version of a new run, as a fine-tuning does at its end."""
    store = Store(home)
    run = store.begin(experiment="quick", name="n", tags={"stage": "pretrain"})
    store.register(model="scans-segment", run_id=run.run_id, tags={}, alias="challenger")


STEPS = {
    "open the store": lambda home: Store(home, reading=True),
    "compare: runs like the newest": lambda home: find_runs(Store(home, reading=True), ()),
    "compare: newest study": newest_study,
    "compare --study": lambda home: compare_study("quick", home=home),
    "predict: default model": lambda home: find_model(None, home, quiet),
    "predict --model NAME": lambda home: find_model("scans-segment", home, quiet),
    "finetune --init RUN": lambda home: Store(home).runs(begins_with("abc")),
    "finetune: newest pretraining": lambda home: Store(home).runs(FINISHED, limit=1, stage="finetune"),
    "pretrain --resume": lambda home: find_unfinished(Store(home), "pretrain", "latest"),
    "study: finished trainings": lambda home: Store(home).tagged(DIGEST, {"digest1", "digest2"}),
    "study: its runs": lambda home: StudyRuns(Store(home), "quick"),
    "start a run": lambda home: Store(home).begin(experiment="quick", name="n", tags={"stage": "pretrain"}),
    "register a model": register,
    "ui: addresses": lambda home: pages(home, port=5000),
}
COMMANDS = (("models",), ("runs",), ("runs", "--sort", "score"), ("report",), ("compare", "--study", "quick"))


def step_seconds(home):
    """Return the processor seconds of each step, the median of some repeats."""
    found = {}
    for name, step in STEPS.items():
        spent = []
        for _ in range(REPEATS + 1):
            begun = time.process_time()
            step(home)
            spent.append(time.process_time() - begun)
        found[name] = statistics.median(spent[1:])
    return found


def command_seconds(home):
    """Return the processor seconds of each command with all its imports."""
    found = {}
    for words in COMMANDS:
        spent = []
        for _ in range(COMMAND_REPEATS + 1):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(
                [sys.executable, "-m", "medmim", *words],
                env={**os.environ, "MEDMIM_HOME": str(home)},
                stdout=subprocess.DEVNULL,
                check=True,
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        found[" ".join(("medmim", *words))] = statistics.median(spent[1:])
    return found


def main(*counts):
    """Measure the small store and one of each size, and write the table."""
    table = {}
    for count in (0, *map(int, counts or (3000, 10000))):
        home = Path(tempfile.mkdtemp())
        store = few_runs(home)
        if count:
            many_runs(store, count)
        table[count] = step_seconds(home) | command_seconds(home)
        shutil.rmtree(home)
    small = table.pop(0)
    rows = [
        {"command": name, f"runs_{FEW}": round(small[name], 3)}
        | {f"runs_{FEW + count}": round(found[name], 3) for count, found in table.items()}
        | {f"ratio_{FEW + count}": round(found[name] / small[name], 2) for count, found in table.items()}
        for name in small
    ]
    Path("docs/results/store_growth.json").write_text(json.dumps(rows, indent=1) + "\n")
    sys.stdout.write("\n".join(" ".join(map(str, row.values())) for row in rows) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
