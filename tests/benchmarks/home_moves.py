"""Copy a home folder with a study of 20 trainings, make the old one unreadable, and run every command.

PYTHONPATH=tests/helpers python -m tests.benchmarks.home_moves

Writes docs/results/home_moves.json: what each command answers, whether anything was written to the old place,
and the disk space of the home folder. Needs root, which becomes a user who cannot read the old place.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch

from medmim.tracking.mlflow_store import Store
from tests.benchmarks.store_tidying import commands, given_away, in_fork, outcome, prepare

GRID = {"masks": ["random", "mesh"], "ratios": [0.5, 0.7], "seeds": [0, 1]}


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
    return sum("seed" in run.data.tags for run in Store(home).runs("attributes.status = 'FINISHED'"))


def main():
    """Move a home folder and write the table."""
    torch.set_num_threads(1)
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    old = Path(in_fork(lambda: str(prepare(place, **GRID))))
    count = in_fork(trainings, old)
    space = {path.name: megabytes(path) for path in sorted(old.iterdir()) if path.is_dir()}
    content = {"trainings": count, "disk_mb": megabytes(old), "disk_mb_by_folder": space}
    new = given_away(shutil.copytree(old, place / "copied"))
    before = contents(old)
    old.chmod(0)
    fault = "other place, old one unreadable"
    found = {name: outcome(words, new, fault) for name, words in commands(place, **GRID).items()}
    old.chmod(0o700)
    content |= {"commands": found, "old_place_unchanged": contents(old) == before}
    Path("docs/results/home_moves.json").write_text(json.dumps(content, indent=1) + "\n")
    sys.stdout.write(json.dumps(content, indent=1) + "\n")
    shutil.rmtree(place)


if __name__ == "__main__":
    os.umask(0o077)
    main()
