"""Measure commands on a store of few runs and on one of thousands that belong to other studies.

PYTHONPATH=tests/helpers python -m tests.benchmarks.store_growth [RUNS]

Writes docs/results/store_growth.json: processor seconds on each store, medians of runs that alternate between
the two, and their ratio. Steps run in one process (the parts of commands that ask the store); commands run as
the user starts them, trainings with one step.
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

import nibabel
import numpy as np
import tiny

from medmim.config.study import DIGEST
from medmim.errors import RunError
from medmim.stages.compare import compare_study, newest_study
from medmim.stages.model_lookup import find_model
from medmim.stages.resumption import find_unfinished
from medmim.stages.ui import pages
from medmim.tracking.comparison.runs import CASES, find_runs
from medmim.tracking.database import DATABASE
from medmim.tracking.mlflow_store import FINISHED, Store
from medmim.tracking.run_ids import INIT
from medmim.tracking.study_runs import StudyRuns

TAGS = {"dataset_hash": "d", "dataset": "scans", "split_hash": "s", "task": "segment", "labelled": "3"}
FEW, PER_STUDY, PER_MODEL, POINTS = 5, 20, 200, 50
REPEATS = 9
QUICK, SLOW = 7, 2  # repeats of commands without and with PyTorch
WITHOUT_TORCH = ("models", "runs", "report", "clean")
TRAINING = (*tiny.TINY_WORDS, "--steps", "1", "--set", "num_evaluations=1")


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


def named_run(home):
    """Look for a run by the beginning of its id, which need not exist."""
    with contextlib.suppress(RunError):
        Store(home).named("abc", INIT)


STEPS = {
    "open the store": lambda home: Store(home, reading=True),
    "compare: runs like the newest": lambda home: find_runs(Store(home, reading=True), ()),
    "compare: newest study": newest_study,
    "compare --study": lambda home: compare_study("quick", home=home),
    "predict: default model": lambda home: find_model(None, home, quiet),
    "predict --model NAME": lambda home: find_model("scans-segment", home, quiet),
    "finetune --init RUN": named_run,
    "finetune: newest pretraining": lambda home: Store(home).runs(FINISHED, limit=1, stage="finetune"),
    "pretrain --resume": lambda home: find_unfinished(Store(home), "pretrain", "latest"),
    "study: finished trainings": lambda home: Store(home).tagged(DIGEST, {"digest1", "digest2"}),
    "study: its runs": lambda home: StudyRuns(Store(home), "quick"),
    "start a run": lambda home: Store(home).begin(experiment="quick", name="n", tags={"stage": "pretrain"}),
    "register a model": register,
    "ui: addresses": lambda home: pages(home, port=5000),
}


def commands(place):
    """Return the words of commands; each is run on both stores alike."""
    data = ("--data", str(place / "scans"))
    return (
        ("models",),
        ("runs",),
        ("runs", "--sort", "score"),
        ("report",),
        ("clean",),
        ("compare", "--study", "quick"),
        ("pack", "quick", "--out", str(place / "quick.zip")),
        ("pretrain", *data, *TRAINING),
        ("finetune", "segment", *data, *TRAINING),
        ("predict", str(place / "scan.nii.gz"), "--model", "tiny-segment", "--out", str(place / "predicted")),
        ("doctor", *data),
    )


def step_seconds(step, home):
    """Return the processor seconds of a step in this process."""
    begun = time.process_time()
    step(home)
    return time.process_time() - begun


def command_seconds(words, home):
    """Return the processor seconds of a command with all its imports."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "MEDMIM_HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "medmim", *words]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(command, env=environment, check=words[0] != "doctor", **quiet)  # it may find a full disk
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def row(name, measure, homes, repeats):
    """Measure on both stores in turn."""
    spent = [[measure(home) for home in homes] for _ in range(repeats)]
    small, large = (statistics.median(column) for column in zip(*spent, strict=True))
    found = {
        "command": name,
        "few": round(small, 3),
        "many": round(large, 3),
        "ratio": round(large / small, 2),
    }
    sys.stdout.write(f"{found}\n")
    sys.stdout.flush()
    return found


def prepare(place, count):
    """Make data and the two stores below a folder; return their home folders."""
    tiny.make_dataset(place / "scans", patients=10)
    image = tiny.blob(np.random.default_rng(0), tiny.SHAPE)[0]
    nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), place / "scan.nii.gz")
    small, large = place / "small", place / "large"
    few_runs(small)
    for words in commands(place)[7:9]:  # a pretraining, and a model from it
        command_seconds(words, small)
    shutil.copytree(small, large)
    many_runs(Store(large), count)
    return small, large


def main(count=10000):
    """Measure the two stores and write the table."""
    place = Path(tempfile.mkdtemp())
    homes = prepare(place, int(count))
    sizes = [len(Store(home, reading=True).run_ids()) for home in homes]
    rows = [
        row(name, lambda home, step=step: step_seconds(step, home), homes, REPEATS)
        for name, step in STEPS.items()
    ]
    rows += [
        row(
            f"medmim {' '.join(words[:1] if '--data' in words or '--out' in words else words)}",
            lambda home, words=words: command_seconds(words, home),
            homes,
            QUICK if words[0] in WITHOUT_TORCH else SLOW,
        )
        for words in commands(place)
    ]
    content = {"runs": dict(zip(("few", "many"), sizes, strict=True)), "rows": rows}
    Path("docs/results/store_growth.json").write_text(json.dumps(content, indent=1) + "\n")
    shutil.rmtree(place)


if __name__ == "__main__":
    main(*sys.argv[1:])
