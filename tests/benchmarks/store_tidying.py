"""Let a user, `mlflow gc` or the machine change a store, then run every command on it.

PYTHONPATH=tests/helpers python -m tests.benchmarks.store_tidying [--moved]

Each act is done to a copy of a home folder with a finished study of one mask and its control; then the
commands run as a user starts them, with real trainings of one step. Writes docs/results/store_tidying.json:
for every act and command, `works` or the line that the user reads; and how many finished runs are gone that
the act left there. `--moved` copies a home folder with a study of 20 trainings, takes the old one away,
and writes docs/results/home_moves.json: the answers of the commands, whether anything was written to the old
place, and the disk space of the home folder. Needs root, which mounts small and read-only disks.
"""

import collections
import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import nibabel
import numpy as np
import store_faults
import tiny
import torch
from forked_command import run_forked

from medmim.config.study import StudySettings
from medmim.errors import RunError
from medmim.stages.clean import delete_runs
from medmim.stages.doctor.repair import repair_store
from medmim.stages.finetune.run import finetune  # noqa: F401 (imported before the forks)
from medmim.stages.predict.run import predict  # noqa: F401
from medmim.stages.study.engines import LocalEngine
from medmim.stages.study.runner import study
from medmim.stages.study.training_process import run_here
from medmim.stages.ui import pages
from medmim.tracking.database import DATABASE, uri_of
from medmim.tracking.mlflow_store import Store
from medmim.tracking.run_ids import ORIGIN

RESULTS = Path("docs/results").resolve()
STUDY, MODEL = "tidy", "tiny-segment"
TRAINING = {**tiny.TINY, "steps": 1, "num_evaluations": 1}
GRID = {"masks": ["random", "mesh"], "ratios": [0.7], "seeds": [0, 1, 2, 3]}  # of --moved: 20 trainings
WORDS = (*tiny.TINY_WORDS, "--steps", "1", "--set", "num_evaluations=1")


def nothing(_store):
    """Leave the store as it is; the fault is one of the machine."""


def on_database(change):
    """Return an act on the file of the database."""
    return lambda store: change(store.home / DATABASE)


def another_program(database):
    """Replace the database by one of another program."""
    database.unlink()
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")


ACTS = {
    **store_faults.tidying(STUDY, MODEL),
    "older MLflow": on_database(store_faults.downgrade),
    "newer MLflow": on_database(lambda path: store_faults.set_schema(path, "ffffffffffff")),
    "database damaged": on_database(store_faults.damage),
    "database of another program": on_database(another_program),
    "database deleted": on_database(Path.unlink),
    "database locked": nothing,
    "no flock": nothing,
    "disk full": nothing,
    "home read-only": nothing,
    "home is a file": lambda store: (shutil.rmtree(store.home), store.home.write_text("a file")),
    "other place, old one gone": nothing,
}


@contextlib.contextmanager
def locked(home):
    """Lock the database as another process does in the middle of writing."""
    with contextlib.closing(sqlite3.connect(home / DATABASE)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield


@contextlib.contextmanager
def full(home):
    """Put the home folder on a disk that has only a few kilobytes left."""
    parked = shutil.move(home, home.with_name("parked"))
    home.mkdir()
    size = sum(one.stat().st_size for one in parked.rglob("*") if one.is_file())
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={2 * size + (4 << 20)}", "tmpfs", home], check=True)
    try:
        shutil.copytree(parked, home, dirs_exist_ok=True)
        free = shutil.disk_usage(home).free
        (home / "filler").write_bytes(bytes(max(free - (8 << 10), 0)))
        yield
        (home / "filler").unlink()
        kept = shutil.copytree(home, home.with_name("kept"), ignore=shutil.ignore_patterns("*.lock"))
    finally:
        subprocess.run(["umount", home], check=True)
    home.rmdir()
    shutil.move(kept, home)


def without_flock():
    """Let locks fail as on a network folder."""
    return mock.patch.object(fcntl, "flock", side_effect=OSError(errno.ENOLCK, "No locks available"))


@contextlib.contextmanager
def read_only(home):
    """Mount the home folder read-only."""
    subprocess.run(["mount", "--bind", home, home], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", home], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", home], check=True)


@contextlib.contextmanager
def taken_away(old):
    """Rename a folder; raise if the commands meanwhile made a new one in its place."""
    aside = old.rename(old.with_name("aside"))
    yield
    if old.exists():
        raise SystemExit(f"{old} was made again")
    aside.rename(old)


def commands(place, **grid):
    """Return the commands, as words or as a function where the command does not end."""
    data = ("--data", str(place / "scans"))
    return {
        "pretrain": ("pretrain", *data, *WORDS),
        "finetune": ("finetune", "segment", *data, *WORDS),  # from the newest pretraining
        "study": lambda home: start_study(place, home, **grid),
        "compare": ("compare", "--study", STUDY),
        "predict": ("predict", str(place / "scan.nii.gz"), "--out", "OUT"),
        "models": ("models",),
        "runs": ("runs",),
        "report": ("report",),
        "sync": ("sync", "--to", uri_of(place / "server" / DATABASE)),
        "ui": lambda home: pages(home, port=5000),
    }


def more_commands(place):
    """Return the commands that `--moved` runs besides; each reads or writes the home folder."""
    data, out, packed = ("--data", str(place / "scans")), place / "answers", str(place / "answers" / "s.zip")
    exported = ("export", *data, "--format")
    return {
        "finetune --resume": ("finetune", "segment", "--resume"),
        "evaluate": ("evaluate", *data, "--model", f"{MODEL}:1", "--out", str(out / "evaluated")),
        "export bundle": (*exported, "bundle", "--out", str(out / "bundle")),
        "export safetensors": (*exported, "safetensors", "--out", str(out / "encoder.safetensors")),
        "embed": ("embed", *data, "--model", f"{MODEL}:1", "--out", str(out / "vectors.parquet")),
        "promote": ("promote", f"{MODEL}:2", "--force", "--why", "it moved"),
        "runs --delete": lambda home: delete_runs(
            [store_faults.run_of(Store(home), stage="pretrain")], home=home
        ),
        "clean --yes": ("clean", "--yes"),
        "pack": ("pack", STUDY, "--out", packed),
        "unpack": ("unpack", packed),
        "doctor --repair": repair_store,
    }


def outcome(words, home, fault):
    """Run a command in a fork; return `works` or its line, `internal` where it is ours to mend."""
    out = tempfile.mkdtemp()
    given = words if callable(words) else [out if word == "OUT" else word for word in words]
    with without_flock() if fault == "no flock" else contextlib.nullcontext():
        code, line = run_forked(given, home)
    shutil.rmtree(out)
    if code == 0:
        return "works"
    bad = code < 0 or "internal error" in line or not line.startswith("medmim: ")
    return f"internal: {line}" if bad else line.removeprefix("medmim: ")


SERVER_ACTS = store_faults.server_acts(STUDY, MODEL)


def healed(place, act):
    """Upload, let someone change the server, and upload again; return the line and what is missing then."""
    words, server = commands(place)["sync"], Store(place / "server")
    first = outcome(words, place / "home", "")
    SERVER_ACTS[act](server)
    second = outcome(words, place / "home", "")
    copies = {run.data.tags.get(ORIGIN) for run in server.runs()}
    missing = set(Store(place / "home").run_ids()) - copies
    return [second if first == "works" else first, len(missing)]


def finished(home):
    """Return the ids of finished trainings."""
    runs = Store(home).runs("attributes.status = 'FINISHED'")
    return {run.info.run_id for run in runs if "seed" in run.data.tags}  # not those that describe a study


def in_fork(function, *words):
    """Call a function in a fork, since MLflow keeps connections; return its printed result."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, json.dumps(function(*words)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        text = stream.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else None


def act_on(home, act):
    """Do an act and return the finished runs that it left."""
    store = Store(home)
    before = finished(home)
    ACTS[act](store)
    if not store.home.is_dir() or act.startswith(("older", "newer", "database")):
        return sorted(before)
    return sorted(finished(home))


def lost(home, before):
    """Repair a store and return how many finished runs are gone."""
    if not home.is_dir():
        return 0
    try:
        repair_store(home)
        return len(set(before) - finished(home))
    except RunError:  # of a newer MLflow or of another program: left as it is
        return "not repaired"


def clean(line, place):
    """Return a line without the paths of this machine."""
    line = re.sub(re.escape(str(place)) + r"[^' ]*", "PATH", line)
    return re.sub(r"[0-9a-f]{32}", "RUN", re.sub(r"/[^' ]*/", "", line))


def faults(act, home):
    """Return what lasts while the commands run."""
    if act == "database locked":
        return locked(home)
    if act == "disk full":
        return full(home)
    if act == "home read-only":
        return read_only(home)
    if act.startswith("other place"):
        return taken_away(home.parents[1] / "home")
    return contextlib.nullcontext()


def start_study(place, home, **grid):
    """Start the study; trainings that are missing run in this process."""
    words = {"name": STUDY, "masks": ["mesh"], "pretrain": TRAINING, "finetune": TRAINING, **grid}
    settings = StudySettings.model_validate({**words, "data": place / "scans"})
    study(settings, home=home, engine=LocalEngine(run_here), timer=lambda _: 1.0, log=str)


def prepare(place, **grid):
    """Make the data, the study and a server below a folder; return the home folder."""
    tiny.make_dataset(place / "scans", patients=10)
    image = tiny.blob(np.random.default_rng(0), tiny.SHAPE)[0]
    nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), place / "scan.nii.gz")
    home = place / "home"
    start_study(place, home, **grid)
    client = Store(home).client
    client.set_registered_model_alias(MODEL, "champion", "1")
    Store(place / "server")
    return home


def contents(folder):
    """Return path, size and time of every file."""
    found = [(path, path.stat()) for path in sorted(folder.rglob("*"))]
    return [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in found]


def megabytes(folder):
    """Return the space of a folder on the disk; hard links count once."""
    found = {path.stat().st_ino: path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file()}
    return round(sum(found.values()) / 1e6, 1)


def trainings(home):
    """Return the number of finished trainings."""
    return len(finished(home))


def write(table, gone):
    """Write the table, with the acts of an earlier run that were not repeated."""
    path = RESULTS / "store_tidying.json"
    old = json.loads(path.read_text()) if path.exists() else {"table": {}, "finished_runs_lost": {}}
    table, gone = old["table"] | table, old["finished_runs_lost"] | gone
    cells = [cell for row in table.values() for cell in row.values()]
    kinds = collections.Counter(
        "works" if cell == "works" else "internal" if cell.startswith("internal") else "one line"
        for cell in cells
    )
    content = {"cells": dict(kinds), "finished_runs_lost": gone, "table": table}
    path.write_text(json.dumps(content, indent=1) + "\n")
    sys.stdout.write(f"{list(table)[-1]}: {dict(kinds)}\n")
    sys.stdout.flush()


def move():
    """Move the home folder of a larger study and write the table."""
    torch.set_num_threads(1)
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    old = Path(in_fork(lambda: str(prepare(place, **GRID))))
    count = in_fork(trainings, old)
    space = {path.name: megabytes(path) for path in sorted(old.iterdir()) if path.is_dir()}
    content = {"trainings": count, "disk_mb": megabytes(old), "disk_mb_by_folder": space}
    new = shutil.copytree(old, place / "copied")
    before = contents(old)
    with taken_away(old):
        answers = commands(place, **GRID) | more_commands(place)
        found = {name: outcome(words, new, "") for name, words in answers.items()}
    content |= {"commands": found, "old_place_unchanged": contents(old) == before}
    (RESULTS / "home_moves.json").write_text(json.dumps(content, indent=1) + "\n")
    sys.stdout.write(json.dumps(content, indent=1) + "\n")
    shutil.rmtree(place)


def tidy(act, place):
    """Do an act on a copy of the home folder and run every command; return the row and the lost runs."""
    home = place / "work" / "home"
    shutil.copytree(place / "home", home)
    before = in_fork(act_on, home, act)
    if act.startswith("other place"):
        home = home.rename(place / "work" / "moved")
    with faults(act, home):
        row = {name: clean(outcome(words, home, act), place) for name, words in commands(place).items()}
    gone = in_fork(lost, home, before)
    shutil.rmtree(place / "work")
    return row, gone


def main():
    """Do every act and write the table."""
    torch.set_num_threads(1)
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    os.chdir(place)  # MLflow stores artifacts of a server without a folder of its own in the working folder
    in_fork(lambda: str(prepare(place)))
    for act in sys.argv[1:] or (*ACTS, *(f"on the server: {name}" for name in SERVER_ACTS)):
        if act in ACTS:
            row, gone = tidy(act, place)
        else:
            line, gone = in_fork(healed, place, act.removeprefix("on the server: "))
            row = {"sync": clean(line, place)}
        write({act: row}, {act: gone})
    shutil.rmtree(place)


if __name__ == "__main__":
    move() if sys.argv[1:] == ["--moved"] else main()
